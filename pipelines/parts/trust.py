"""How pipelines judge whether their sensors can be trusted: the option `quality`, its stage and its columns."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.model import QualityModel, load
from tocsin.pipelines.runtime import ConfigError
from tocsin.pipelines.runtime.stages import Quality
from tocsin.pipelines.runtime.stages.quality import CHANNEL, QUALITY, REASON

COLUMNS = (
    pa.field(QUALITY, pa.float32(), metadata={"unit": "probability"}),
    pa.field(REASON, pa.string()),
    pa.field(CHANNEL, pa.string()),
)
"""The result columns."""


def stage(
    columns: Sequence[str],
    model: QualityModel,
    *,
    level: float | None = None,
    time: str | None = None,
    every: int = 8,
    fresh: float | None = None,
    sparse: bool = False,
    relearn: int | None = None,
) -> Quality:
    """The stage with a model; other arguments are those of `Quality`. level: None: the model's own."""
    config = model.config
    return Quality(
        columns,
        model,
        window=config.window,
        memory=config.memory,
        reasons=REASONS,
        level=config.level if level is None else level,
        time=time,
        every=every,
        fresh=fresh,
        sparse=sparse,
        relearn=relearn,
    )


def stages(
    switched_on: bool, columns: Sequence[str], *, time: str | None = None, fresh: float | None = None
) -> list[Quality]:
    """The stage of the option `quality`, with the shipped model, which holds for any sensors; none if it is off."""
    return [stage(columns, load(device="cpu"), time=time, fresh=fresh)] if switched_on else []


def check(name: str, switched_on: bool, hold_below: float | None, columns: Sequence[str]) -> None:
    """Check the options of the pipeline `name`.

    Raises:
        ConfigError: alerts depend on a quality that is not judged, or one of the pipeline's columns is named like one of `COLUMNS`.
    """
    if switched_on and (clash := next((field.name for field in COLUMNS if field.name in columns), None)):
        raise ConfigError(
            f"pipelines.{name}.quality: expected no column named {clash!r}, got one; rename it, or set quality = false"
        )
    if hold_below is not None and not switched_on:
        raise ConfigError(
            f"pipelines.{name}.hold_below: expected quality = true beside it, got false; set both, or neither"
        )


def held(when: pl.Expr, below: float | None) -> pl.Expr:
    """A condition that does not hold while the quality is below a level; None: it does not depend on it."""
    return when if below is None else when & ~(pl.col(QUALITY) < below).fill_null(value=False)
