"""What a reading means at its site: the sun, the cloudless sky now and in an hour, and whether the reading is possible there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.models.irradiance import sun
from tocsin.models.irradiance.features import HOUR_MS
from tocsin.models.irradiance.sun import DAY_MS

Array = NDArray[np.float64]

YEAR_DAYS = 365.2425
DARK, LIT = -2.0, 20.0
"""While the sun is lower than `DARK` degrees, a reading above `LIT` W/m2 is impossible."""
BY_DAY, BLACK = 60.0, 0.01
"""Where a cloudless sky gives more than `BY_DAY` W/m2, a reading below this share of it is impossible: no cloud is that dark."""
LONGEST = 180.0
"""Longest interval of a mean, minutes."""
VALID = {
    "dni": (-50.0, 1500.0),
    "dhi": (-50.0, 1500.0),
    "temperature": (-95.0, 65.0),
    "humidity": (0.0, 110.0),
    "dew_point": (-95.0, 65.0),
}
"""Values outside of these count as unknown."""
COLD = -30.0
"""A reading below this is impossible; a pyranometer at night may read somewhat less than 0, W/m2."""


@dataclass(frozen=True)
class Moments:
    """B readings with their sun.

    Args:
        time: ms since 1970 UTC, the ends of the intervals.
        now: the sun and the cloudless sky of the interval.
        ahead: the cloudless irradiance of the same interval an hour later, W/m2.
        highest: the sun's highest elevation that a reading may be of, degrees; where the interval is not known, within an hour.
        least: the least cloudless irradiance that it may be of, W/m2.
        solar_time: hours since the site's solar midnight, for each day anew.
        solar_day: number of the solar day.
        measured: `ghi` and `AIR`; NaN where unknown.
    """

    time: Array
    now: sun.Expected
    ahead: Array
    highest: Array
    least: Array
    solar_time: Array
    solar_day: Array
    measured: Mapping[str, Array]

    @classmethod
    def of(cls, columns: Mapping[str, Array]) -> Moments:
        """Readings with the columns `time`, `latitude`, `longitude`, `elevation`, `averaged`, `ghi` and `AIR`, `[B]` float64."""
        time, averaged = columns["time"], np.clip(np.nan_to_num(columns["averaged"]), 0, LONGEST)
        place = (columns["latitude"], columns["longitude"], columns["elevation"])
        air = {
            name: np.where((low <= (v := columns[name])) & (v <= high), v, np.nan)
            for name, (low, high) in VALID.items()
        }
        water = sun.water(air["temperature"], air["humidity"], place[2])
        solar = (time - averaged * 30_000) / DAY_MS + place[1] / 360
        now, ahead = (sun.expected(time + hours * HOUR_MS, averaged, place, water) for hours in (0, 1))
        highest, least = now.highest, now.ghi
        unknown = np.isnan(columns["averaged"])  # it may be a mean of the hour before or after
        if unknown.any():
            near = (now, ahead, sun.expected(time - HOUR_MS, averaged, place, water))
            highest = np.where(unknown, np.max([each.highest for each in near], axis=0), highest)
            least = np.where(unknown, np.min([each.ghi for each in near], axis=0), least)
        return cls(
            time,
            now=now,
            ahead=ahead.ghi,
            highest=highest,
            least=least,
            solar_time=np.mod(solar, 1) * 24,
            solar_day=np.floor(solar),
            measured={"ghi": columns["ghi"], **air},
        )

    @property
    def given(self) -> dict[str, Array]:
        """What `features.advance` takes; an impossible reading is an unknown one."""
        day = np.mod(self.time / DAY_MS, YEAR_DAYS) / YEAR_DAYS
        height = self.now.sun.height
        known = {"clear": self.now.ghi, "ahead": self.ahead, "height": height, "hour": self.solar_time, "day": day}
        return {**known, **self.measured, "ghi": np.where(self.impossible, np.nan, self.measured["ghi"])}

    @property
    def clearness(self) -> Array:
        """Measured over cloudless irradiance; NaN where either says nothing."""
        with np.errstate(all="ignore"):
            usable = (self.now.ghi > LIT) & ~self.impossible
            return np.where(usable, self.measured["ghi"] / self.now.ghi, np.nan)

    @property
    def impossible(self) -> NDArray[np.bool_]:
        """Whether a reading cannot be: light at night, darkness by day, or more than the sun gives.

        Then clock, place or unit are wrong. The sun gives at most 1.5 times the irradiance outside the atmosphere and 100 W/m2
        (after Long and Dutton, BSRN, 2002).
        """
        ghi = self.measured["ghi"]
        at_night = (self.highest < DARK) & (ghi > LIT)
        by_day = (self.least > BY_DAY) & (ghi < BLACK * self.least)
        return at_night | by_day | (ghi > 1.5 * self.now.outside + 100) | (ghi < COLD)
