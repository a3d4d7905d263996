"""Paths of a camera: it heads for one place after the other, looks about, and is shaken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.models.pose.simulation.world import Room, SeaFloor, World

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The camera's pose in each frame.

    Args:
        place: `[T, 3]`, m.
        turn: `[T, 3, 3]`, from the camera's axes to the world's.
    """

    place: Array
    turn: Array

    def first(self, count: int) -> Path:
        """Its first frames."""
        return Path(self.place[:count], self.turn[:count])

    def steps(self) -> tuple[Array, Array]:
        """From each frame to the frame before: rotation `[T, 3, 3]` and shift `[T, 3]`; no motion for the first frame."""
        back = self.turn.transpose(0, 2, 1)
        turns, shifts = np.tile(np.eye(3), (len(self.place), 1, 1)), np.zeros_like(self.place)
        turns[1:] = back[:-1] @ self.turn[1:]
        shifts[1:] = (back[:-1] @ np.diff(self.place, axis=0)[..., None])[..., 0]
        return turns, shifts


def turned(yaw: Array, pitch: Array, roll: Array) -> Array:
    """Rotations `[T, 3, 3]` from the camera's axes to the world's; a positive pitch looks up."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))

    def matrix(*rows: list[Array]) -> Array:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    about_y = matrix([cy, zero, sy], [zero, one, zero], [-sy, zero, cy])
    about_x = matrix([one, zero, zero], [zero, cp, -sp], [zero, sp, cp])
    about_z = matrix([cr, -sr, zero], [sr, cr, zero], [zero, zero, one])
    return about_y @ about_x @ about_z


def walk(world: World, count: int, rate: float, rng: np.random.Generator) -> Path:
    """Draw a path of `count` frames at `rate` frames a second through a world."""
    sea = isinstance(world, SeaFloor)
    speed, lag = rng.uniform(0.2, 0.8), np.exp(-1 / (rate * rng.uniform(0.5, 1.2)))
    here, goal = _free(world, rng, None), _free(world, rng, None)
    velocity, facing = np.zeros(3), rng.uniform(-np.pi, np.pi)
    spin, look = 0.0, rng.normal(0, 0.3)
    places, yaws = np.zeros((count, 3)), np.zeros(count)
    for frame in range(count):
        if np.linalg.norm(goal - here) < 0.5 or rng.random() < 0.1 / rate:
            goal, look = _free(world, rng, here), rng.normal(0, 0.5)
        ahead = goal - here
        wanted = speed * ahead / (np.linalg.norm(ahead) + 1e-9) * (1.0 if rng.random() < 0.98 else 0.2)
        velocity = lag * velocity + (1 - lag) * wanted
        ahead_now = here + velocity / rate
        if not world.clear(ahead_now, 0.25):
            goal, velocity = _free(world, rng, here), -0.3 * velocity
            ahead_now = here + velocity / rate if world.clear(here + velocity / rate, 0.25) else here
        here = ahead_now
        bearing = np.arctan2(goal[0] - here[0], goal[2] - here[2]) + look
        error = (bearing - facing + np.pi) % (2 * np.pi) - np.pi
        spin = lag * spin + (1 - lag) * np.clip(1.2 * error, -0.7, 0.7)
        facing += spin / rate
        places[frame], yaws[frame] = here, facing
    seconds = np.arange(count) / rate
    shake = rng.uniform(0.1, 1.0)
    sway = np.stack([_sway(seconds, rng) for _ in range(6)], 1)
    places = places + shake * (0.06 if sea else 0.015) * sway[:, :3]
    tilt = rng.uniform(-1.2, -0.35) if sea else rng.normal(-0.1, 0.12)
    pitch = tilt + shake * 0.06 * sway[:, 3] + rng.normal(0, 0.001, count)
    return Path(places, turned(yaws + shake * 0.05 * sway[:, 4], pitch, shake * 0.05 * sway[:, 5]))


def _free(world: World, rng: np.random.Generator, here: Array | None) -> Array:
    """A place that a camera may head for."""
    for _ in range(200):
        if isinstance(world, Room):
            place = rng.uniform((0.4, 0.7, 0.4), world.size - (0.4, 0.9, 0.4))
        else:
            middle = np.zeros(3) if here is None else here
            reach = 10 if here is None else 4
            place = np.array([rng.uniform(-reach, reach) + middle[0], 0, rng.uniform(-reach, reach) + middle[2]])
            place = np.clip(place, -25, 25)
            place[1] = -rng.uniform(1.0, 2.8) if here is None else np.clip(middle[1] + rng.normal(0, 0.4), -3, -0.9)
        if world.clear(place, 0.35):
            return np.asarray(place, np.float64)
    raise ValueError("expected a world with room for a camera, got none; draw another one")


def _sway(seconds: Array, rng: np.random.Generator) -> Array:
    """A smooth wave of a few periods, about 1 high."""
    total = np.zeros_like(seconds)
    for _ in range(3):
        total += rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * (seconds / rng.uniform(0.8, 6) + rng.random()))
    return total
