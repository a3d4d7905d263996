"""Readings of weather sites from files: NSRDB, TMY3, and plain CSV tables.

All files become one table, `COLUMNS`, sorted by site and time. Units: W/m2, degrees, degrees Celsius, %, m.

- NSRDB (any year, interval and region; also its typical years): two lines about the site, then the columns `Year` to `Minute`.
  Values hold for the instant. The clock is the header's `Time Zone`.
- TMY3: one line about the site, then `Date (MM/DD/YYYY)` and `Time (HH:MM)`, which goes to 24:00. Values are means of the hour
  before.
- Plain tables: `time`, a GHI, and what else is there; names may be written in several ways, see `NAMES`. A time without a zone is
  UTC.

A typical year joins months of several years. They are put into one, `TYPICAL`, so that time goes forward.
"""

from __future__ import annotations

import csv
import math
from itertools import islice
from pathlib import Path

import polars as pl

from tocsin.models import tables
from tocsin.models.folders import listed

PLACE = ("latitude", "longitude", "elevation")
MEASURED = ("ghi", "dni", "dhi", "temperature", "humidity", "dew_point")
COLUMNS = ("site", "time", *PLACE, "averaged", *MEASURED)
"""`averaged`: minutes over which values are means, ending at `time`; 0: an instant."""
NAMES = {
    "site": ("station", "location"),
    "time": ("timestamp", "datetime", "date_time", "date"),
    "latitude": ("lat",),
    "longitude": ("lon", "lng", "long"),
    "elevation": ("altitude", "alt", "height"),
    "averaged": (),
    "ghi": ("global", "global_horizontal", "ghi (w/m^2)", "shortwave"),
    "dni": ("direct_normal", "dni (w/m^2)", "beam"),
    "dhi": ("diffuse", "diffuse_horizontal", "dhi (w/m^2)"),
    "temperature": ("air temperature", "air_temperature", "temp", "tdry", "dry-bulb (c)", "t2m"),
    "humidity": ("relative humidity", "relative_humidity", "rh", "rhum (%)"),
    "dew_point": ("dew point", "dewpoint", "tdew", "dew-point (c)"),
}
"""Further names of columns, in lower case."""
TYPICAL = 2001
MISSING = -900.0
"""Values at or below this mean that there is none."""
CLOCK = ("year", "month", "day", "hour", "minute")


def read(place: Path, *, decimal_comma: bool = False) -> pl.DataFrame:
    """The readings in a file, or in the CSV files of a folder.

    Returns:
        `COLUMNS`: `site` text, `time` ms since 1970 UTC, all else Float64; null where a file does not say.

    Raises:
        FileNotFoundError: there is no CSV file.
        ValueError: a file is none of the three kinds, or a cell cannot be read.
    """
    files = listed(place, ".csv")
    if not files:
        raise FileNotFoundError(f"{place}: expected CSV files of NSRDB, TMY3 or plain readings, got none; check --data")
    table = pl.concat([read_file(file, decimal_comma=decimal_comma) for file in files])
    table = table.unique(["site", "time"], keep="first", maintain_order=True)
    return table.sort("site", "time")


def read_file(file: Path, *, decimal_comma: bool = False) -> pl.DataFrame:
    """The readings in one file, see `read`."""
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as opened:
        first, second, third = ([*islice(csv.reader(opened), 3)] + [[]] * 3)[:3]
    names = [cell.strip().lower() for cell in first]
    if "time zone" in names and "latitude" in names:
        return _nsrdb(file, dict(zip(names, second, strict=False)), third)
    if second and second[0].strip().lower().startswith("date (mm/dd/yyyy)"):
        return _tmy3(file, first, second)
    return _plain(file, decimal_comma=decimal_comma)


def _nsrdb(file: Path, about: dict[str, str], header: list[str]) -> pl.DataFrame:
    names = [name.strip().lower() for name in header]
    if missing := [name for name in (*CLOCK, "ghi") if name not in names]:
        raise ValueError(
            f"{file}, line 3: expected the columns Year to Minute and GHI as NSRDB writes them, got none named "
            f"{', '.join(missing)}"
        )
    table = _body(file, names, 3)
    clock = {name: table[name].cast(pl.Int32, strict=False) for name in CLOCK}
    if any(column.null_count() for column in clock.values()):
        raise ValueError(f"{file}: expected whole numbers in Year to Minute, got others; correct or drop these rows")
    hours = _number(file, about, "time zone")
    latitude, longitude = _number(file, about, "latitude"), _number(file, about, "longitude")
    identity = about.get("location id", "").strip()
    site = f"nsrdb-{identity}" if identity.strip("-") else f"nsrdb_{latitude:.2f}_{longitude:.2f}"
    if _is_typical(clock["year"], clock["month"]):
        clock["year"] = _one_year(clock["month"], clock["day"])
    time = pl.DataFrame(clock).select(pl.datetime(*(pl.col(name) for name in CLOCK), time_zone="UTC", time_unit="ms"))
    return _table(
        table,
        site,
        time.to_series().dt.epoch("ms") - round(hours * 3_600_000),
        (latitude, longitude, _number(file, about, "elevation")),
        averaged=0,
    )


