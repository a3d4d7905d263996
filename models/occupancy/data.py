"""Recordings of rooms: events `(room, property, time, value)`, and the truth about occupancy where it is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tocsin.models import tables, times
from tocsin.models.folders import listed
from tocsin.models.timetable import FILES

PROPERTIES = ("co2", "temperature", "humidity", "ventilation")
"""Units: ppm, degrees C, % relative humidity, share of full flow."""

_EVENTS = pl.Schema({"room": pl.String, "property": pl.String, "time": pl.Int64, "value": pl.Float64})
_TRUTH = pl.Schema({"room": pl.String, "time": pl.Int64, "occupied": pl.Boolean})

# Windesheim's property name -> our name, and the factor that converts their values to our unit.
_MEASURED = {
    "co2__ppm": ("co2", 1.0),
    "temp_in__degC": ("temperature", 1.0),
    "rel_humidity__0": ("humidity", 100.0),
    "valve_frac__0": ("ventilation", 1.0),
}
_MOTION = "occupancy__bool"

# Pattern at the start of a CSV column's name, in any case -> our name.
_COLUMNS = {
    r"(indoor[ _]|room[ _]|air[ _])?co2": "co2",
    r"(indoor[ _]|room[ _]|air[ _])?temp(?!.*set)": "temperature",
    r"(indoor[ _]|room[ _])?(relative[ _])?humidity": "humidity",
    "rh": "humidity",
    "vent": "ventilation",
}
_TIMES, _ROOMS = ("time", "date"), ("room", "id")
MOTION, PHONES, PRESENCE, COUNTS = "motion", "phones", "presence", "counts"
"""What the truth of a recording is: a motion sensor, the number of phones in a network, yes or no, or the number of people."""
NOISY = {
    MOTION: "a motion sensor, which does not see people who sit still",
    PHONES: "a count of phones, which people leave behind or leave at home",
}
_TRUTHS = {
    "occup": PRESENCE,
    "count": PRESENCE,
    "people": PRESENCE,
    "pir": MOTION,
    "motion": MOTION,
    "wifi": PHONES,
    "phone": PHONES,
}
"""Start of the truth's column in a CSV file, in any case -> what it is. Presence with a value above 1 is counts."""

# The days of SDU's files are shuffled, and named by their weekday only. They are put back on days of the recorded weeks.
_SDU_DAY, _SDU_FIRST = "DayId", date(2017, 3, 22)
_SDU = {"co2_data": "co2", "vav_data": "ventilation", "occ_data": "count"}
_SDU_FILE = re.compile(rf"({'|'.join(_SDU)})_(.+)\.csv")


@dataclass(frozen=True)
class Recording:
    """Sensor readings, and the truth about occupancy.

    Attributes:
        events: `room`, `property` (of `PROPERTIES`), `time` (ms since 1970), `value`; by time.
        truth: `room`, `time`, `occupied`; by room and time, may have no rows.
        timezone: of the working day. "UTC" if the files hold local times without an offset; these are used unchanged.
        kind: what the truth is: `MOTION`, `PHONES`, `PRESENCE` or `COUNTS`.
    """

    events: pl.DataFrame
    truth: pl.DataFrame
    timezone: str
    kind: str = PRESENCE

    @property
    def rooms(self) -> list[str]:
        return self.events["room"].unique().sort().to_list()


class _Part(NamedTuple):
    """One file: its events, its truth, its time zone, and the truth's kind.

    The time zone is a name, minutes east of UTC, or None if the file gives none.
    """

    path: Path
    events: pl.DataFrame
    truth: pl.DataFrame
    zone: str | int | None
    kind: str


