"""Run-to-failure tables: NASA's C-MAPSS files, directories of CSV files, and the lives in them."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tocsin.models.folders import listed, named
from tocsin.models.rul.config import RulConfig
from tocsin.models.tables import LARGEST, read
from tocsin.models.timetable import FILES, Timetable, milliseconds

SETTINGS = tuple(f"setting{i}" for i in range(1, 4))
SENSORS = tuple(f"s{i}" for i in range(1, 22))
CMAPSS_COLUMNS = ("unit", "cycle", *SETTINGS, *SENSORS)
# The other seven are constant, or take two values, within a regime.
FEATURES = tuple(f"s{i}" for i in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21))
REGIMES = {"FD001": 1, "FD002": 6, "FD003": 1, "FD004": 6}
"""Operating regimes of each subset of C-MAPSS."""


def cmapss(subset: str) -> RulConfig:
    """The config of a subset of C-MAPSS.

    Raises:
        ValueError: there is no such subset.
    """
    if subset not in REGIMES:
        raise ValueError(f"subset {subset}: expected one of {', '.join(REGIMES)}; choose one")
    return RulConfig(key="unit", order="cycle", features=FEATURES, settings=SETTINGS, regimes=REGIMES[subset])


def read_cmapss(directory: Path, subset: str = "FD001", split: str = "train") -> pl.DataFrame:
    """Read `<split>_<subset>.txt` or `.txt.gz` of C-MAPSS (Saxena et al. 2008, NASA).

    Returns:
        Columns `unit`, `cycle` (int64) and `setting1..3`, `s1..s21` (float64), in file order.

    Raises:
        FileNotFoundError: if neither file is there.
        ValueError: if a line does not have 26 finite numbers, the first two whole; the message names the line.
    """
    values = _numbers(_find(directory, f"{split}_{subset}.txt"), CMAPSS_COLUMNS, whole=2)
    table = pl.DataFrame(values, schema=list(CMAPSS_COLUMNS), orient="row")
    return table.with_columns(pl.col("unit", "cycle").cast(pl.Int64))


def read_cmapss_rul(directory: Path, subset: str = "FD001") -> np.ndarray:
    """True RUL after the last row of each test engine, `[engines] float64` cycles, in order of unit."""
    return _numbers(_find(directory, f"RUL_{subset}.txt"), ("RUL",))[:, 0]


def has_truth(directory: Path, subset: str) -> bool:
    """Whether a folder has the test engines of a subset and their true RUL."""
    names = (f"test_{subset}.txt", f"RUL_{subset}.txt")
    return all(named(directory, name) or named(directory, f"{name}.gz") for name in names)


def test_engines(directory: Path, subset: str) -> int:
    """Number of test engines of a subset in a folder; 0 without their file."""
    name = f"test_{subset}.txt"
    there = named(directory, name) or named(directory, f"{name}.gz")
    return read_cmapss(directory, subset, "test")["unit"].n_unique() if there else 0


def read_csv_directory(directory: Path, config: RulConfig, *, decimal_comma: bool = False) -> pl.DataFrame:
    """Read every CSV file of a directory into one table, sorted by key and order.

    Args:
        directory: folder of CSV files, or one such file. Each file has a header and holds one or many assets.
        config: names the columns and their types; other columns are ignored.
        decimal_comma: numbers have a decimal comma, as in 400,5.

    Raises:
        FileNotFoundError: if there is no CSV file.
        ValueError: if a file lacks a column, or a cell is empty or not of its column's type; the message names the line.
    """
    paths = csv_files(directory)
    if not paths:
        raise FileNotFoundError(f"{directory}: no *.csv; expected one or more files of run-to-failure rows")
    types = config.types | ({config.label: "float64"} if config.label else {})
    types |= {config.failed: "bool"} if config.failed else {}
    types |= {config.time: "time"} if config.context else {}
    fractions = f"for fractions of {config.order}, set order_type = 'float64' in the model's config"
    tables = []
    for path in paths:
        sheet = read(path, decimal_comma=decimal_comma)
        sheet.require(*types)
        columns = dict[str, pl.Series]()
        for name, kind in types.items():
            if kind == "int64":
                columns[name] = sheet.integers(name, hint=fractions if name == config.order else "")
            elif kind == "time":
                columns[name] = milliseconds(sheet.texts(name), f"{path}, column {name}")
            elif kind == "bool":
                sheet.texts(name)  # refuses empty cells
                columns[name] = sheet.flags(name)
            else:
                columns[name] = sheet.texts(name) if kind == "string" else sheet.numbers(name)
        tables.append(pl.DataFrame(columns))
    return pl.concat(tables).sort(config.key, config.order)


def csv_files(directory: Path) -> list[Path]:
    """The CSV files of a directory, without one of intervals; the path of a CSV file gives that file alone."""
    return [file for file in listed(directory, ".csv") if file.name.lower() not in FILES or file == directory]


@dataclass(frozen=True)
class Lives:
    """Rows of assets' lives, sorted by key and order.

    Attributes:
        rows: `[R, S + C] float64`, the config's columns.
        age: `[R] float64`, the order column.
        rul: `[R] float32`, true RUL, not capped; NaN in the lives of assets that did not fail.
        least: `[R] float32`, what was left at least: the RUL, or how much longer an asset that did not fail is known to have run.
        engine: `[R] int64`, number of each row's key, from 0.
        slots: `[R, S, 3 + N] float32`, intervals of the key's time around each row, see `Inputs`; S is 0 without any.
        keys: names of the keys, by number.
    """

    rows: Tensor
    age: Tensor
    rul: Tensor
    least: Tensor
    engine: Tensor
    slots: Tensor
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def first(self) -> Tensor:
        """Index of the first row of each key, `[keys] int64`."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.engine.diff().nonzero()[:, 0] + 1])[: len(self.keys)]

    @cached_property
    def last(self) -> Tensor:
        """Index of the last row of each key, `[keys] int64`."""
        return torch.cat([self.first[1:], torch.tensor([len(self)])]) - 1

    @cached_property
    def failed(self) -> Tensor:
        """Whether each key failed, `[keys] bool`."""
        return ~self.rul[self.last].isnan()

    @cached_property
    def place(self) -> Tensor:
        """How many rows of its key precede each row, `[R] int64`."""
        return torch.arange(len(self)) - self.first[self.engine]

    def known_late(self) -> Lives:
        """The same lives, each known only from a random row on, as when a stream begins in the middle of a life."""
        length = self.last - self.first + 1
        start = (torch.rand(len(self.keys)) * length).long()
        return self.where(self.place >= start[self.engine])

    def where(self, keep: Tensor) -> Lives:
        """Some rows of the same lives, `[R] bool`; one of each at least."""
        columns = {name: getattr(self, name)[keep] for name in ("rows", "age", "rul", "least", "engine", "slots")}
        return replace(self, **columns)

    def of(self, engines: Tensor) -> Lives:
        """The lives of some keys, given by their numbers."""
        engines, keep = engines.sort().values, torch.isin(self.engine, engines)
        number = torch.full((len(self.keys),), -1).index_put_((engines,), torch.arange(len(engines)))
        return Lives(
            rows=self.rows[keep],
            age=self.age[keep],
            rul=self.rul[keep],
            least=self.least[keep],
            engine=number[self.engine[keep]],
            slots=self.slots[keep],
            keys=tuple(self.keys[i] for i in engines.tolist()),
        )


