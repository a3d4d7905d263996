"""Watches the models of a deployment: whether their input drifts, and how well they do by the labels that have arrived."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from tocsin.pipelines.runtime.control.drift_alarm import Drift, DriftAlarm
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import TocsinError
from tocsin.pipelines.runtime.declare.tallies import Tallies, add
from tocsin.pipelines.runtime.declare.truth import VERSION, figures
from tocsin.pipelines.runtime.engine.alert_topic import publish

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.control.desired_state import DesiredState
    from tocsin.pipelines.runtime.declare.drift import DriftReference
    from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan
    from tocsin.pipelines.runtime.lake.storage import Lake
    from tocsin.pipelines.runtime.telemetry.stats import Window

log = logging.getLogger(__name__)


class Assessor:
    """Assesses a deployment's models from time to time.

    What is counted since the last assessment is in memory: a restarted supervisor begins a new count. Scores are computed from the
    tables each time, so they are complete whenever labels arrive.

    Attributes:
        scores: of each model version: `model_version`, and figures by name.
        drift: the last drift that was measured, and each column's `index` by group; None: none yet.
    """

    def __init__(self, deployment: Deployment, desired: DesiredState) -> None:
        self._deployment, self._desired = deployment, desired
        self._lock = threading.Lock()
        self._tallies: Tallies = {}
        self._known: tuple[ModelRef | None, str, DriftReference | None] | None = None
        self._alarm: DriftAlarm | None = None
        self.scores: list[dict[str, Any]] = []
        self.drift: dict[str, Any] | None = None

    def add(self, windows: Iterable[Window]) -> None:
        """Take up what shards have counted since their last windows."""
        with self._lock:
            for window in windows:
                add(self._tallies, window.tallies)

    def assess(self) -> dict[str, float]:
        """Measure drift, and score results. Returns the figures for MLflow.

        Raises:
            TocsinError: the pipeline can't be built, or Kafka or the lake does not answer.
        """
        found = self._measure_drift()
        if self._deployment.labels:
            since = timedelta(milliseconds=self._deployment.assess_last_ms)
            self.scores = _elsewhere(scored, self._desired.plan, self._deployment.lake, since)
            found |= {
                f"live/{score[VERSION]}/{name}": value
                for score in self.scores
                for name, value in figures(score).items()
            }
        return found

    def _measure_drift(self) -> dict[str, float]:
        plan = self._desired.plan
        with self._lock:
            if not self._tallies:
                return {}  # no stage counts readings
        topic, reference = self._reference(plan)
        if reference is None or plan.model is None:
            return {}
        version = f"{plan.model.name}/{plan.model.version}"
        with self._lock:
            readings, assets = (self._tallies.get(f"{what}/{version}") for what in ("readings", "assets"))
            self._tallies = {n: t for n, t in self._tallies.items() if n.endswith(f"/{version}")}
        if readings is None or assets is None:
            return {}
        index = reference.index(readings)  # [G, C]
        judged = np.asarray(~np.isnan(index).all(axis=1))  # [G]
        if not judged.any():
            return {}
        with self._lock:  # what was counted meanwhile stays
            again = readings * judged.reshape(-1, *[1] * (readings.ndim - 1))
            self._tallies[f"readings/{version}"] = self._tallies[f"readings/{version}"] - again
            self._tallies[f"assets/{version}"] = self._tallies[f"assets/{version}"] - assets
        found = _drift(reference, index, int((assets > 0).sum()), int(assets.sum()), version)
        if self._alarm is None:
            send = partial(publish, self._deployment.kafka)
            self._alarm = DriftAlarm(self._deployment.lake, plan.name, topic, send)
        muted = plan.silences.get(plan.name, 0) > datetime.now(UTC).timestamp() * 1000
        self._alarm.note(found, muted=muted)
        indices = {
            (column, group): float(index[g, c])
            for g, group in enumerate(reference.groups)
            for c, column in enumerate(reference.columns)
            if not np.isnan(index[g, c])
        }
        listed = [{"column": column, "group": group, "index": value} for (column, group), value in indices.items()]
        self.drift = {"indices": listed, **(asdict(found) if found else {})}
        return {f"drift/{'/'.join(filter(None, where))}": value for where, value in indices.items()}

    def _reference(self, plan: Plan) -> tuple[str, DriftReference | None]:
        """The pipeline's input topic, and the distribution of its model's training readings."""
        if self._known is None or self._known[0] != plan.model:
            self._known = plan.model, *_elsewhere(reference_of, plan, self._deployment.lake)
        return self._known[1:]


def _drift(
    reference: DriftReference, index: NDArray[np.float64], assets: int, readings: int, version: str
) -> Drift | None:
    """The drift by an index `[G, C]`; None: there are too few assets to tell."""
    if (level := reference.level(assets)) is None:
        return None
    g, c = np.unravel_index(int(np.nanargmax(index)), index.shape)
    above = np.any(index > level, axis=0).tolist()  # NaN is not above
    return Drift(
        at=datetime.now(UTC),
        index=float(index[g, c]),
        level=level,
        column=reference.columns[int(c)],
        group=reference.groups[int(g)],
        drifted=tuple(column for column, is_above in zip(reference.columns, above, strict=True) if is_above),
        assets=assets,
        readings=readings,
        model_version=version,
    )


def reference_of(plan: Plan, lake: Lake) -> tuple[str, DriftReference | None]:
    """A pipeline's input topic, and the distribution of its model's training readings."""
    pipeline = plan.build(lake)
    return pipeline.topic, pipeline.drift


def scored(plan: Plan, lake: Lake, since: timedelta) -> list[dict[str, Any]]:
    """Score a pipeline's results by its labels, those of shadows too.

    Args:
        since: the age of the oldest results and labels, by event time.
    """
    import polars as pl

    from tocsin.pipelines.runtime.lake.delta import exists

    pipeline, labels = plan.build(lake), names.label_topic(plan.name)
    if pipeline.truth is None or not (exists(lake, pipeline.folder) and exists(lake, labels)):
        return []
    day = f"{datetime.now(UTC) - since:%Y-%m-%d}"
    recent = [lake.scan(table, shadow=None).filter(pl.col("event_date") >= day) for table in (pipeline.folder, labels)]
    return pipeline.truth.score(*recent).sort(VERSION).to_dicts()


def _elsewhere(work: Any, *arguments: Any) -> Any:
    """Run work in a process that ends afterwards. To build a pipeline loads torch and a model, which a supervisor does without."""
    remote = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(work)
    try:
        return ray.get(remote.remote(*arguments))
    except ray.exceptions.RayTaskError as reason:
        if isinstance(reason.cause, TocsinError):
            raise reason.cause from reason
        raise
