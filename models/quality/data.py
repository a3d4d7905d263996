"""Recordings for `quality`: CSV tables of any plant with a time, a key if there are several, and numbers.

- A folder is a site. Its files may have different channels; a file without a key column is one key.
- `time` is a number (s, cycles, or any other unit), or a date and time; `key` names the asset. Both may have one of `NAMES`.
- Each other column that holds numbers is a channel; an empty cell is a missing reading. Columns of text are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tocsin.models import tables, times
from tocsin.models.folders import listed
from tocsin.models.quality.series import Series

NAMES = {
    "key": ("asset", "unit", "machine", "room", "site", "device", "sensor_id", "id", "station", "battery"),
    "time": ("timestamp", "datetime", "date_time", "date", "cycle", "step"),
}
"""Further names of the two columns, in lower case."""


def read(place: Path, *, decimal_comma: bool = False) -> list[Series]:
    """The series in a file, or in the CSV files of a folder.

    Raises:
        FileNotFoundError: there is no CSV file.
        ValueError: a file has no time or no channel, or a cell cannot be read.
    """
    files = listed(place, ".csv")
    if not files:
        raise FileNotFoundError(
            f"{place}: expected CSV files with a time and columns of numbers, got none; check --data"
        )
    return [series for file in files for series in _read(file, decimal_comma=decimal_comma)]


def _read(file: Path, *, decimal_comma: bool) -> list[Series]:
    sheet = tables.read(file, decimal_comma=decimal_comma)
    time, key = (_named(sheet, name) for name in ("time", "key"))
    if time is None:
        raise ValueError(
            f"{file}: expected a column 'time', got {', '.join(sheet.cells.columns)}; rename the one that orders the readings"
        )
    channels = [name for name in sheet.cells.columns if name not in (time, key) and _is_numeric(sheet, name)]
    if not channels:
        raise ValueError(f"{file}: expected columns of numbers beside the time, got none")
    keys = sheet.texts(key) if key else pl.repeat(file.stem, sheet.cells.height, eager=True)
    table = pl.DataFrame(
        {"key": keys, "time": _seconds(sheet, time), **{name: sheet.numbers(name, empty=True) for name in channels}}
    )
    found = []
    for part in table.partition_by("key", maintain_order=True):
        part = part.sort("time", maintain_order=True)
        # A channel that the key never has is none of its.
        own = [name for name in channels if part[name].null_count() < part.height]
        values = part.select(pl.col(own).cast(pl.Float32)).to_numpy()
        found.append(Series.of(str(part["key"][0]), part["time"].to_numpy().astype(np.float64), values, own))
    return [series for series in found if series.values.shape[1]]


def _named(sheet: tables.Sheet, name: str) -> str | None:
    """The column of that name, or of the first of its other names."""
    columns = {column.lower(): column for column in reversed(sheet.cells.columns)}
    return next((columns[each] for each in (name, *NAMES[name]) if each in columns), None)


def _is_numeric(sheet: tables.Sheet, column: str) -> bool:
    """Whether the first cells of a column that are not empty are numbers."""
    cells = sheet.cells[column].drop_nulls()[:100]
    plain = cells.str.replace(",", ".", literal=True) if sheet.decimal_comma else cells
    return bool(len(cells)) and not plain.cast(pl.Float64, strict=False).is_null().any()


def _seconds(sheet: tables.Sheet, column: str) -> pl.Series:
    """The times as numbers; dates as s since the epoch."""
    if _is_numeric(sheet, column):
        return sheet.numbers(column)
    return sheet.times(column, f"a number, or {times.EXAMPLE}").cast(pl.Float64) / 1e6
