"""Intervals of assets' time, such as maintenance, loads or bookings: reads them from files, and finds those near to a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models import times as written
from tocsin.models.folders import named

EVERY = "*"
"""The asset of an interval that holds for all assets."""
FILES = ("context.csv", "context.parquet")
"""Names of a file of intervals beside recordings."""
OPEN = (1 << 43) - 1
"""The end of an interval whose end is not known, ms since the epoch."""
BITS = 43
BEGUN, COMING = 3, 3
"""How many intervals of a kind are near to a moment: the last ones that have begun, and the next ones."""


def beside(data: Path) -> Path | None:
    """The file of intervals in a folder of recordings; None: there is none."""
    return next((found for name in FILES if data.is_dir() and (found := named(data, name))), None)


def read(file: Path, *, kinds: Sequence[str], numbers: Sequence[str] = ()) -> pl.DataFrame:
    """Read intervals from a CSV or Parquet file: `asset` (`*`: all), `kind`, `from`, `to` (empty: not known yet), and numbers.

    Times are in ISO 8601 with an offset, or UTC without one; or ms since the epoch.

    Returns:
        `asset`, `kind` (text), `from`, `to` (ms since the epoch), `numbers` (float64). Intervals of other kinds are left out.

    Raises:
        FileNotFoundError
        ValueError: a column is missing, a time is not one, or an interval ends before it begins.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a file of intervals, got none; see docs/operations.md, Context")
    columns = ("asset", "kind", "from", "to", *numbers)
    table = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(
            f"{file}: expected the columns {', '.join(columns)}, got none of {', '.join(missing)}; add them"
        )
    table = table.select(columns).with_columns(
        pl.col("asset", "kind").cast(pl.String),
        *(milliseconds(table[name], f"{file}, column {name}") for name in ("from", "to")),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in numbers),
    )
    table = table.filter(pl.col("kind").is_in(list(kinds))).with_columns(pl.col("to").fill_null(OPEN))
    if bad := table.filter(pl.col("from").is_null() | (pl.col("to") < pl.col("from"))).rows():
        raise ValueError(f"{file}: expected `to` not before `from`, got {bad[0]}; correct or drop it")
    return table


def milliseconds(times: pl.Series, where: str) -> pl.Series:
    """A column of times as ms since the epoch, Int64: times, text in ISO 8601, or ms as numbers or text.

    Raises:
        ValueError: a text is not a time.
    """
    if times.dtype.is_numeric():
        return times.cast(pl.Int64)
    if times.dtype == pl.String:
        found = written.read(times).utc // 1000
        found = found.fill_null(times.cast(pl.Int64, strict=False))
        if (wrong := times.filter(found.is_null() & times.is_not_null() & (times != ""))).len():
            raise ValueError(f"{where}: expected a time such as 2026-03-02T08:00:00Z, got {wrong[0]!r}; correct it")
        return found.alias(times.name)
    return times.dt.epoch("ms")


class Timetable:
    """Finds which intervals are near to an asset's time.

    Args:
        table: `asset`, `kind`, `from`, `to` (ms since the epoch), and the numbers.
        kinds: kinds that are found; their order numbers them.
        numbers: numbers of intervals; one that an interval lacks is 0.
    """

    def __init__(self, table: pl.DataFrame, *, kinds: Sequence[str], numbers: Sequence[str] = ()) -> None:
        self._width = 3 + len(numbers)
        self._kinds = [_Kind(table.filter(pl.col("kind") == kind), numbers) for kind in kinds]

    def near(self, assets: pl.Series, times: NDArray[np.int64], *, unit: float, horizon: float) -> Tensor:
        """The intervals near to each asset's time: of each kind the last `BEGUN` that have begun and the next `COMING`.

        Those that ended more than `horizon` ago, or begin later than in `horizon`, count as absent. An asset has its own and those
        of `EVERY`.

        Args:
            assets: `[B]` names.
            times: `[B]`, ms since the epoch.
            unit: ms in one unit of `horizon` and of the result.

        Returns:
            `[B, S, 3 + N] float32`: beginning and end from the row's time on, number of the kind, numbers. Absent ones begin and
            end at infinity.
        """
        found = np.zeros((len(times), len(self._kinds), BEGUN + COMING, self._width))
        for number, kind in enumerate(self._kinds):
            begin, end, numbers = kind.near(assets, times)
            begin, end = begin / unit, end / unit
            is_absent = (end < -horizon) | (begin > horizon)
            found[:, number, :, 0] = np.where(is_absent, np.inf, begin)
            found[:, number, :, 1] = np.where(is_absent, np.inf, end)
            found[:, number, :, 2] = number
            found[:, number, :, 3:] = np.where(is_absent[..., None], 0, numbers)
        return torch.from_numpy(found).flatten(1, 2).float()


class _Kind:
    """The intervals of one kind, by asset and beginning; each asset has those of `EVERY` as well."""

    def __init__(self, table: pl.DataFrame, numbers: Sequence[str]) -> None:
        common = table.filter(pl.col("asset") == EVERY).drop("asset")
        self._assets = table["asset"].unique().sort()
        own = table.filter(pl.col("asset") != EVERY)
        shared = own.select(pl.col("asset").unique()).join(common, how="cross").select(own.columns)
        order = pl.concat([own, shared, common.select(pl.lit(EVERY).alias("asset"), *own.columns[1:])])
        number = order["asset"].replace_strict(self._assets, range(len(self._assets)), return_dtype=pl.Int64)
        order = order.with_columns(_number=number).sort("_number", "from", "to", *numbers)
        self._from, self._to = order["from"].to_numpy(), order["to"].to_numpy()
        self._values = order.select(
            pl.col(name).cast(pl.Float64).fill_null(0).fill_nan(0) for name in numbers
        ).to_numpy()
        self._values = self._values.reshape(len(order), len(numbers))
        self._number = order["_number"].to_numpy()
        self._keys = (self._number << BITS) | np.clip(self._from, 0, OPEN)
        self._common = self._assets.index_of(EVERY)

    def near(
        self, assets: pl.Series, times: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Beginning and end `[B, S]`, infinite where there is none, and numbers `[B, S, N]`."""
        size = BEGUN + COMING
        if not len(self._keys):
            absent = np.full((len(times), size), np.inf)
            return absent, absent, np.zeros((len(times), size, self._values.shape[1]))
        common = -1 if self._common is None else self._common
        known = pl.DataFrame({"asset": self._assets, "number": range(len(self._assets))})
        number = assets.to_frame("asset").join(known, on="asset", how="left", maintain_order="left")["number"]
        numbers = number.fill_null(common).to_numpy()
        following = np.searchsorted(
            self._keys, (np.maximum(numbers, 0) << BITS) | np.clip(times, 0, OPEN), side="right"
        )
        at = following[:, None] + np.arange(-BEGUN, COMING)
        inside = (at >= 0) & (at < len(self._keys))
        at = at.clip(0, len(self._keys) - 1)
        inside &= self._number[at] == numbers[:, None]
        begin = np.where(inside, self._from[at] - times[:, None], np.inf)
        end = np.where(inside, self._to[at] - times[:, None], np.inf)
        return begin, end, np.where(inside[..., None], self._values[at], 0)
