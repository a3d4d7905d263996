"""A deployment's Prometheus metrics. `METRICS` lists them all; the supervisor exports them through Ray.

Workers do not export metrics. So they may come and go without leaving stale series, and a worker's counts reach the supervisor
within half a second, where Ray takes ten. All metrics are gauges to Ray; the value of a counter is its total since the
supervisor's start. Ray's own counters do not fit: Ray keeps those of ended processes forever (ray-project/ray#65892), and mixes
them up above 2000 series of a name. Ray's histograms take rows one by one. Prometheus sees no difference: `rate`, `increase` and
`histogram_quantile` use only values and labels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.declare.truth import VERSION, figures
from tocsin.pipelines.runtime.telemetry.stats import BUCKETS_S, Window

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

log = logging.getLogger(__name__)
PREFIX = "ray_"
"""Ray's prefix to every name."""
STATES = ("unknown", *(state for state in ShardState if state != ShardState.STOPPED))


@dataclass(frozen=True)
class Metric:
    """One metric as the documentation lists it.

    Args:
        name: in this process; Prometheus has it with `PREFIX`.
        labels: Ray adds labels of the node and of the supervisor's process. Sum or take the maximum over them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def exported(self) -> tuple[str, ...]:
        """The metric's names in Prometheus."""
        parts = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(f"{PREFIX}{self.name}{part}" for part in parts)


