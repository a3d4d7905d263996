"""Training of an imputer for a room's sensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
from torch import Tensor

from tocsin.models.imputer.config import ImputerConfig
from tocsin.models.imputer.train import Outcome, Recipe
from tocsin.models.imputer.train import fit as fit_imputer
from tocsin.models.occupancy.data import PROPERTIES

FRESH = "10min"
"""How old the last reading of a sensor may be; sensors of offices send every five minutes or more often."""
CONFIG = ImputerConfig(columns=PROPERTIES, times=48, stride=5, patch=8)
"""Four hours of minutes, of which it sees every fifth."""
RECIPE = Recipe(weight_decay=1e-2, length=(20.0, 600.0), shift=0.3)
HELD = 0.2
"""Share of each room's minutes, the last ones, that judge an imputer."""


def fit(
    grids: Sequence[pl.DataFrame],
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on the minutes of rooms.

    Args:
        grids: `room`, `time` and `PROPERTIES` of each recording, null where there was no reading for `FRESH`.
        recipe, seed, progress: see `tocsin.models.imputer.train.fit`.
    """
    rooms = [room for grid in grids for room in series(grid)]
    cuts = [round((1 - HELD) * len(room)) for room in rooms]
    return fit_imputer(
        [room[:cut] for room, cut in zip(rooms, cuts, strict=True)],
        CONFIG,
        recipe,
        held=[room[cut:] for room, cut in zip(rooms, cuts, strict=True)],
        seed=seed,
        progress=progress,
    )


def series(grid: pl.DataFrame) -> list[Tensor]:
    """The minutes of each room, `[n, C] float64`, NaN where a sensor is missing."""
    parts = grid.sort("room", "time").partition_by("room", maintain_order=True)
    return [part.select(pl.col(PROPERTIES).cast(pl.Float64).fill_null(float("nan"))).to_torch() for part in parts]
