"""Soiling and shading of a sensor, from its clearness at the same sun, day after day.

The sky is divided into cells of azimuth and elevation. At the end of a solar day the clearness in the cells that the sun passed
tells whether the day was clear: then most of them agree. From the clear days:

- *soiling*: how far the clear level is below the site's own usual one. The usual level follows slowly, so the error of the
  cloudless sky, which changes with the season, counts little; a washed sensor raises it at once.
- *shading*: how far a cell is below the clear level of its day. A cell is only as dark as the brightest of its last visits: clouds
  are not at the same place on every clear day, but a mast is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SECTOR, BAND = 15, 10
"""Degrees of azimuth and of elevation in a cell."""
SECTORS, BANDS = 360 // SECTOR, 90 // BAND
CELLS = SECTORS * BANDS
LOWEST = 10.0
"""Elevation from which a reading counts, degrees: below it the cloudless sky is not known well enough."""
AGREE, SHARE = 0.07, 0.5
"""On a clear day this share of the cells is within `AGREE` of the day's level."""
VISITED = 4
"""Cells that a day needs to be judged."""
LEVEL = 75.0
"""Percentile of a day's cells that is its level: an obstacle may take up less than a quarter of the day's way."""
USUAL = 0.6
"""Least level of a clear day; once the site's usual one is known, `USUAL` of that."""
RECENT = 5
"""Clear days, the best of which is the present level."""
SLOW, FAST = 60.0, 5.0
"""Time constants of the usual level, days: downwards and upwards."""
FALL, RISE = 0.05, 0.01
"""By how much a cell gets darker at most with a visit on a clear day, and brighter on one without a visit."""


def memory() -> dict[str, tuple[tuple[int, ...], float]]:
    """The state of a site: name -> shape and initial value. All float64."""
    numbers = ("day", "clear_day", "usual")
    return {
        **dict.fromkeys(numbers, ((), np.nan)),
        "sums": ((2, CELLS), 0.0),
        "levels": ((RECENT,), np.nan),
        "cells": ((CELLS,), 1.0),
    }


def cell(azimuth: Array, elevation: Array) -> NDArray[np.int64]:
    """The cell of the sky in which the sun stands, `[B]`; -1 below `LOWEST`."""
    sector = np.floor(azimuth / SECTOR).astype(np.int64) % SECTORS
    band = np.clip(np.floor(elevation / BAND), 0, BANDS - 1).astype(np.int64)
    return np.where(elevation >= LOWEST, sector * BANDS + band, -1)


def advance(state: Mapping[str, Array], day: Array, where: NDArray[np.int64], clearness: Array) -> dict[str, Array]:
    """Add one reading of each of B sites.

    Args:
        state: of the sites, as in `memory`, `[B, ...]`.
        day: number of the solar day at the site, `[B]`.
        where: see `cell`.
        clearness: measured irradiance over that of the cloudless sky, `[B]`; NaN if unknown.
    """
    state = dict(state)
    ended = np.flatnonzero(day > state["day"])
    if len(ended):
        closed = _closed({name: values[ended] for name, values in state.items()})
        for name, values in closed.items():
            state[name] = state[name].copy()
            state[name][ended] = values
    state["day"] = np.fmax(state["day"], day)
    counts = np.flatnonzero((where >= 0) & np.isfinite(clearness) & (day == state["day"]))
    if len(counts):
        state["sums"] = state["sums"].copy()
        state["sums"][counts, 0, where[counts]] += clearness[counts]
        state["sums"][counts, 1, where[counts]] += 1
    return state


def _closed(state: Mapping[str, Array]) -> dict[str, Array]:
    """The state of sites whose day has ended."""
    with np.errstate(all="ignore"):
        total, count = state["sums"][:, 0], state["sums"][:, 1]
        seen = total / np.where(count > 0, count, np.nan)
    visited = np.isfinite(seen)
    updated = {name: values.copy() for name, values in state.items()}
    updated["sums"][:] = 0
    for site in np.flatnonzero(visited.sum(1) >= VISITED):
        own = seen[site][visited[site]]
        level = float(np.percentile(own, LEVEL))
        usual = state["usual"][site]
        agree = np.abs(own - level) <= AGREE * level
        least = USUAL if np.isnan(usual) else USUAL * usual
        if level < least or agree.mean() < SHARE:
            continue
        level = float(own[agree].mean())
        levels = np.append(state["levels"][site][1:], level)
        updated["levels"][site] = levels
        present = float(np.nanmax(levels))
        if np.isnan(usual):
            if not np.isnan(levels).any():
                updated["usual"][site] = float(np.median(levels))
        else:
            passed = state["day"][site] - state["clear_day"][site]
            constant = FAST if present > usual else SLOW
            updated["usual"][site] = usual + (present - usual) * -np.expm1(-passed / constant)
        updated["clear_day"][site] = state["day"][site]
        cells, at = updated["cells"][site], visited[site]
        darkest = np.maximum(cells - FALL, np.minimum(seen[site] / level, 1))
        updated["cells"][site] = np.where(at, darkest, np.minimum(cells + RISE, 1))
    return updated


def soiling(state: Mapping[str, Array]) -> Array:
    """The share of the irradiance that is lost against the usual level, `[B]`; NaN until there were enough clear days."""
    known = np.isfinite(state["usual"])
    present = np.nanmax(np.where(np.isnan(state["levels"]), -np.inf, state["levels"]), axis=1)
    return np.where(known, np.clip(1 - present / state["usual"], 0, 1), np.nan)


def shading(state: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """The darkest cell: the share that is lost there, and the middle of its azimuth and elevation in degrees, `[B]` each."""
    darkest = state["cells"].argmin(axis=1)
    lost = 1 - state["cells"][np.arange(len(darkest)), darkest]
    known = np.isfinite(state["clear_day"])
    azimuth, elevation = (darkest // BANDS + 0.5) * SECTOR, (darkest % BANDS + 0.5) * BAND
    none = lost < FALL / 2
    return (
        np.where(known, lost, np.nan),
        np.where(none, np.nan, azimuth),
        np.where(none, np.nan, elevation),
    )
