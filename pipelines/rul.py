"""Remaining useful life: from machines' readings, the cycles that are left and the model's attention; alerts at two levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import Field

from tocsin.models.rul.domain import Rul
from tocsin.models.rul.model import load
from tocsin.pipelines.runtime import AlertRule, ConfigError, Model, Options, Pipeline
from tocsin.pipelines.runtime.stages import Infer, Reorder, SlidingWindow

JUMP = 10_000


class RulOptions(Options):
    """The options of the RUL pipeline.

    Args:
        warning, critical: levels, in the unit of the model's order column; None: the model's own.
        hysteresis: how far above its level an alert ends.
        hold: rows in a row below the level that raise an alert.
        jump: a reading that is this much further than its machine's last one, in the unit of the order column, waits for the next
            one to confirm it.
        restart: the order column is a counter that starts again after an overhaul, at no more than this. None: it never does.
    """

    name: str = "rul"
    topic: str = "sensors.industrial"
    warning: float | None = Field(default=None, ge=0)
    critical: float | None = Field(default=None, ge=0)
    hysteresis: float = Field(default=5, ge=0)
    hold: int = Field(default=1, ge=1)
    jump: float = Field(default=JUMP, ge=0)
    restart: float | None = Field(default=None, ge=0)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The RUL pipeline; columns, key, window and levels are the model's.

    Args:
        options: of `RulOptions`; all may be absent.
        model: written by `tocsin train rul`.

    Raises:
        ConfigError: an option is unknown or wrong, or the critical level is above the warning level.
        ModelError: there is no model, or it does not load.
    """
    o = RulOptions.read(options)
    model = Model.required(model, "rul")
    network = model.load(load, training="tocsin train rul")
    config = network.config
    warning = config.warning if o.warning is None else o.warning
    critical = config.critical if o.critical is None else o.critical
    if critical > warning:
        raise ConfigError(f"pipelines.{o.name}: expected critical <= warning, got {critical:g} > {warning:g}")
    reading = pa.schema(
        [pa.field(name, pa.type_for_alias(kind), nullable=False) for name, kind in config.types.items()]
    )
    key, order = (reading.field(name).with_nullable(True) for name in (config.key, config.order))
    rul = pa.field("rul", pa.float32(), metadata={"unit": config.order, "axis": "rul"})
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=reading,
        key=config.key,
        stages=[
            Reorder(by=config.order, jump=o.jump, restart=o.restart),
            SlidingWindow(config.window, config.features, counter=None if o.restart is None else config.order),
            Infer(network),
        ],
        results=pa.schema([key, order, rul, ("attention", pa.list_(pa.float32()))]),
        rules=[
            AlertRule(
                name=level,
                severity=level,
                when=pl.col("rul") < at,
                clear=pl.col("rul") > at + o.hysteresis,
                hold=o.hold,
                data=[config.key, config.order, "rul"],
            )
            for level, at in (("warning", warning), ("critical", critical))
        ],
        model_version=model.version,
    )


domain = Rul()
