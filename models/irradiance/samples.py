"""Windows and truth of recordings, offline: the same windows as the pipeline's stages make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.irradiance.data import COLUMNS
from tocsin.models.irradiance.features import HOUR_MS, RAW, STEPS, advance, memory
from tocsin.models.irradiance.inputs import NIGHT, column
from tocsin.models.irradiance.readings import Moments
from tocsin.models.irradiance.sun import DAY_MS

RAMP = 150.0
"""A ramp: the mean irradiance of the next hour is this much below smart persistence, W/m2."""
BLOCK, HELD = 60, 10
"""Of each `BLOCK` days the last `HELD` are held out."""


@dataclass(frozen=True)
class Samples:
    """N windows in the order of site and time.

    Args:
        site: names, `[N]`.
        time: ms since 1970 UTC, `[N] int64`.
        windows: `[N, STEPS, len(RAW)] float32`.
        target: mean irradiance of the hour that follows, W/m2, `[N] float32`; NaN if it is not known.
    """

    site: NDArray[np.object_]
    time: NDArray[np.int64]
    windows: Tensor
    target: Tensor

    @classmethod
    def of(cls, table: pl.DataFrame) -> Self:
        """The samples of readings with the columns of the readers."""
        table = table.sort("site", "time")
        columns = {name: table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in COLUMNS[1:]}
        sizes = table.group_by("site", maintain_order=True).len()["len"].to_numpy()
        starts = np.cumsum(sizes) - sizes
        given = Moments.of(columns).given
        state = {name: np.full((len(sizes), *shape), fill) for name, (shape, fill) in memory().items()}
        windows = np.empty((len(table), STEPS, len(RAW)), np.float32)
        order = np.argsort(-sizes, kind="stable")
        for row in range(int(sizes.max(initial=0))):
            live = order[: int((sizes[order] > row).sum())]
            at = starts[live] + row
            window, updated = advance(
                {name: values[live] for name, values in state.items()},
                columns["time"][at],
                {name: values[at] for name, values in given.items()},
            )
            windows[at] = window
            for name, values in updated.items():
                state[name][live] = values
        target = [
            following(columns["time"][a : a + n], columns["ghi"][a : a + n]) for a, n in zip(starts, sizes, strict=True)
        ]
        return cls(
            table["site"].to_numpy(),
            table["time"].to_numpy(),
            torch.from_numpy(windows),
            torch.from_numpy(np.concatenate([*target, np.empty(0)]).astype(np.float32)),
        )

    def __len__(self) -> int:
        return len(self.time)

    def keep(self, mask: NDArray[np.bool_]) -> Samples:
        """The samples where `mask` `[N]` is true."""
        return Samples(self.site[mask], self.time[mask], self.windows[mask], self.target[mask])

    @property
    def by_day(self) -> NDArray[np.bool_]:
        """Whether the truth is known and the sun is up in the hour that follows, `[N]`."""
        known = ~self.target.isnan() & ~self.persistence.isnan()
        return (known & (column(self.windows, "ahead")[:, -1] >= NIGHT)).numpy()

    @property
    def held(self) -> NDArray[np.bool_]:
        """Whether a sample is held out for validation, `[N]`: in the last days of a block, or of a site with fewer days."""
        held = self.time // DAY_MS % BLOCK >= BLOCK - HELD
        for site in np.unique(self.site):
            own = self.site == site
            first, last = self.time[own].min(), self.time[own].max()
            if last - first < BLOCK * DAY_MS:
                held[own] = self.time[own] > last - (last - first) * HELD / BLOCK
        return held

    @property
    def persistence(self) -> Tensor:
        """Smart persistence: the last clearness under the cloudless sky of the hour that follows, W/m2, `[N]`."""
        return column(self.windows, "clearness")[:, -1] * column(self.windows, "ahead")[:, -1]

    @property
    def ramp(self) -> Tensor:
        """Whether the hour that follows is a ramp, `[N] bool`."""
        return self.target < self.persistence - RAMP


def following(time: NDArray[np.float64], ghi: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the readings of the hour after each reading of a site, W/m2, `[N]`.

    NaN unless as many readings with a value follow within an hour as came in the hour before: a gap says nothing.
    """
    known = np.concatenate([[0], np.cumsum(~np.isnan(ghi))])
    total = np.concatenate([[0.0], np.cumsum(np.maximum(np.nan_to_num(ghi), 0))])
    here = np.arange(1, len(time) + 1)
    until = np.searchsorted(time, time + HOUR_MS, side="right")
    before = here - np.searchsorted(time, time - HOUR_MS, side="right")
    count = known[until] - known[here]
    usable = (count > 0) & (count == before)
    return np.where(usable, (total[until] - total[here]) / np.maximum(count, 1), np.nan)


def coarsened(table: pl.DataFrame) -> pl.DataFrame:
    """Sites with several readings an hour, also with one: the instant at the hour, and the mean of the hour, under other names."""
    step = table.group_by("site").agg(pl.col("time").sort().diff().median().alias("step"))
    fine = table.join(step.filter(pl.col("step") < HOUR_MS), on="site").drop("step")
    if fine.is_empty():
        return table
    instants = fine.filter(pl.col("time") % HOUR_MS == 0).with_columns(pl.col("site") + "@hour")
    hour = (-(-pl.col("time") // HOUR_MS)).alias("hour")
    values = [name for name in COLUMNS if name not in ("site", "time")]
    means = fine.group_by("site", hour, maintain_order=True).agg(pl.col(values).mean(), pl.len())
    means = means.filter(pl.col("len") == pl.col("len").max().over("site")).with_columns(
        pl.col("site") + "@mean", (pl.col("hour") * HOUR_MS).alias("time"), averaged=pl.lit(60.0)
    )
    return pl.concat([table, instants, means.select(table.columns)])
