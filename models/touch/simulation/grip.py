"""Grasps of a thing: the pose in which thumb and fingers close on it, or in which the index finger lies on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation.hand import RIGHT, TIP, Pose
from tocsin.models.touch.simulation.things import Thing

Array = NDArray[np.float64]

PRESS = 0.3
"""How much narrower a grasp is than the thing, cm, because flesh yields."""


def grip(
    thing: Thing,
    place: Array,
    yaw: float,
    hand: int,
    rng: np.random.Generator,
    *,
    above: bool | None = None,
    along: float | None = None,
) -> Pose:
    """The pose of a closed grasp.

    Args:
        thing: the thing to grasp.
        place: `[3]`, position of its foot, cm.
        yaw: its yaw, rad.
        hand: left or right.
        rng: generator of the person's random choices.
        above: whether to grasp from above or from the side; by default drawn. A thing that is not tall and round is always grasped
            from above.
        along: where to grasp along its longer side, cm from the middle; by default at its handle.
    """
    along = thing.handle if along is None else along
    longer = yaw if thing.lies or thing.half[0] > thing.half[1] else yaw + np.pi / 2
    spot = place[:2] + along * np.array([np.cos(longer), np.sin(longer)])
    tall = thing.height > 7 and thing.round
    above = not tall or (rng.random() < 0.35 if above is None else above)
    low = (
        max(TIP + 0.05, thing.height - rng.uniform(0.8, 1.4))
        if above
        else max(4.2, thing.height * rng.uniform(0.4, 0.6))
    )
    low = min(low, thing.height / 2) if thing.lies else low
    heading = _natural(spot, hand) + rng.normal(0, 0.15)
    oppose = float(rng.uniform(0.6, 1.0) if above else rng.uniform(0.45, 0.75))
    mirror = 1 if hand == RIGHT else -1
    if not thing.round:  # put thumb and fingers on opposite sides
        turn = mirror * (heading - longer)
        oppose = float(np.clip((turn - 0.8 + np.pi / 2) % np.pi - np.pi / 2 + 0.8, 0.3, 1.3))
        heading += mirror * ((oppose - turn + np.pi / 2) % np.pi - np.pi / 2)
    width, _ = thing.section(along, low)
    return Pose(
        x=float(spot[0]),
        y=float(spot[1]),
        z=float(place[2] + low),
        heading=heading,
        pitch=float(rng.uniform(0.12, 0.38) if above else rng.uniform(0.1, 0.3)),
        roll=float(rng.uniform(0.0, 0.3) if above else rng.uniform(1.2, 1.45)),
        oppose=oppose,
        aperture=width + 2 * TIP - PRESS,
        reach=float(rng.uniform(10.8, 11.6) if above else rng.uniform(11.5, 12.5)),
        aside=4.9 if above else min(max(thing.half) + 2.0, 6.0),
    )


def finger(thing: Thing, place: Array, yaw: float, hand: int, rng: np.random.Generator) -> Pose:
    """The pose of an index finger that lies on a thing; arguments as in `grip`."""
    spot = place[:2] + thing.handle * np.array([np.cos(yaw), np.sin(yaw)])
    _, top = thing.section(thing.handle, thing.height / 2)
    return Pose(
        x=float(spot[0]),
        y=float(spot[1]),
        z=float(place[2] + top + TIP - PRESS / 2),
        heading=_natural(spot, hand) + rng.normal(0, 0.2),
        pitch=float(rng.uniform(0.75, 1.0)),
        roll=float(rng.uniform(0.1, 0.6)),
        aperture=5.0,
        point=1.0,
        reach=float(rng.uniform(16, 17.3)),
    )


def _natural(spot: Array, hand: int) -> float:
    """The heading of a hand whose forearm comes from its own side."""
    mirror = 1 if hand == RIGHT else -1
    return float(np.arctan2(mirror * 16 - spot[0], spot[1] + 30))
