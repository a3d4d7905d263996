"""Remaining useful life: machines' readings in, cycles left and where the model looked out, alerts at two levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from tocsin.models.rul.domain import Rul
from tocsin.models.rul.model import load
from tocsin.pipelines.runtime import AlertRule, ConfigError, Model, ModelError, Pipeline
from tocsin.pipelines.runtime.stages import Infer, Reorder, SlidingWindow

OPTIONS = (
    "name",
    "topic",
    "warning",
    "critical",
    "hysteresis",
    "hold",
    "jump",
    "restart",
)
JUMP = 10_000
"""A reading that is further ahead of its machine's last one, in the unit of the order column, needs a second one to confirm it."""


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The RUL pipeline; columns, key, window and levels are the model's.

    Args:
        options: all may be absent. `name` ("rul"), `topic` ("sensors.industrial"), `warning` and `critical` (levels, in the
            unit of the model's order column; default: the model's own), `hysteresis` (how far above its level an alert ends,
            5), `hold` (rows in a row below it, 1); `jump` (a reading that is further ahead of its machine's last one waits for
            the next one to confirm it, 10000) and `restart` (the order column is a counter that starts again after an overhaul,
            at no more than this; without it, it never does).
        model: as written by `tocsin train rul`.

    Raises:
        ConfigError: an unknown option, one that is no number, or a critical level above the warning level.
        ModelError: no model, or files that do not make one.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"pipelines.rul: expected options of {', '.join(OPTIONS)}, got {', '.join(unknown)}; mend tocsin.toml"
        )
    if model is None:
        raise ModelError(
            "pipelines.rul: expected a model, got none; set model = 'rul@champion' or a folder that training wrote"
        )
    judge = model.load(load, training="tocsin train rul")
    config = judge.config
    levels = {level: _number(options, level, getattr(config, level)) for level in ("warning", "critical")}
    if levels["critical"] > levels["warning"]:
        raise ConfigError(
            f"pipelines.rul: expected critical <= warning, got {levels['critical']:g} > {levels['warning']:g}"
        )
    end = {level: at + _number(options, "hysteresis", 5) for level, at in levels.items()}
    restart = _number(options, "restart", 0) if "restart" in options else None
    reading = pa.schema(
        [pa.field(name, pa.type_for_alias(kind), nullable=False) for name, kind in config.types.items()]
    )
    key, order = (reading.field(name).with_nullable(True) for name in (config.key, config.order))
    return Pipeline(
        name=options.get("name", "rul"),
        topic=options.get("topic", "sensors.industrial"),
        schema=reading,
        key=config.key,
        stages=[
            Reorder(by=config.order, jump=_number(options, "jump", JUMP), restart=restart),
            SlidingWindow(config.window, config.features, counter=None if restart is None else config.order),
            Infer(judge),
        ],
        results=pa.schema([key, order, ("rul", pa.float32()), ("attention", pa.list_(pa.float32()))]),
        rules=[
            AlertRule(
                name=level,
                severity=level,
                when=pl.col("rul") < levels[level],
                clear=pl.col("rul") > end[level],
                hold=int(_number(options, "hold", 1)),
                data=[config.key, config.order, "rul"],
            )
            for level in ("warning", "critical")
        ],
        model_version=model.version,
    )


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    """An option that must be a number, not below 0."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigError(f"pipelines.rul: expected {name} to be a number from 0 up, got {value!r}; mend tocsin.toml")
    return value


domain = Rul()
