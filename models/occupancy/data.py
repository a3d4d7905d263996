"""Recordings of rooms as events: `(room, property, time, value)`, and what is known of who was there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

PROPERTIES = ("co2", "temperature", "humidity", "ventilation")
"""ppm, degrees C, % relative humidity, share of full flow."""

_EVENTS = pl.Schema({"room": pl.String, "property": pl.String, "time": pl.Int64, "value": pl.Float64})
_TRUTH = pl.Schema({"room": pl.String, "time": pl.Int64, "occupied": pl.Boolean})

# Of Windesheim's measurements: our name, and what their numbers are multiplied by.
_MEASURED = {
    "co2__ppm": ("co2", 1.0),
    "temp_in__degC": ("temperature", 1.0),
    "rel_humidity__0": ("humidity", 100.0),
    "valve_frac__0": ("ventilation", 1.0),
}
_MOTION = "occupancy__bool"

# Of a CSV file's header, whatever its case: what a column's name begins with, our name.
_COLUMNS = {"co2": "co2", "temp": "temperature", "humidity": "humidity", "rh": "humidity", "vent": "ventilation"}
_TIMES, _OCCUPIED, _ROOMS = ("time", "date"), ("occup",), ("room", "id")


@dataclass(frozen=True)
class Recording:
    """What sensors said, and the truth.

    Attributes:
        events: `room`, `property` (of `PROPERTIES`), `time` (ms since 1970), `value`; by time.
        truth: `room`, `time`, `occupied`; by room and time, may have no rows.
        timezone: in which people's days are; "UTC" where a file has local times without a zone, which then count as they are.
    """

    events: pl.DataFrame
    truth: pl.DataFrame
    timezone: str

    @property
    def rooms(self) -> list[str]:
        return self.events["room"].unique().sort().to_list()


def read(directory: Path) -> Recording:
    """Read a directory of recordings: Parquet files of measurements, UCI's text files, or CSV files.

    - `*.parquet` with `id`, `source`, `timestamp`, `property`, `value`, as Windesheim's (Brains4Buildings 2022). Of several sources
      of a room's property the one that says most is taken; the truth is the motion sensor, `occupancy__bool`.
    - `*.txt`, as UCI 357 (Candanedo and Feldheim 2016); each file is a room. Light is left out: it gives the answer away.
    - `*.csv` with a time and any of CO2, temperature, humidity, ventilation, occupancy and room; without one, each file is a room.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file lacks a column that it needs.
    """
    kinds = {"*.parquet": _measurements, "*.txt": _uci, "*.csv": _table}
    for pattern, reader in kinds.items():
        if paths := sorted(directory.glob(pattern)):
            parts = [reader(path) for path in paths]
            events = pl.concat([p.events for p in parts]).sort("time", "room", "property", maintain_order=True)
            truth = pl.concat([p.truth for p in parts]).sort("room", "time")
            return Recording(events, truth, parts[0].timezone)
    raise FileNotFoundError(f"{directory}: expected {', '.join(kinds)} with recordings of rooms, got none of them")


def _measurements(path: Path) -> Recording:
    table = pl.read_parquet(path)
    if missing := [c for c in ("id", "source", "timestamp", "property", "value") if c not in table.columns]:
        raise ValueError(f"{path}: columns {missing} missing, got {table.columns}; is it a file of measurements?")
    zone = getattr(table.schema["timestamp"], "time_zone", None) or "UTC"
    table = table.with_columns(
        pl.col("id", "source", "property").cast(pl.String),
        time=pl.col("timestamp").dt.epoch("ms"),
        value=pl.col("value").cast(pl.Float64, strict=False),
    ).drop_nulls("value")
    table = table.rename({"id": "room"})
    known = table.filter(pl.col("property").is_in([*_MEASURED]))
    most = known.group_by("room", "property", "source").len().sort("len", "source").group_by("room", "property").last()
    known = known.join(most.drop("len"), on=["room", "property", "source"], how="semi")
    names, factors = ({theirs: ours[i] for theirs, ours in _MEASURED.items()} for i in (0, 1))
    events = known.select(
        "room",
        pl.col("property").replace_strict(names, return_dtype=pl.String),
        "time",
        pl.col("value") * pl.col("property").replace_strict(factors, return_dtype=pl.Float64),
    )
    truth = table.filter(pl.col("property") == _MOTION).select("room", "time", occupied=pl.col("value") > 0.5)
    return Recording(events.select(_EVENTS.names()).cast(_EVENTS), truth.select(_TRUTH.names()).cast(_TRUTH), zone)


def _uci(path: Path) -> Recording:
    header = path.read_text().split("\n", 1)[0].replace('"', "").strip().split(",")
    names = ["number", *header]  # each line begins with its number, which the header does not name
    table = pl.read_csv(path, has_header=False, skip_rows=1)
    if table.width != len(names):
        raise ValueError(f"{path}: {table.width} columns, expected {len(names)}; is it a file of UCI 357?")
    table.columns = names
    return _columns(path, table.drop("number", "Light", "HumidityRatio", strict=False))


def _table(path: Path) -> Recording:
    return _columns(path, pl.read_csv(path, infer_schema_length=10_000))


def _columns(path: Path, table: pl.DataFrame) -> Recording:
    """A row a moment, a column a property."""
    time, occupied, room = (_named(table, names) for names in (_TIMES, _OCCUPIED, _ROOMS))
    found = {c: ours for start, ours in _COLUMNS.items() if (c := _named(table, (start,)))}
    if time is None or not found:
        raise ValueError(f"{path}: expected a time and one of {PROPERTIES} at least, got columns {table.columns}")
    text = pl.col(time).cast(pl.String).str.replace("T", " ").str.replace(r"(Z|[+-]\d\d:?\d\d)$", "")
    whole = pl.col(room).cast(pl.String) if room else pl.lit(path.stem)
    table = table.with_columns(
        time=text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False).fill_null(
            text.str.to_datetime("%Y-%m-%d %H:%M", strict=False)
        ).dt.epoch("ms"),
        room=whole,
    )  # fmt: skip
    if nulls := table["time"].null_count():
        raise ValueError(f"{path}: {nulls} times do not parse; expected such as 2026-01-31 12:00:00 in column {time!r}")
    parts = [
        table.select("room", property=pl.lit(ours), time="time", value=pl.col(c).cast(pl.Float64, strict=False))
        for c, ours in found.items()
    ]
    events = pl.concat(parts).drop_nulls("value")
    known = pl.col(occupied).cast(pl.Float64, strict=False) > 0.5 if occupied else pl.lit(None, pl.Boolean)
    truth = table.select("room", "time", occupied=known).drop_nulls("occupied")
    return Recording(events.select(_EVENTS.names()).cast(_EVENTS), truth.select(_TRUTH.names()).cast(_TRUTH), "UTC")


def _named(table: pl.DataFrame, starts: tuple[str, ...]) -> str | None:
    """The first column whose name begins so, whatever its case."""
    return next((c for s in starts for c in table.columns if re.match(s, c.strip(), re.IGNORECASE)), None)
