"""When people are expected in rooms: days and hours as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.models.occupancy.features import Clock
from tocsin.pipelines.runtime import parsed

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOURS = re.compile(r"\d\d?:\d\d-\d\d?:\d\d")


def days_of(text: str) -> set[int]:
    """The days of "mon-fri" or "mon,wed-thu,sun"; 0 is Monday."""
    days = set[int]()
    for part in text.lower().split(","):
        names = part.strip().split("-")
        if len(names) > 2:
            raise ValueError(part)
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        days |= {day % 7 for day in range(first, (last if last >= first else last + 7) + 1)}
    return days


def hours_of(text: str) -> tuple[int, int]:
    """The minutes of the day of "07:00-19:00"."""
    begin, end = (int(part[:-3]) * 60 + int(part[-2:]) for part in text.split("-"))
    if not (HOURS.fullmatch(text) and 0 <= begin < end <= 1440):
        raise ValueError(text)
    return begin, end


Days = Annotated[str, parsed(days_of, "days such as mon-fri")]
Hours = Annotated[str, parsed(hours_of, "hours of one day such as 07:00-19:00")]


class Schedules:
    """When people are expected in each room.

    Args:
        usual: days and hours of all rooms.
        rooms: of those that have their own.
    """

    def __init__(self, usual: tuple[str, str], rooms: Mapping[str, tuple[str, str]]) -> None:
        days, hours = zip(usual, *rooms.values(), strict=True)
        self._rooms = pa.array(list(rooms), pa.string())
        self._begin, self._end = np.array([hours_of(each) for each in hours]).T
        self._days = np.array([[day in days_of(each) for day in range(7)] for each in days])

    def at(self, rooms: pa.Array, clock: Clock) -> np.ndarray:
        """Whether people are expected, `[B] bool`."""
        which = pc.index_in(rooms, value_set=self._rooms).fill_null(-1).to_numpy() + 1  # the usual one is the first
        minute = clock.hour * 60
        hours = (self._begin[which] <= minute) & (minute < self._end[which])
        return hours & self._days[which, clock.weekday]