def read(directory: Path, *, decimal_comma: bool = False) -> Recording:
    """Read a directory of recordings, or one file: Parquet files of measurements, UCI's text files, or CSV files.

    - `*.parquet` with `id`, `source`, `timestamp`, `property`, `value`, as Windesheim's (Brains4Buildings 2022). If several
      sources give a property of a room, the one with the most values is used. The truth is the motion sensor, `occupancy__bool`.
    - `*.txt`, as UCI 357 (Candanedo and Feldheim 2016); each file is a room. Light is left out: it gives the answer away.
    - `*.csv` with a time and any of CO2, temperature, humidity, ventilation, occupancy and room. Without a room column, each file
      is a room. Cells may be empty. Times may have an offset from UTC; the working day then has that offset too, or the smallest
      of several, which is winter time. The truth may also be a column of people, motion or phones.
    - `co2_data_*.csv`, `vav_data_*.csv` and `occ_data_*.csv`, as SDU's (Arendt et al. 2018), whose days are shuffled. Each is put
      on a day of the recorded weeks with its weekday.

    Args:
        decimal_comma: numbers in text and CSV files have a decimal comma, as in 400,5.

    Raises:
        FileNotFoundError: no file of these types exists.
        ValueError: a file lacks a required column, or a cell does not fit its column; the message names the line.
    """
    kinds: dict[str, Callable[[Path], _Part]] = {
        ".parquet": _measurements,
        ".txt": lambda path: _uci(path, decimal_comma),
        ".csv": lambda path: _columns(tables.read(path, decimal_comma=decimal_comma)),
    }
    shuffled = [path for path in listed(directory, ".csv") if _SDU_FILE.fullmatch(path.name)]
    for suffix, reader in kinds.items():
        found = [path for path in listed(directory, suffix) if path.name.lower() not in FILES or path == directory]
        if paths := shuffled or found:
            parts = _sdu(shuffled) if shuffled else [reader(path) for path in paths]
            events = pl.concat([p.events for p in parts]).sort("time", "room", "property", maintain_order=True)
            truth = pl.concat([p.truth for p in parts]).sort("room", "time")
            if not len(events):
                raise ValueError(f"{directory}: expected readings of {', '.join(PROPERTIES)}, got only empty cells")
            return Recording(events, truth, _timezone(parts), next((p.kind for p in parts if len(p.truth)), PRESENCE))
    raise FileNotFoundError(f"{directory}: expected *{', *'.join(kinds)} with recordings of rooms, got none of them")


