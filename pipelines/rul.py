"""Remaining useful life: from machines' readings, the cycles that are left, with an interval and an explanation, and alerts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from tocsin.models.imputer.levels import Levels
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.domain import Rul
from tocsin.models.rul.explainer import UNITS
from tocsin.models.rul.imputer import columns
from tocsin.models.rul.live import live_scores
from tocsin.models.rul.model import RulModel, load
from tocsin.models.rul.network import FusionNetwork
from tocsin.models.rul.scaling import Scaling
from tocsin.operators.fading import keeps
from tocsin.pipelines.parts import imputation, trust
from tocsin.pipelines.parts.intervals import Nearby
from tocsin.pipelines.runtime import (
    AlertRule,
    Cell,
    ConfigError,
    ContextTopic,
    Declared,
    Duration,
    Model,
    Options,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    Truth,
    milliseconds,
)
from tocsin.pipelines.runtime.stages import Census, InContext, Infer, Reorder, Site, SlidingWindow

JUMP = 10_000
MAINTENANCE = "maintenance"
STRANGE = 5
"""Rows in a row outside the model's domain that raise an alert."""


class RulOptions(Options):
    """The options of the RUL pipeline.

    Args:
        warning, critical: levels, in the unit of the model's order column; None: the model's own.
        hysteresis: how far above its level an alert ends.
        hold: rows in a row below the level that raise an alert.
        jump: a reading that is this much further than its machine's last one, in the unit of the order column, waits for the next
            one to confirm it.
        restart: the order column is a counter that starts again after an overhaul, at no more than this. None: it never does.
        drift: the index from which the sensors of the fleet count as drifted from training; None: the model's own level, which
            depends on the number of machines.
        by: what the levels apply to: the prediction, or the lower end of its interval, which rings earlier.
        site: for a model with adapters: a regular expression whose group is the site in a key, such as ^([^/]+)/; "": the key
            itself is the site.
        impute: how missing settings and sensors are filled; "off": a reading that lacks one is a dead letter.
        period: for a model with context: event time in one unit of the order column; None: as in training.
        quality: whether the last 32 readings of a machine can be trusted is judged, and stored with each result.
        hold_below: the quality below which no warning and no critical alert is raised; None: they do not depend on it.
    """

    name: str = "rul"
    topic: str = "sensors.industrial"
    warning: float | None = Field(default=None, ge=0)
    critical: float | None = Field(default=None, ge=0)
    hysteresis: float = Field(default=5, ge=0)
    hold: int = Field(default=1, ge=1)
    jump: float = Field(default=JUMP, ge=0)
    restart: float | None = Field(default=None, ge=0)
    by: Literal["rul", "rul_low"] = "rul"
    site: str = ""
    drift: float | None = Field(default=None, gt=0)
    impute: imputation.Method = "off"
    period: Duration | None = None
    quality: bool = False
    hold_below: float | None = Field(default=None, gt=0, lt=1)


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
    fillable = columns(config)
    names = [config.columns[at] for at in fillable]
    trust.check(o.name, o.quality, o.hold_below, list(config.types))
    reading = pa.schema(
        [
            pa.field(name, pa.type_for_alias(kind), nullable=True, metadata={"nan": "null"})
            if o.impute != "off" and name in names
            else pa.field(name, pa.type_for_alias(kind), nullable=False)
            for name, kind in config.types.items()
        ]
    )
    counter = None if o.restart is None else config.order
    drift = network.reference.distribution(config.features, o.drift)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=reading,
        key=config.key,
        stages=[
            Reorder(by=config.order, jump=o.jump, restart=o.restart),
            # A counter that restarts is no wrong clock.
            *trust.stages(o.quality, names, time=config.order if counter is None else None),
            *imputation.stages(
                o.impute,
                names,
                pipeline=o.name,
                model=model,
                levels=_levels(network.scaling, fillable),
                counter=counter,
            ),
            *(
                [Life(network.scaling, config, counter=counter)]
                if config.model == "fading"
                else [SlidingWindow(config.window, config.columns, counter=counter, padded=True), Age(config.order)]
            ),
            *([_nearby(config, o.period)] if config.context else []),
            *([Site(network.sites.names, pattern=o.site)] if network.sites else []),
            Infer(network, tensor=network.tensors),
            # Last, so that no other stage's state moves.
            *([Census(partial(_count, network), version=model.version)] if drift else []),
            InContext([MAINTENANCE]),
        ],
        results=_results(
            config, reading, adapted=network.sites is not None, filled=o.impute != "off", judged=o.quality
        ),
        rules=[
            *(
                AlertRule(
                    name=level,
                    severity=level,
                    when=trust.held(_below(o.by, at) & ~pl.col(MAINTENANCE).fill_null(value=False), o.hold_below),
                    clear=pl.col(o.by) > at + o.hysteresis,
                    hold=o.hold,
                    data=[config.key, config.order, "rul", "rul_low", "rul_high"],
                )
                for level, at in (("warning", warning), ("critical", critical))
            ),
            AlertRule(
                name="out_of_domain",
                severity="warning",
                when=~pl.col("in_domain"),
                hold=STRANGE,
                data=[config.key, config.order, "rul"],
            ),
        ],
        context=ContextTopic(kinds=[*dict.fromkeys([MAINTENANCE, *config.context])], numbers=config.context_numbers),
        truth=Truth(
            schema=pa.schema([reading.field(config.key), reading.field(config.order)]),
            key=config.key,
            score=partial(live_scores, config=config, restarts=o.restart is not None),
        ),
        drift=drift,
        model_version=model.version,
    )


