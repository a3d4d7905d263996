"""Simulated meeting rooms that people book, and holidays of the building: who comes although nobody booked, and who does not come.

Air and sensors are those of `building` and `sensors`. A booking is for a half hour to two hours. Some are not kept, many begin late
or end early, and some meetings are not booked at all. On a holiday nobody comes, and bookings that were made for it stand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from tocsin.models.occupancy.data import PRESENCE, Recording
from tocsin.models.occupancy.simulation.building import DAY, START, Rooms
from tocsin.models.occupancy.simulation.sensors import MINUTE, Line, sensed

KINDS = ("booked", "holiday")
KEPT, UNBOOKED = 0.75, 0.8
"""Share of bookings that are kept; meetings a day without one. One working day in each two weeks is a holiday."""


def simulate(*, rooms: int, days: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Simulate meeting rooms, starting on a Monday.

    Args:
        rooms, days, seed: as in `sensors.simulate`.

    Returns:
        Readings and truth, as `sensors.simulate` returns them, and the intervals: `asset` (the room, or `*`), `kind`, `from`, `to`
        (ms).
    """
    rng = np.random.default_rng(seed)
    drawn = Rooms.draw(rooms, rng)
    drawn = replace(drawn, desks=rng.integers(4, 13, rooms), volume=rng.uniform(50, 150, rooms))
    inside = np.zeros((rooms, days * DAY), np.int64)
    holidays = [week * 7 + int(rng.integers(0, 5)) for week in range(0, days // 7, 2)]
    intervals = [("*", "holiday", day * DAY, (day + 1) * DAY) for day in holidays]
    for room in range(rooms):
        busy = rng.uniform(0.3, 0.8)
        for day in (day for day in range(days) if day % 7 < 5):
            taken = np.zeros(DAY, bool)
            for slot in rng.permutation(np.arange(16, 36)):  # half hours from 8:00 to 18:00
                begin, end = 30 * slot, 30 * (slot + rng.choice([1, 2, 3, 4], p=[0.2, 0.5, 0.2, 0.1]))
                if taken[begin:end].any() or rng.random() > 0.4 * busy:
                    continue
                taken[begin:end] = True
                intervals.append((f"room-{room:03}", "booked", day * DAY + begin, day * DAY + end))
                if day not in holidays and rng.random() < KEPT:
                    _meet(inside[room], day * DAY + begin, day * DAY + end, drawn.desks[room], rng)
            for _ in range(0 if day in holidays else rng.poisson(UNBOOKED)):
                begin = int(rng.uniform(480, 1140))
                _meet(inside[room], day * DAY + begin, day * DAY + begin + int(rng.uniform(15, 90)), 4, rng)
    readings, truth = sensed(drawn, inside, rng, Line())
    schema = {"asset": pl.String, "kind": pl.String, "from": pl.Int64, "to": pl.Int64}
    table = pl.DataFrame(intervals, schema, orient="row")
    return readings, truth, table.with_columns(pl.col("from", "to") * MINUTE + START)


def booked(*, rooms: int, days: int, seed: int) -> tuple[Recording, pl.DataFrame]:
    """`simulate` as a recording, whose truth is a count of people, and its intervals."""
    events, truth, intervals = simulate(rooms=rooms, days=days, seed=seed)
    known = truth.select("room", "time", occupied=pl.col("people") > 0)
    readings = events.select("room", "property", "time", "value").sort("time", maintain_order=True)
    return Recording(readings, known, "UTC", PRESENCE), intervals


def _meet(inside: np.ndarray, begin: int, end: int, most: int, rng: np.random.Generator) -> None:
    """A meeting of up to `most` people, who come early or late, and leave so."""
    for _ in range(rng.integers(1, most + 1)):
        came, left = (
            begin + rng.normal(2, 4),
            end + rng.choice([rng.normal(0, 4), -rng.uniform(0, 0.5) * (end - begin)]),
        )
        inside[max(0, int(came)) : max(0, int(left))] += 1
