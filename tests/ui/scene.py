"""What the tests of the live page show: a lake with engines, rooms and a camera, statuses, alerts and dead letters."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable, write_deltalake
from PIL import Image, ImageDraw

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka.redelivery import PublishedDeadLetter

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENGINES, WINDOW, STEPS = 1000, 12, 2
SENSORS = ("s2", "s11", "s14")


def rows(pipeline: str, key: str, columns: dict[str, Any], *, every: timedelta, partition: int = 0) -> pl.DataFrame:
    """An asset's rows until noon, as a results table has them; `columns` are lists of one length."""
    n = len(next(iter(columns.values())))
    times = [NOON - every * (n - 1 - i) for i in range(n)]
    lineage = {"topic": "sensors", "partition": partition, "row": 0, "key": key, "model_version": f"{pipeline}/2"}
    return pl.DataFrame(
        {
            **{name: [value] * n for name, value in lineage.items()},
            "offset": [*range(n)],
            "event_time": times,
            "processed_at": times,
            "event_date": [f"{time:%Y-%m-%d}" for time in times],
            **columns,
        }
    )


def commit(lake: Path, table: str, frame: pl.DataFrame) -> None:
    """Append rows to a table of the lake."""
    write_deltalake(lake / table, frame.to_arrow(), mode="append", partition_by=["event_date"])


def describe(lake: Path, table: str, **columns: dict[str, str]) -> None:
    """Give columns of a table the metadata of a pipeline's declaration."""
    for name, metadata in columns.items():
        DeltaTable(lake / table).alter.set_column_metadata(name, metadata)


def engine(key: str, cycles: int = 3, left: float = 90.0) -> pl.DataFrame:
    """The rows of an engine that wears out."""
    rul = [max(left + (cycles - i) * 0.3 + 2 * math.sin(i), 0) for i in range(cycles)]
    moved = [[round(9 - s * step - r / 20) for step in range(STEPS) for s in range(len(SENSORS))] for r in rul]
    columns = {
        "unit": [int(key)] * cycles,
        "cycle": [*range(cycles)],
        "rul": rul,
        "rul_low": [0.8 * r for r in rul],
        "rul_high": [r + 8 for r in rul],
        "explanation": moved,
    }
    floats = pl.col("rul", "rul_low", "rul_high").cast(pl.Float32)
    whole = rows("rul", key, columns, every=timedelta(seconds=30))
    return whole.with_columns(floats, pl.col("explanation").cast(pl.List(pl.Int8)))


def room(key: str, minutes: int = 240) -> pl.DataFrame:
    """The rows of a room in which people meet twice."""
    there = [60 <= i < 110 or 160 <= i < 220 for i in range(minutes)]
    columns = {
        "room": [key] * minutes,
        "probability": [0.93 if t else 0.06 for t in there],
        "occupied": there,
        "scheduled": [i < 180 for i in range(minutes)],
        "attention": [[math.exp(-((j - 9 + i % 5) ** 2) / 6) / 4 for j in range(WINDOW)] for i in range(minutes)],
        "co2": [480.0 + (500 if t else 60) * math.sin(i / 40) ** 2 for i, t in enumerate(there)],
    }
    return rows("occupancy", key, columns, every=timedelta(minutes=1))


def camera(lake: Path, key: str, n: int = 120) -> pl.DataFrame:
    """The rows of a camera that sees something at frame 100; every tenth frame is kept."""
    paths = [f"frames/surprise/2026-01-31/{i}.jpg" if i % 10 == 0 else None for i in range(n)]
    for i, path in enumerate(paths):
        if path:
            image = Image.new("RGB", (160, 96), (20, 60 + i // 2, 90))
            ImageDraw.Draw(image).ellipse((60 + i // 6, 30, 90 + i // 6, 60), fill=(200, 180, 90))
            content = io.BytesIO()
            image.save(content, "JPEG")
            (lake / path).parent.mkdir(parents=True, exist_ok=True)
            (lake / path).write_bytes(content.getvalue())
    score = [0.1 + (1.5 if 96 <= i < 106 else 0.05 * math.sin(i)) for i in range(n)]
    columns = {"camera": [key] * n, "sequence": [*range(n)], "score": score, "level": [0.6] * n, "frame": paths}
    return rows("surprise", key, columns, every=timedelta(milliseconds=200))


def build_lake(lake: Path, engines: int = ENGINES) -> None:
    """Write the tables."""
    commit(
        lake,
        "rul",
        pl.concat([engine("7", 400, 12.0), *(engine(str(n), 1, n % 120) for n in range(8, 8 + engines - 1))]),
    )
    unit = {"unit": "cycle"}
    describe(lake, "rul", rul={**unit, "axis": "rul"}, rul_low=unit, rul_high=unit)
    describe(lake, "rul", explanation={"steps": "2,older", "sensors": ",".join(SENSORS), "unit": "cap / 1000"})
    commit(lake, "occupancy", room("atrium"))
    describe(lake, "occupancy", probability={"axis": "probability"}, co2={"axis": "co2", "unit": "ppm"})
    describe(lake, "occupancy", occupied={"axis": "people"}, scheduled={"axis": "people"})
    commit(lake, "surprise", camera(lake, "rov"))


def alert(
    key: str = "7", rule: str = "critical", transition: str = "raised", *, id: str = "", after_s: float = 0.0
) -> Alert:
    """An alert of an engine."""
    severity = rule if rule in ("critical", "warning") else "warning"
    at = NOON + timedelta(seconds=after_s)
    id = id or f"{abs(hash((key, rule, transition, after_s))):032x}"[:32]
    return Alert(id, "rul", rule, severity, transition, key, at, {"unit": key, "cycle": 400, "rul": 12.25})


def letter(offset: int = 7, error: str = "BadValue") -> PublishedDeadLetter:
    """A dead letter."""
    value = json.dumps({"unit": 7, "cycle": 12, "s1": "warm"}).encode()
    dead = DeadLetter(
        topic="sensors.industrial", partition=3, offset=offset, row=None, stage="decode", error=error,
        message="s1: expected a number, got 'warm'", timestamp=1, key=b"7", value=value, headers=(("source", b"plant"),),
    )  # fmt: skip
    return PublishedDeadLetter(0, offset, round(NOON.timestamp() * 1000), 0, dead)


def shard(pipeline: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A shard as `tocsin status --json` prints it."""
    return {
        "pipeline": pipeline, "shard": number, "state": "running", "error": "", "read": {"0": 100}, "committed": {"0": 90},
        "unread_partitions": [], "damaged": {}, "digest_mismatches": 0, "lag": 12, "committed_lag": 22,
        "uncommitted_rows": 10, "rows_per_s": 1500.0, "results_per_s": 1500.0,
        "latency_ms": {"p50": 4.0, "p95": 9.0, "p99": 21.0}, "keys": 3, "dead_letters": 0, "dead_letter": None,
        "model": f"{pipeline}/2", "epoch": 1, "worker": "w", "pid": 1, "restarts": 0, **changes,
    }  # fmt: skip


def report(pipeline: str, *shards: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A pipeline as `tocsin status --json` prints it."""
    return {
        "pipeline": pipeline, "workers": 1, "restarts": 0, "paused": False, "silences": {}, "ready": True, "problems": [],
        "mlflow_run": None, "shards": list(shards) or [shard(pipeline)], "landing": [], "sinks": [], "scores": [], "drift": None,
        **changes,
    }  # fmt: skip
