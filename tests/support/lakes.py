"""A small lake with what pipelines give over simulated readings, made by `replay`: no Kafka and no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow as pa

from tocsin.models.domain import Shot
from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation.fleet import live
from tocsin.models.surprise.model import SHIPPED
from tocsin.models.surprise.simulation.scene import Dive
from tocsin.pipelines import occupancy, rul, surprise
from tocsin.pipelines.runtime import Alert, Model, Pipeline, replay, replay_clip
from tocsin.pipelines.runtime.control.deployment import alerts_table_plan
from tocsin.pipelines.runtime.engine.alerts import SOURCE, TYPE
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable

NOON_MS = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)


def fleet(engines: int, cycles: int) -> tuple[Pipeline, pl.DataFrame, list[Alert]]:
    """The pipeline `rul` over a fleet; some engines fail within 40 cycles."""
    declared = rul.pipeline({}, Model(FD001, "fd001", "cpu"))
    frames = islice(live(engines=engines, seed=0), cycles)
    readings = pl.concat(frame.select(declared.schema.names) for frame in frames).to_arrow().cast(declared.schema)
    times = pa.array(range(NOON_MS, NOON_MS + 1000 * len(readings), 1000))
    return declared, *replay(declared, readings.append_column("_timestamp", times))


def building(rooms: int, days: int) -> tuple[Pipeline, pl.DataFrame, list[Alert]]:
    """The pipeline `occupancy` over a building."""
    declared = occupancy.pipeline({}, Model(OFFICES, "offices", "cpu"))
    return declared, *replay(declared, occupancy.readings(recorded("sim", rooms=rooms, days=days, seed=1)))


def dive(seconds: float, seed: int = 100) -> tuple[Pipeline, pl.DataFrame, list[Alert]]:
    """The pipeline `surprise` over a dive. Kept frames are not in the lake."""
    declared = surprise.pipeline({}, Model(Path(SHIPPED), "dives", "cpu"))
    shots = (Shot(p, {"camera": "rov", "time": NOON_MS + 100 * n}) for n, p in enumerate(Dive(seed, seconds=seconds)))
    table, alerts, _ = replay_clip(declared, shots, rate=10)
    return declared, table, alerts


def land(folder: Path, pipeline: Pipeline, rows: pl.DataFrame, alerts: Sequence[Alert]) -> None:
    """Commit rows to the pipeline's table, and its alerts to the table `alerts`, as shards do."""
    lake = Lake(str(folder))
    _commit(lake, pipeline, rows)
    landing = alerts_table_plan(pipeline.name).build(lake)
    readings = pa.Table.from_pylist([_reading(alert) for alert in alerts], schema=landing.schema)
    _commit(lake, landing, replay(landing, readings)[0])


def _commit(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame) -> None:
    table = ResultsTable(lake, pipeline, 0)
    table.own({0: 0})
    batches: Iterable[pa.RecordBatch] = rows.to_arrow().cast(pipeline.table).to_batches()
    table.publish(table.write([*batches]), {0: rows.height}, 1)


def _reading(alert: Alert) -> dict[str, object]:
    """An alert as the pipeline that lands alerts reads it."""
    return {
        **{"id": alert.id, "source": SOURCE + alert.pipeline, "type": TYPE + alert.transition, "subject": alert.key},
        **{"time": alert.time, "rule": alert.rule, "severity": alert.severity, "data": alert.value().decode()},
    }
