"""Trust in sensors: watches the readings of any topic, and rings for those that are stuck, drift, drop out or are otherwise off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from tocsin.models.quality.domain import Quality, as_table
from tocsin.models.quality.model import load
from tocsin.models.quality.series import Series
from tocsin.models.quality.simulation.faulty import CHANNELS
from tocsin.pipelines.parts import trust
from tocsin.pipelines.runtime import (
    AlertRule,
    ConfigError,
    Duration,
    Model,
    Options,
    Pipeline,
    replay,
)
from tocsin.pipelines.runtime.stages import Inactivity

TYPES = {"timestamp": pa.timestamp("ms", tz="UTC"), "number": pa.float64()}
ADDED = ("quality", "reason", "channel", "silent")
"""Result columns besides the key and the time."""


class QualityOptions(Options):
    """The options of the quality pipeline.

    Args:
        key, key_type: the field that names the asset.
        time, time_type: the field by which clocks are judged: a moment, or a number such as a cycle; "": there is none.
        columns: the fields that are watched, numbers; null or absent: a missing reading.
        level: quality below which a window is bad; None: the model's own.
        hold: verdicts in a row below the level that raise an alert.
        stride: readings of an asset from one verdict to the next; divides 32.
        relearn: readings in a row without trust after which an asset's past is forgotten, and what comes is usual; None: never.
        silent: time without a reading that raises an alert.
    """

    name: str = "quality"
    topic: str = "sensors.plant"
    key: str = "asset"
    key_type: Literal["string", "int64"] = "string"
    time: str = "time"
    time_type: Literal["timestamp", "number"] = "timestamp"
    columns: tuple[str, ...] = Field(default=CHANNELS, min_length=1)
    level: float | None = Field(default=None, gt=0, lt=1)
    hold: int = Field(default=2, ge=1)
    stride: Literal[1, 2, 4, 8, 16, 32] = 8
    relearn: int | None = Field(default=None, ge=32)
    silent: Duration = "1h"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The quality pipeline: a row a verdict.

    The event time is Kafka's timestamp, so that a reading whose own clock is wrong is judged and not refused.

    Args:
        options: of `QualityOptions`; all may be absent.
        model: written by `tocsin train quality`.

    Raises:
        ConfigError: an option is unknown or wrong, or two name the same field.
        ModelError: there is no model, or it does not load.
    """
    o = QualityOptions.read(options)
    model = Model.required(model, "quality")
    network = model.load(load, training="tocsin train quality")
    names = [o.key, *([o.time] if o.time else []), *o.columns]
    if clash := next((name for at, name in enumerate(names) if name in ADDED or name in names[:at]), None):
        raise ConfigError(
            f"pipelines.{o.name}: expected fields with names of their own, other than {', '.join(ADDED)}, got {clash!r} twice; "
            "correct key, time or columns"
        )
    kind = TYPES[o.time_type]
    level = network.config.level if o.level is None else o.level
    facts = [pa.field(o.key, pa.type_for_alias(o.key_type)), *([pa.field(o.time, kind)] if o.time else [])]
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema(
            [field.with_nullable(False) for field in facts]
            + [pa.field(name, pa.float64(), metadata={"nan": "null"}) for name in o.columns]
        ),
        key=o.key,
        stages=[
            trust.stage(
                o.columns, network, level=level, time=o.time or None, every=o.stride, sparse=True, relearn=o.relearn
            ),
            Inactivity(o.silent),
        ],
        results=pa.schema(
            [
                *facts,
                trust.COLUMNS[0].with_metadata({"unit": "probability", "axis": "quality"}),
                *trust.COLUMNS[1:],
                pa.field("silent", pa.bool_()),
            ]
        ),
        rules=[
            AlertRule(
                name="bad_sensor",
                severity="warning",
                when=pl.col("quality") < level,
                clear=pl.col("quality") > (1 + level) / 2,
                hold=o.hold,
                data=[field.name for field in facts] + ["quality", "reason", "channel"],
            ),
            AlertRule(name="silent_sensor", severity="critical", when=pl.col("silent"), data=[o.key]),
        ],
        model_version=model.version,
        warmup="7d",  # rebuilds what an asset's readings usually are
    )


def watched(series: Sequence[Series], folder: Path, version: str) -> tuple[int, int]:
    """How many verdicts the pipeline gives on series as they are, and how many alerts it raises."""
    verdicts = alerts = 0
    groups = dict[tuple[str, ...], list[Series]]()
    for each in series:
        groups.setdefault(each.channels, []).append(each)
    for channels, group in groups.items():
        names = {channel: f"c{number}" for number, channel in enumerate(channels)}
        options = {"columns": tuple(names.values()), "time_type": "number", "silent": "9999d"}
        declared = pipeline(options, Model(folder, version, "cpu"))
        rows, rang = replay(declared, as_table(group).rename(names).to_arrow().cast(declared.schema))
        verdicts += rows.height
        alerts += sum(alert.transition == "raised" for alert in rang)
    return verdicts, alerts


domain = Quality(watched)