def _nearby(config: RulConfig, period: str | None) -> Nearby:
    """The stage that shows the network its context."""
    unit = 1000 * (config.period or 1) if period is None else milliseconds(period)
    return Nearby(config.context, config.context_numbers, unit=unit, horizon=config.horizon)


def _count(network: RulModel, rows: Rows) -> Tensor:
    """Count readings for drift."""
    config = network.config
    given = torch.stack([rows.column(name).double() for name in config.columns], dim=1)
    age = rows.column(config.order).double()
    return network.reference.count(given[:, len(config.settings) :], network.scaling.regime(given), age)


def _below(by: str, level: float) -> pl.Expr:
    """Below a level. Outside the model's domain the interval is everything, and its lower end says nothing."""
    below = pl.col(by) < level
    return below & pl.col("in_domain") if by == "rul_low" else below


def _levels(scaling: Scaling, at: list[int]) -> Levels:
    """What the model's training readings usually are; of the columns at `at`."""
    mean = torch.cat([scaling.centres, scaling.mean], dim=1)
    deviation = torch.cat([scaling.spread.expand_as(scaling.centres), scaling.deviation], dim=1)
    return Levels(mean[:, at], deviation[:, at])


def _results(config: RulConfig, reading: pa.Schema, *, adapted: bool, filled: bool, judged: bool) -> pa.Schema:
    key, order = (reading.field(name).with_nullable(True) for name in (config.key, config.order))
    unit = {"unit": config.order}
    ahead = {"sensors": ",".join(config.features), "rows": str(FusionNetwork.AHEAD)}
    shape = {"steps": ",".join(config.steps), "sensors": ",".join(config.features), "unit": f"cap / {UNITS}"}
    return pa.schema(
        [
            key,
            order,
            pa.field("rul", pa.float32(), metadata={**unit, "axis": "rul"}),
            *(pa.field(name, pa.float32(), metadata=unit) for name in ("rul_low", "rul_high")),
            pa.field("in_domain", pa.bool_()),
            pa.field("explanation", pa.list_(pa.int8()), metadata=shape),
            *([pa.field("adapter", pa.string())] if adapted else []),
            *([imputation.COLUMN] if filled else []),
            *(trust.COLUMNS if judged else []),
            (MAINTENANCE, pa.bool_()),
            ("context", pa.string()),
            *([pa.field("trajectory", pa.list_(pa.float32()), metadata=ahead)] if config.model == "fusion" else []),
        ]
    )


class Life(Stage):
    """Passes each row on with what is remembered of its key's life, for a `fading` model.

    Passes on `sums` `[B, K, M, C + 1]`, see `tocsin.models.rul.samples.remembered`, `latest` `[B, S + C]` and `age` `[B]`, all
    float64.

    Args:
        scaling: tells the regimes apart, and limits single readings that are far off.
        counter: the order column, if `Reorder` lets it restart: a restart begins a new life.
    """

    def __init__(self, scaling: Scaling, config: RulConfig, *, counter: str | None) -> None:
        self._scaling, self._config, self._counter = scaling, config, counter
        self._keep = keeps((*config.spans, math.inf))
        self._shape = (config.regimes, len(config.steps), len(config.features) + 1)

    @property
    def state(self) -> Mapping[str, Declared]:
        age = {"age": Cell(dtype=torch.float64)} if self._counter else {}
        return {"life": Cell(self._shape, torch.float64), **age}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        life = state.cell("life")
        latest = torch.stack([rows.column(name).double() for name in self._config.columns], dim=1)
        age = rows.column(self._config.order).double()
        regime = self._scaling.regime(latest)
        readings = self._scaling.limit(latest[:, len(self._config.settings) :], regime)
        counted = torch.cat([readings, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        sums = torch.empty(len(rows), *self._shape, dtype=torch.float64)
        for index in rows.rounds():
            slots = rows.slots[index]
            before = life[slots]
            if self._counter:
                ages = state.cell("age")
                before[age[index] < ages[slots]] = 0
                ages[slots] = age[index]
            before *= self._keep.unsqueeze(-1)
            before[torch.arange(len(index)), regime[index]] += counted[index].unsqueeze(1)
            sums[index] = life[slots] = before
        return rows.with_tensors(sums=sums, latest=latest, age=age)


class Age(Stage):
    """Passes each row on with `tensors["age"]`, `[B] float64`, the order column."""

    def __init__(self, order: str) -> None:
        self._order = order

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return rows.with_tensors(age=rows.column(self._order).double())


domain = Rul()