def joined(one: Lives, other: Lives) -> Lives:
    """The lives of both; the keys of the second follow those of the first, also if they have the same names."""
    return Lives(
        rows=torch.cat([one.rows, other.rows]),
        age=torch.cat([one.age, other.age]),
        rul=torch.cat([one.rul, other.rul]),
        least=torch.cat([one.least, other.least]),
        engine=torch.cat([one.engine, other.engine + len(one.keys)]),
        slots=torch.cat([one.slots, other.slots]),
        keys=one.keys + other.keys,
    )


def lives(
    table: pl.DataFrame,
    config: RulConfig,
    *,
    final_rul: np.ndarray | None = None,
    intervals: pl.DataFrame | None = None,
) -> Lives:
    """Sort a table by asset and age, and label its rows.

    Args:
        table: columns of `config`, any row order; with `intervals` also its `time`, ms since the epoch.
        config: names the columns; with `intervals` it has a period.
        intervals: as `timetable.read` returns them; None: none are known, or the model reads none.
        final_rul: `[keys]` RUL after the last row, in order of key; None means 0 (run to failure). Ignored if the config
            names a label column.

    Raises:
        ValueError: if `final_rul` does not have one value per key, or there is no row.
    """
    if table.is_empty():
        raise ValueError("expected rows of at least one key, got none")
    table = table.sort(config.key, config.order)
    engine = table[config.key].rle_id().cast(pl.Int64).to_numpy()
    first = np.flatnonzero(np.diff(engine, prepend=-1))
    last = np.append(first[1:], len(table)) - 1
    age = table[config.order].cast(pl.Float64).to_numpy()
    if config.label is not None:
        least = table[config.label].to_numpy()
    else:
        if final_rul is not None and len(final_rul) != len(first):
            raise ValueError(f"final_rul has {len(final_rul)} values for {len(first)} keys")
        least = (age[last] + (0 if final_rul is None else final_rul))[engine] - age
    left = torch.from_numpy(least.astype(np.float32))
    rul = left.clone()
    if config.failed is not None:
        failed = table.select(pl.col(config.failed).any().over(config.key)).to_series().to_numpy()
        rul[torch.from_numpy(~failed)] = math.nan
    return Lives(
        rows=torch.tensor(table.select(config.columns).cast(pl.Float64).to_numpy()),
        age=torch.tensor(age),
        rul=rul,
        least=left,
        engine=torch.from_numpy(engine.copy()),
        slots=_slots(table, config, intervals),
        keys=tuple(map(str, table[config.key].gather(first).to_list())),
    )


