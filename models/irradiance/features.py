"""What the network sees of a site: the trailing hour and the 23 hours of the clock before it, in the site's own sun.

The *clearness* of an hour is its measured irradiance over that of a cloudless sky, both summed over its readings. While the sun is
lower than `LEAST` allows, the last known one stays. It is what smart persistence takes for the next hour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HOUR_MS = 3_600_000
STEPS = 24
"""Steps of a window."""
READINGS = 60
"""Readings of the trailing hour that are kept: one a minute."""
LEAST = 20.0
"""Cloudless irradiance below which a clearness says nothing, W/m2."""
MOST = 1.5
"""Largest clearness: clouds beside the sun reflect, and the cloudless sky is known to some percent."""
AIR = ("dni", "dhi", "temperature", "humidity", "dew_point")
RAW = ("ghi", "clear", "ahead", "clearness", "swing", "height", "hour", "day", *AIR)
"""Columns of a window. `ghi`, `clear`: measured and cloudless irradiance, means over an hour; `ahead`: the cloudless one an hour
later; `swing`: standard deviation of three hours' clearness; `height`: sine of the sun's elevation; `hour`: solar time, 0 to 24;
`day`: of the year, 0 to 1. The rest is the hour's last reading. W/m2, degrees Celsius, %; NaN if unknown."""
_SUMS = ("known", "ghi", "clear", "count", "ahead", "height")


def memory() -> dict[str, tuple[tuple[int, ...], float]]:
    """The state of a site: name -> shape and initial value. All float64."""
    return {
        "trailing": ((READINGS, 4), np.nan),  # time (ms), ghi, clear, ahead; newest last
        "hours": ((STEPS - 1, len(RAW)), np.nan),
        "open": ((len(_SUMS),), 0.0),
        "air": ((len(AIR) + 2,), np.nan),  # of the open hour's last reading, after its solar time and day
        "number": ((), np.nan),  # of the open hour, counted from 1970
        "clearness": ((), np.nan),
    }


def advance(state: Mapping[str, Array], time: Array, given: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Add one reading of each of B sites.

    Args:
        state: of the sites, as in `memory`, `[B, ...]`.
        time: ms since 1970 UTC, the end of the readings' intervals, `[B]`.
        given: `ghi`, `clear`, `ahead`, `height`, `hour`, `day` and `AIR`, `[B]`.

    Returns:
        Windows `[B, STEPS, len(RAW)]`, oldest first, and the next state.
    """
    with np.errstate(all="ignore"):
        return _advance(state, time, given)


def _advance(state: Mapping[str, Array], time: Array, given: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    number = np.ceil(time / HOUR_MS)  # an hour's last reading is the one at its end
    hours, begun, air = _closed(state, number)
    ghi = np.maximum(given["ghi"], 0)
    known = ~np.isnan(ghi)
    now = [
        known,
        np.where(known, ghi, 0),
        np.where(known, given["clear"], 0),
        1 + 0 * time,
        given["ahead"],
        given["height"],
    ]
    sums = begun + np.stack(now, axis=-1)
    latest = np.stack([given["hour"], given["day"], *(given[name] for name in AIR)], axis=-1)
    air = np.where(np.isnan(latest), air, latest)
    trailing = np.roll(state["trailing"], -1, axis=1)
    trailing[:, -1] = np.stack([time, ghi, np.where(known, given["clear"], np.nan), given["ahead"]], axis=-1)
    inside = trailing[:, :, 0] > time[:, None] - HOUR_MS
    last = np.where(inside[:, :, None], trailing, np.nan)
    count = np.isfinite(last[:, :, 1:]).sum(axis=1)
    ghi_now, clear_now, ahead = np.moveaxis(
        np.nansum(last[:, :, 1:], axis=1) / np.where(count > 0, count, np.nan), -1, 0
    )
    clearness = _clearness(ghi_now, clear_now, state["clearness"])
    step = np.stack([ghi_now, clear_now, ahead, clearness, _swing(hours, clearness), given["height"]], axis=-1)
    step = np.concatenate([step, air], axis=-1)
    window = np.concatenate([hours, step[:, None]], axis=1)
    updated = {"trailing": trailing, "hours": hours, "open": sums, "air": air, "number": number, "clearness": clearness}
    return window, updated


def _closed(state: Mapping[str, Array], number: Array) -> tuple[Array, Array, Array]:
    """The hours before hour `number`, and the sums and the air of the open one."""
    hours, sums, air = state["hours"], state["open"], state["air"]
    passed = np.nan_to_num(number - state["number"], nan=0.0)
    if not (passed > 0).any():
        return hours, sums, air
    moves = passed > 0
    total = dict(zip(_SUMS, sums.T, strict=True))
    ghi, clear = total["ghi"] / total["known"], total["clear"] / total["known"]
    clearness = _clearness(ghi, clear, hours[:, -1, RAW.index("clearness")])
    ahead, height = (total[name] / total["count"] for name in ("ahead", "height"))
    step = np.stack([ghi, clear, ahead, clearness, _swing(hours, clearness), height], axis=-1)
    step = np.concatenate([step, air], axis=-1)
    moved = np.where(moves[:, None, None], np.concatenate([hours[:, 1:], step[:, None]], axis=1), hours)
    gap = np.clip(passed - 1, 0, STEPS - 1).astype(np.int64)
    if gap.any():
        place = np.arange(STEPS - 1) + gap[:, None]
        is_there = place < STEPS - 1
        moved = np.take_along_axis(moved, np.minimum(place, STEPS - 2)[:, :, None], axis=1)
        moved = np.where(is_there[:, :, None], moved, np.nan)
    return moved, np.where(moves[:, None], 0, sums), np.where(moves[:, None], np.nan, air)


def _swing(hours: Array, clearness: Array) -> Array:
    """The standard deviation of the clearness of the last two hours and of this one."""
    return np.std([*hours[:, -2:, RAW.index("clearness")].T, clearness], axis=0)


def _clearness(ghi: Array, clear: Array, before: Array) -> Array:
    """The clearness where the sun is high enough, else the one before."""
    return np.where(clear >= LEAST, np.minimum(ghi / clear, MOST), before)