def read_truth(path: Path) -> pl.DataFrame:
    """Read the truth alone from a CSV file: a time, and a column of occupancy, people, motion or phones; perhaps a room.

    Returns:
        `room` (the file's name without a column of rooms), `time` (ms since 1970), `occupied`; by room and time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a cell does not fit its column; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a CSV file with a time and the truth, got no file")
    sheet = tables.read(path)
    time, occupied = (_find_column(sheet.cells.columns, names) for names in (_TIMES, [*_TRUTHS]))
    if time is None or occupied is None:
        raise ValueError(f"{path}: expected a time and one of {', '.join(_TRUTHS)}, got columns {sheet.cells.columns}")
    return _truth(sheet, occupied, *_named(sheet, time)[:2]).sort("room", "time")


_BROKEN_HOURS = {
    -570: "Pacific/Marquesas",
    -210: "America/St_Johns",
    210: "Asia/Tehran",
    270: "Asia/Kabul",
    330: "Asia/Kolkata",
    345: "Asia/Kathmandu",
    390: "Asia/Yangon",
    525: "Australia/Eucla",
    570: "Australia/Darwin",
    630: "Australia/Lord_Howe",
    765: "Pacific/Chatham",
}
"""Time zones by minutes east of UTC in winter, where these are no whole hours; there is no fixed zone for them."""


def _timezone(parts: Sequence[_Part]) -> str:
    """The time zone of the working day."""
    local = [part.path for part in parts if part.zone is None]
    fixed = [part.zone for part in parts if isinstance(part.zone, int)]
    if local and fixed:
        raise ValueError(f"{local[0]}: times without an offset from UTC, but other files have one; write it in all")
    if not fixed:
        return next((part.zone for part in parts if isinstance(part.zone, str)), "UTC")
    if zone := _BROKEN_HOURS.get(offset := min(fixed)):
        return zone
    hours = offset // 60
    return f"Etc/GMT{-hours:+}" if hours else "UTC"


def _measurements(path: Path) -> _Part:
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as reason:
        raise ValueError(f"{path}: expected a Parquet file, got {str(reason).splitlines()[0]}") from None
    if missing := [c for c in ("id", "source", "timestamp", "property", "value") if c not in table.columns]:
        raise ValueError(f"{path}: columns {missing} missing, got {table.columns}; is it a file of measurements?")
    kind = table.schema["timestamp"]
    if not isinstance(kind, pl.Datetime):
        raise ValueError(f"{path}: column timestamp: expected times, got {kind}; write it as a timestamp")
    table = table.with_columns(pl.col("id", "source", "property").cast(pl.String)).rename({"id": "room"})
    known = pl.col("property").is_in([*_MEASURED, _MOTION]) & pl.col("value").is_not_null()
    table = table.with_row_index("row").filter(known).with_columns(
        time=pl.col("timestamp").dt.epoch("ms"), number=pl.col("value").cast(pl.Float64, strict=False)
    )  # fmt: skip
    if len(wrong := table.filter(~(pl.col("number").abs() < tables.LARGEST).fill_null(False))):
        row, value = wrong.row(0, named=True)["row"], wrong["value"][0]
        raise ValueError(
            f"{path}, row {row}, column 'value': expected a finite number, got {value!r}, and {len(wrong) - 1} more such rows; "
            "leave out unknown values"
        )
    table = table.drop("value").rename({"number": "value"})
    known_rows = table.filter(pl.col("property").is_in([*_MEASURED]))
    main_sources = (
        known_rows.group_by("room", "property", "source")
        .len()
        .sort("len", "source")
        .group_by("room", "property")
        .last()
    )
    known_rows = known_rows.join(main_sources.drop("len"), on=["room", "property", "source"], how="semi")
    names, factors = ({name: target[i] for name, target in _MEASURED.items()} for i in (0, 1))
    events = known_rows.select(
        "room",
        pl.col("property").replace_strict(names, return_dtype=pl.String),
        "time",
        pl.col("value") * pl.col("property").replace_strict(factors, return_dtype=pl.Float64),
    )
    truth = table.filter(pl.col("property") == _MOTION).select("room", "time", occupied=pl.col("value") > 0.5)
    zone = kind.time_zone or "UTC"
    return _Part(
        path, events.select(_EVENTS.names()).cast(_EVENTS), truth.select(_TRUTH.names()).cast(_TRUTH), zone, MOTION
    )


def _sdu(paths: Sequence[Path]) -> list[_Part]:
    """The rooms of SDU's files: CO2, damper and count of each."""
    rooms: dict[str, dict[str, Path]] = {}
    for path in paths:
        if match := _SDU_FILE.fullmatch(path.name):
            rooms.setdefault(match[2], {})[_SDU[match[1]]] = path
    return [_sdu_room(room, files) for room, files in rooms.items()]


def _sdu_room(room: str, files: Mapping[str, Path]) -> _Part:
    table = pl.DataFrame()
    for name, path in files.items():
        sheet = tables.read(path)
        sheet.require(_SDU_DAY, "Time", "Weekday")
        columns = {
            _SDU_DAY: sheet.integers(_SDU_DAY),
            "Weekday": sheet.integers("Weekday"),
            "Time": sheet.texts("Time"),
        }
        part = pl.DataFrame({**columns, name: sheet.numbers(sheet.cells.columns[-1], empty=True)})
        keys = [*columns]
        table = part if table.is_empty() else table.join(part, on=keys, how="full", coalesce=True)
    dates, weeks = {}, [0] * 7
    for day, weekday in table.select(_SDU_DAY, "Weekday").unique().sort(_SDU_DAY).rows():
        dates[day] = _SDU_FIRST + timedelta((weekday - _SDU_FIRST.weekday()) % 7 + 7 * weeks[weekday])
        weeks[weekday] += 1
    moments = pl.col(_SDU_DAY).replace_strict(dates, return_dtype=pl.Date).dt.combine(pl.col("Time").str.to_time())
    table = table.with_columns(room=pl.lit(room), time=moments.dt.epoch("ms"))
    values = [
        table.select(
            "room", property=pl.lit(name), time="time", value=pl.col(name) / (100 if name == "ventilation" else 1)
        )
        for name in files
        if name in PROPERTIES
    ]
    truth = table.select("room", "time", occupied=pl.col("count") > 0) if "count" in files else _TRUTH.to_frame()
    events = pl.concat(values) if values else _EVENTS.to_frame()
    return _Part(
        next(iter(files.values())),
        events.drop_nulls("value").cast(_EVENTS),
        truth.drop_nulls("occupied").cast(_TRUTH),
        None,
        COUNTS,
    )