def period(table: pl.DataFrame, config: RulConfig) -> float:
    """The event time in one unit of the order column, s: the median over the rows of each key.

    Raises:
        ValueError: no two rows of a key tell.
    """
    ordered = table.sort(config.key, config.order)
    steps = ordered.select(
        time=pl.col(config.time).diff().over(config.key) / 1000, order=pl.col(config.order).diff().over(config.key)
    ).filter((pl.col("order") > 0) & (pl.col("time") > 0))
    if steps.is_empty():
        raise ValueError(
            f"column {config.time}: expected times that increase with {config.order}, got none; set period"
        )
    return float((steps["time"] / steps["order"]).median())  # type: ignore[arg-type]


def _slots(table: pl.DataFrame, config: RulConfig, intervals: pl.DataFrame | None) -> Tensor:
    """The slots of sorted rows."""
    width = 3 + len(config.context_numbers)
    if not config.context or intervals is None:
        return torch.zeros(len(table), 0, width)
    if config.period is None:
        raise ValueError("expected a config with a period, got none; train the model, or set it")
    timetable = Timetable(intervals, kinds=config.context, numbers=config.context_numbers)
    assets, unit = table[config.key].cast(pl.String), 1000 * config.period
    return timetable.near(assets, table[config.time].to_numpy(), unit=unit, horizon=config.horizon)


def _find(directory: Path, name: str) -> Path:
    if path := named(directory, name) or named(directory, f"{name}.gz"):
        return path
    raise FileNotFoundError(f"{directory / name}[.gz] is missing; point --data at the folder of C-MAPSS files")


def _numbers(path: Path, columns: Sequence[str], *, whole: int = 0) -> np.ndarray:
    """Read whitespace-separated numbers, `[rows, columns] float64`; the first `whole` columns must be integers."""
    try:
        values = np.loadtxt(path, ndmin=2)  # reads .gz too; rows end in blanks, on which a CSV reader fails
        integers = values[:, :whole]
        if values.shape[1] == len(columns) and (np.abs(values) < LARGEST).all() and (integers % 1 == 0).all():
            return values
    except ValueError:
        pass  # the loop below finds the wrong line and reports it
    with gzip.open(path, "rt") if path.suffix.lower() == ".gz" else path.open() as file:
        for line, cells in enumerate(map(str.split, file), 1):
            if cells and len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {line}: {len(cells)} columns, expected {len(columns)}; is it a C-MAPSS file?"
                )
            for number, (column, cell) in enumerate(zip(columns, cells, strict=bool(cells))):
                kind = "a whole number" if number < whole else "a finite number"
                try:
                    is_valid = abs(float(cell)) < LARGEST and (number >= whole or float(cell).is_integer())
                except ValueError:
                    is_valid = False
                if not is_valid:
                    raise ValueError(
                        f"{path}, line {line}, column {column}: expected {kind}, got {cell!r}; correct or drop it"
                    )
    raise ValueError(f"{path}: expected rows of {len(columns)} numbers, got none; is it a C-MAPSS file?")