def _tmy3(file: Path, about: list[str], header: list[str]) -> pl.DataFrame:
    """The zone, latitude, longitude and elevation are the last four cells of the first line."""
    names = [name.strip().lower() for name in header]
    table = _body(file, names, 2)
    where = dict(zip(("time zone", *PLACE), about[-4:], strict=False))
    hours, latitude, longitude, elevation = (_number(file, where, name) for name in ("time zone", *PLACE))
    date = table[names[0]].str.extract_groups(r"^(\d+)/(\d+)/(\d+)$").struct
    month, day, year = (date.field(str(part)).cast(pl.Int32) for part in (1, 2, 3))
    time = table[names[1]].str.extract_groups(r"^(\d+):(\d+)$").struct
    hour, minute = (time.field(str(part)).cast(pl.Int32) for part in (1, 2))
    if any(part.null_count() for part in (month, day, year, hour, minute)):
        raise ValueError(f"{file}: expected dates such as 01/31/1988 and times such as 24:00, got others")
    if _is_typical(year, month):
        year = _one_year(month, day)
    day_start = pl.DataFrame({"y": year, "m": month, "d": day}).select(
        pl.datetime("y", "m", "d", time_zone="UTC", time_unit="ms")
    )
    local = day_start.to_series().dt.epoch("ms") + (hour.cast(pl.Int64) * 60 + minute) * 60_000
    site = f"tmy3-{about[0].strip()}" if about and about[0].strip() else file.stem
    return _table(table, site, local - round(hours * 3_600_000), (latitude, longitude, elevation), averaged=60)


def _plain(file: Path, *, decimal_comma: bool) -> pl.DataFrame:
    sheet = tables.read(file, decimal_comma=decimal_comma)
    known = {name.strip().lower(): name for name in sheet.cells.columns}
    found = {ours: known[name] for ours, others in NAMES.items() for name in (ours, *others) if name in known}
    if lacking := [name for name in ("time", "ghi") if name not in found]:
        raise ValueError(
            f"{file}: expected a file of NSRDB or TMY3, or a table with columns named time and ghi, got no "
            f"{' and no '.join(lacking)} among {', '.join(sheet.cells.columns[:12])}"
        )
    time = sheet.times(found["time"]) // 1000
    columns = {
        name: sheet.numbers(found[name], empty=True)
        if name in found
        else pl.Series([None] * len(time), dtype=pl.Float64)
        for name in COLUMNS[2:]
    }
    site = sheet.texts(found["site"]) if "site" in found else pl.Series([file.stem] * len(time), dtype=pl.String)
    return _cleaned(pl.DataFrame({"site": site, "time": time, **columns}))


def _body(file: Path, names: list[str], skipped: int) -> pl.DataFrame:
    """The rows below the header, as text; null where a cell is empty or missing. Of columns with one name the first counts."""
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as opened:
        rows = [row for row in islice(csv.reader(opened), skipped, None) if row and row[0].strip()]
    columns: dict[str, list[str | None]] = {}
    for index, name in enumerate(names):
        if name and name not in columns:
            columns[name] = [(row[index].strip() or None) if index < len(row) else None for row in rows]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String()))


def _table(
    table: pl.DataFrame, site: str, time: pl.Series, place: tuple[float, float, float], *, averaged: float
) -> pl.DataFrame:
    """The measured columns of a file's rows under our names."""
    found = {ours: name for ours, others in NAMES.items() for name in (ours, *others) if name in table.columns}
    measured = [
        table[found[name]].cast(pl.Float64, strict=False).alias(name)
        if name in found
        else pl.Series(name, [None] * table.height, pl.Float64)
        for name in MEASURED
    ]
    constants = dict(zip((*PLACE, "averaged"), (*place, averaged), strict=True))
    return _cleaned(
        pl.DataFrame(
            [
                pl.Series("site", [site] * table.height, pl.String),
                time.alias("time"),
                *(pl.Series(name, [float(value)] * table.height) for name, value in constants.items()),
                *measured,
            ]
        )
    )


def _cleaned(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its columns in order, and null in place of the codes for missing values."""
    numbers = [*MEASURED]
    valid = [pl.when(pl.col(name) > MISSING, pl.col(name) < 9_000).then(name).alias(name) for name in numbers]
    return table.with_columns(valid).select(COLUMNS)


def _is_typical(year: pl.Series, month: pl.Series) -> bool:
    """Whether the months are each of one year, and not all of consecutive ones, as in a typical year."""
    number = year.cast(pl.Int64) * 12 + month
    moved = number.diff().drop_nulls()
    return bool(((moved < 0) | (moved > 11)).any()) and number.n_unique() == month.n_unique() > 1


def _one_year(month: pl.Series, day: pl.Series) -> pl.Series:
    """The year that a typical year is put into: `TYPICAL`, or the leap year before if it has a 29 February."""
    leaps = bool(((month == 2) & (day == 29)).any())
    return pl.Series([TYPICAL - leaps] * len(month), dtype=pl.Int32)


def _number(file: Path, about: dict[str, str], name: str) -> float:
    """A number of the lines about the site."""
    text = about.get(name, "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{file}: expected the site's {name} in the lines above the columns, got {text!r}; add it there"
        )
    return value