_SHARD = ("pipeline", "shard")
METRICS = (
    Metric("tocsin_rows_total", "counter", "rows", _SHARD, "Readings processed."),
    Metric("tocsin_results_total", "counter", "rows", _SHARD, "Result rows for the table."),
    Metric("tocsin_alerts_total", "counter", "alerts", _SHARD, "Alerts raised or cleared."),
    Metric("tocsin_dead_letters_total", "counter", "records", _SHARD, "Records that could not be processed."),
    Metric(
        "tocsin_late_total",
        "counter",
        "records",
        _SHARD,
        "Dead letters that came too late for their place in the order.",
    ),
    Metric("tocsin_duplicates_total", "counter", "rows", _SHARD, "Repeated readings that were dropped."),
    Metric(
        "tocsin_missed_total",
        "counter",
        "rows",
        _SHARD,
        "Rows that a source numbered and that never came, such as frames.",
    ),
    Metric(
        "tocsin_unpaired_total",
        "counter",
        "rows",
        _SHARD,
        "Rows of a key's first source without a row of its second one in time.",
    ),
    Metric("tocsin_unused_total", "counter", "rows", _SHARD, "Rows of a second source that were no row's partner."),
    Metric("tocsin_ignored_total", "counter", "rows", _SHARD, "Readings of sensors that the pipeline does not know."),
    Metric("tocsin_skipped_total", "counter", "records", _SHARD, "Records skipped by the overload policy `latest`."),
    Metric("tocsin_silenced_total", "counter", "rows", _SHARD, "Results of muted assets."),
    Metric("tocsin_forgotten_total", "counter", "keys", _SHARD, "Keys expired with their state after `forget_after`."),
    Metric(
        "tocsin_digest_mismatches_total",
        "counter",
        "recoveries",
        _SHARD,
        "Recoveries whose alerts or dead letters differ from those already published.",
    ),
    Metric("tocsin_steps_total", "counter", "steps", _SHARD, "Steps that had input."),
    Metric("tocsin_step_busy_seconds_total", "counter", "seconds", _SHARD, "Time spent in steps, without waiting."),
    Metric("tocsin_checkpoints_total", "counter", "checkpoints", _SHARD, "Checkpoints committed to the table."),
    Metric("tocsin_commit_seconds_total", "counter", "seconds", _SHARD, "Time spent writing checkpoints."),
    Metric(
        "tocsin_undeleted_total",
        "counter",
        "snapshots",
        _SHARD,
        "Old snapshots that could not be deleted; see the log.",
    ),
    Metric("tocsin_spans_total", "counter", "spans", _SHARD, "Spans of traces that a collector has taken."),
    Metric("tocsin_spans_dropped_total", "counter", "spans", _SHARD, "Spans of traces that no collector took in time."),
    Metric(
        "tocsin_latency_seconds", "histogram", "seconds", _SHARD, "From a row's Kafka timestamp to the end of its step."
    ),
    Metric(
        "tocsin_lag_records", "gauge", "records", _SHARD, "Records in the log and not yet read, as of the last fetch."
    ),
    Metric(
        "tocsin_watermark_lag_seconds",
        "gauge",
        "seconds",
        _SHARD,
        "How far the shard's clock, which follows the log in a backlog, is behind the wall clock.",
    ),
    Metric(
        "tocsin_committed_lag_records", "gauge", "records", _SHARD, "Records read and not yet committed to the table."
    ),
    Metric("tocsin_uncommitted_rows", "gauge", "rows", _SHARD, "Result rows held for the table's next commit."),
    Metric(
        "tocsin_commit_age_seconds",
        "gauge",
        "seconds",
        _SHARD,
        "Time since the last commit while read records wait for one.",
    ),
    Metric("tocsin_step_age_seconds", "gauge", "seconds", _SHARD, "Time that the step in progress has taken so far."),
    Metric("tocsin_batch_occupancy_ratio", "gauge", "ratio", _SHARD, "Rows in a step, as a share of its maximum."),
    Metric("tocsin_keys", "gauge", "keys", _SHARD, "Keys that have state."),
    Metric(
        "tocsin_keys_on_two_partitions", "gauge", "keys", _SHARD, "Keys whose state is split: correct their producer."
    ),
    Metric(
        "tocsin_damaged_partitions", "gauge", "partitions", _SHARD, "Partitions not read, because their log is damaged."
    ),
    Metric("tocsin_model_info", "gauge", "", (*_SHARD, "version"), "1 for the model in use, such as pumps/3."),
    Metric(
        "tocsin_live_score",
        "gauge",
        "",
        ("pipeline", "version", "figure"),
        "A model version's score by the labels that have arrived, such as rmse.",
    ),
    Metric(
        "tocsin_drift_index",
        "gauge",
        "",
        ("pipeline", "column", "group"),
        "Population stability index of a sensor against training.",
    ),
    Metric("tocsin_drift_level", "gauge", "", ("pipeline",), "The index from which the sensors have drifted."),
    Metric("tocsin_shards", "gauge", "shards", ("pipeline", "state"), f"Shards by state: {', '.join(STATES)}."),
    Metric("tocsin_workers", "gauge", "workers", ("pipeline",), "Worker processes."),
    Metric("tocsin_restarts_total", "counter", "restarts", ("pipeline",), "Workers that were replaced."),
)
_OF = {name.removeprefix(PREFIX): metric for metric in METRICS for name in metric.exported}
_COUNTED = (
    *("rows", "results", "alerts", "dead_letters", "duplicates", "skipped", "silenced", "forgotten", "steps"),
    *(
        "checkpoints",
        "undeleted",
        "digest_mismatches",
        "late",
        "missed",
        "unpaired",
        "unused",
        "ignored",
        "spans",
        "spans_dropped",
    ),
)


