"""Recordings of halls from a folder: `halls.toml` with their plans, and CSV files of readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tocsin.models import tables
from tocsin.models.field.hall import Hall, read
from tocsin.models.field.scenes import Scene
from tocsin.models.folders import listed

PLANS = "halls.toml"
COLUMNS = ("hall", "sensor", "time", "value")
MINUTE_MS = 60_000
FEWEST = 4
"""Sensors with a reading that a minute needs to be judged: three, and one that is hidden."""


def load(folder: Path, *, decimal_comma: bool = False) -> tuple[dict[str, Hall], pl.DataFrame]:
    """The halls of a folder, and their readings with `COLUMNS` in the order of time; `time` in ms since 1970 UTC.

    Raises:
        FileNotFoundError: there are no plans, or no readings.
        ValueError: a plan, a cell, or the name of a hall or sensor is wrong.
    """
    halls = read(folder / PLANS)
    files = listed(folder, ".csv")
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected CSV files with the columns {', '.join(COLUMNS)}, got none; check --data"
        )
    table = pl.concat([_readings(file, halls, decimal_comma=decimal_comma) for file in files])
    return halls, table.unique(["hall", "sensor", "time"], keep="first", maintain_order=True).sort(
        "time", "hall", "sensor"
    )


def _readings(file: Path, halls: dict[str, Hall], *, decimal_comma: bool) -> pl.DataFrame:
    sheet = tables.read(file, decimal_comma=decimal_comma)
    sheet.require(*COLUMNS)
    texts = {name: sheet.texts(name) for name in COLUMNS[:3]}
    places = {(name, sensor) for name, hall in halls.items() for sensor in hall.sensors}
    for name in ("hall", "sensor"):
        pairs = zip(texts["hall"], texts["sensor"], strict=True)
        known = [hall in halls if name == "hall" else pair in places for pair in pairs for hall in pair[:1]]
        sheet.refuse(~pl.Series(known, dtype=pl.Boolean), name, f"a {name} of {PLANS}")
    counted = texts["time"].str.contains(r"^\d+$").all()
    time = sheet.integers("time") if counted else sheet.times("time") // 1000
    return pl.DataFrame(
        {"hall": texts["hall"], "sensor": texts["sensor"], "time": time, "value": sheet.numbers("value")},
        schema={"hall": pl.String, "sensor": pl.String, "time": pl.Int64, "value": pl.Float64},
    )


def scenes(halls: dict[str, Hall], readings: pl.DataFrame) -> tuple[list[Scene], int]:
    """A scene for each hall and minute with `FEWEST` sensors at least, and how many minutes had fewer."""
    minute = (pl.col("time") // MINUTE_MS).alias("minute")
    means = readings.group_by("hall", minute, "sensor", maintain_order=True).agg(pl.col("value").mean())
    found, few = list[Scene](), 0
    for (name, _), part in means.group_by("hall", "minute", maintain_order=True):
        if part.height < FEWEST:
            few += 1
            continue
        hall = halls[str(name)]
        places = np.array([hall.sensors[sensor] for sensor in part["sensor"]])
        found.append(Scene(hall, places, part["value"].to_numpy(), 0.0))
    return found, few