def _uci(path: Path, decimal_comma: bool) -> _Part:
    sheet = tables.read(path, decimal_comma=decimal_comma, numbered=True)
    return _columns(replace(sheet, cells=sheet.cells.drop("Light", "HumidityRatio", strict=False)))


def _columns(sheet: tables.Sheet) -> _Part:
    """Convert a sheet with one row per time and one column per property."""
    columns = sheet.cells.columns
    time, occupied = (_find_column(columns, names) for names in (_TIMES, [*_TRUTHS]))
    properties = {column: name for start, name in _COLUMNS.items() if (column := _find_column(columns, (start,)))}
    if time is None or not properties:
        raise ValueError(f"{sheet.path}: expected a time and one of {PROPERTIES} at least, got columns {columns}")
    rooms, times, zone = _named(sheet, time)
    parts = [
        pl.DataFrame(
            {
                "room": rooms,
                "property": pl.repeat(name, len(times), dtype=pl.String, eager=True),
                "time": times,
                "value": sheet.numbers(column, empty=True),
            }
        )
        for column, name in properties.items()
    ]
    events = pl.concat(parts).drop_nulls("value")
    truth = _truth(sheet, occupied, rooms, times)
    return _Part(sheet.path, events.cast(_EVENTS), truth, zone, _kind(sheet, occupied))


def _named(sheet: tables.Sheet, time: str) -> tuple[pl.Series, pl.Series, int | None]:
    """The room and the time of each row, and the time zone, see `_times`."""
    times, zone = _times(sheet, time)
    room = _find_column(sheet.cells.columns, _ROOMS)
    rooms = sheet.texts(room) if room else pl.repeat(sheet.path.stem, len(times), dtype=pl.String, eager=True)
    return rooms, times, zone


def _truth(sheet: tables.Sheet, column: str | None, rooms: pl.Series, times: pl.Series) -> pl.DataFrame:
    """The truth in a column, without unknown rows."""
    known = sheet.flags(column) if column else pl.repeat(None, len(times), dtype=pl.Boolean, eager=True)
    return pl.DataFrame({"room": rooms, "time": times, "occupied": known}).drop_nulls("occupied").cast(_TRUTH)


def _kind(sheet: tables.Sheet, column: str | None) -> str:
    """What the truth in a column is."""
    named = next((kind for start, kind in _TRUTHS.items() if column and column.lower().startswith(start)), PRESENCE)
    if named != PRESENCE or column is None:
        return named
    counts = any(re.match("people|count|occup.*count", name, re.IGNORECASE) for name in sheet.cells.columns)
    numbers = sheet.cells[column].cast(pl.Float64, strict=False)
    return COUNTS if counts or bool((numbers > 1).any()) else PRESENCE


def _times(sheet: tables.Sheet, column: str) -> tuple[pl.Series, int | None]:
    """A column's times in ms since 1970, and their smallest offset from UTC in minutes; None if no time has one."""
    cells = sheet.texts(column)
    found = times.read(cells)
    sheet.refuse(found.utc.is_null() | ~cells.str.contains(":", literal=True), column, times.EXAMPLE)
    has_offset = found.offset.is_not_null()
    if has_offset.any():
        sheet.refuse(
            ~has_offset, column, "an offset from UTC, such as Z or +01:00, as other rows have one", "write it in all"
        )
    zone = found.offset.min()
    assert zone is None or isinstance(zone, int)
    return found.utc // 1000, zone


def _find_column(columns: Sequence[str], starts: Sequence[str]) -> str | None:
    """The first column whose name begins with one of `starts`, patterns, in any case."""
    return next((c for s in starts for c in columns if re.match(s, c, re.IGNORECASE)), None)