class Metrics:
    """One deployment's metrics; the supervisor updates them.

    Guarantee: no call raises, and none blocks.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline, self._has_warned = pipeline, False
        self._totals = Counter[tuple[str, tuple[tuple[str, str], ...]]]()
        self._gauges: dict[str, Gauge] = {}

    def export(self, status: Mapping[str, Any], windows: Mapping[int, Window]) -> None:
        """Export the current values to Ray.

        Args:
            status: the supervisor's.
            windows: what shards have counted since the last call.
        """
        try:
            for shard, window in windows.items():  # first: a count must not be lost when Ray fails
                self._count(str(shard), window)
            self._states(status)
            self._shards(status["shards"])
            for (name, labels), total in self._totals.items():
                self._set(name, total, **dict(labels))
            self._models(status["scores"], status["drift"])
            self._set("tocsin_workers", status["workers"])
            self._set("tocsin_restarts_total", status["restarts"])
        except Exception as reason:  # a failure of Ray's metrics must not stop the streams
            if not self._has_warned:
                log.warning("metrics: expected Ray to accept them, got %r; streams continue without metrics", reason)
            self._has_warned = True

    def _count(self, shard: str, window: Window) -> None:
        """Add a window to the totals."""
        for name in _COUNTED:  # zeros too: a rate needs a value before the first event
            self._add(f"tocsin_{name}_total", window.counts.get(name, 0), shard)
        for name in ("step_busy", "commit"):
            self._add(f"tocsin_{name}_seconds_total", window.counts.get(f"{name}_ms", 0) / 1000, shard)
        buckets = window.latency_buckets or [0] * (len(BUCKETS_S) + 1)
        for bound, rows in zip((*map(str, BUCKETS_S), "+Inf"), accumulate(buckets), strict=True):
            self._add("tocsin_latency_seconds_bucket", rows, shard, le=bound)
        self._add("tocsin_latency_seconds_count", sum(buckets), shard)
        self._add("tocsin_latency_seconds_sum", window.latency_sum_s, shard)

    def _models(self, scores: Sequence[Mapping[str, Any]], drift: Mapping[str, Any] | None) -> None:
        """Set what is known of the models: their scores, and the drift of their input."""
        for score in scores:
            for figure, value in figures(score).items():
                self._set("tocsin_live_score", value, version=score[VERSION], figure=figure)
        if drift:
            for found in drift["indices"]:
                self._set("tocsin_drift_index", found["index"], column=found["column"], group=found["group"])
            if "level" in drift:
                self._set("tocsin_drift_level", drift["level"])

    def _states(self, status: Mapping[str, Any]) -> None:
        found = [*status["shards"], *(p for p in status["problems"] if p["state"] == "unknown")]
        states = Counter(shard["state"] for shard in found)
        for state in STATES:
            self._set("tocsin_shards", states[state], state=state)

    def _shards(self, shards: Sequence[Mapping[str, Any]]) -> None:
        """Set the shards' gauges. Of a shard that does not run only the age of its commit is set: Ray drops the others."""
        for found in shards:
            facts, window, shard = found["facts"], found["window"], str(found["shard"])
            self._set("tocsin_commit_age_seconds", found["uncommitted_s"], shard=shard)
            if found["state"] not in (ShardState.RUNNING, ShardState.WAITING) or not facts or not window:
                continue
            lag = sum(facts["read"].values()) - sum(facts["committed"].values())
            self._set("tocsin_committed_lag_records", lag, shard=shard)
            self._set("tocsin_uncommitted_rows", facts["uncommitted_rows"], shard=shard)
            self._set("tocsin_step_age_seconds", facts["turn_s"], shard=shard)
            self._set("tocsin_watermark_lag_seconds", facts["clock_lag_s"], shard=shard)
            self._set("tocsin_batch_occupancy_ratio", window["fill"], shard=shard)
            if facts["model"]:
                self._set("tocsin_model_info", 1, shard=shard, version=facts["model"])
            gauges = {"behind": "lag_records", "keys": "keys", "keys_on_two_partitions": "keys_on_two_partitions"}
            gauges |= {"damaged": "damaged_partitions"}
            for gauge, name in gauges.items():
                if gauge in window["gauges"]:
                    self._set(f"tocsin_{name}", window["gauges"][gauge], shard=shard)

    def _add(self, name: str, value: float, shard: str, **labels: str) -> None:
        self._totals[name, tuple({"shard": shard, **labels}.items())] += value  # type: ignore[assignment]

    def _set(self, name: str, value: float, **labels: str) -> None:
        tags = {"pipeline": self._pipeline, **labels}
        if name not in self._gauges:
            from ray.util.metrics import Gauge

            self._gauges[name] = Gauge(name, _OF[name].meaning, tuple(tags))
        self._gauges[name].set(float(value), tags)


def endpoints() -> list[str]:
    """The addresses at which the cluster that this process has joined serves metrics, one a node."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["MetricsExportPort"] > 0]
    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]
