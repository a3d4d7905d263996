"""Metrics: their list, totals and buckets from windows, and alert rules that name existing ones. See also test_seeing.py."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
import yaml
from ray.util import metrics as rays

from tests.conftest import ROOT
from tocsin.pipelines.runtime.telemetry.metrics import METRICS, Metrics
from tocsin.pipelines.runtime.telemetry.stats import BUCKETS_S, Stats, Window

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
FACTS = {
    "read": {0: 130, 1: 20},
    "committed": {0: 100, 1: 20},
    "uncommitted_rows": 7,
    "turn_s": 0.3,
    "clock_lag_s": 1.5,
    "model": "rul/3",
}
DRIFT = {"indices": [{"column": "s4", "group": "regime 1", "index": 0.4}], "level": 0.25}


class Taken(dict[tuple[str, ...], float]):
    """The values that Ray's gauges were set to: (name, labels as name=value, ...) -> value."""

    def value(self, name: str, *labels: str) -> float:
        return self[name, "pipeline=rul", *labels]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Ray's gauges write into this."""
    taken = Taken()

    def put(gauge: Any, value: float, tags: dict[str, str]) -> None:
        gauge._validate_tags(gauge._get_final_tags(tags))
        taken[gauge._name, *(f"{name}={text}" for name, text in tags.items())] = value

    monkeypatch.setattr(rays.Gauge, "set", put)
    return taken


def status(*shards: dict[str, Any], problems: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    models = {"scores": [{"model_version": "rul/3", "rmse": 9.5, "f1": None}], "drift": DRIFT}
    return {"workers": 2, "restarts": 3, "shards": list(shards), "problems": list(problems), **models}


def shard(n: int, state: str = "running", **more: Any) -> dict[str, Any]:
    window = {"fill": 0.25, "gauges": {"behind": 12, "keys": 5, "keys_on_two_partitions": 1, "damaged": 1}}
    return {"shard": n, "state": state, "facts": FACTS, "window": window, "uncommitted_s": 4.5, **more}


def test_names_say_their_units_and_labels_are_few() -> None:
    assert len({m.name for m in METRICS}) == len(METRICS)
    for m in METRICS:
        assert re.fullmatch(r"tocsin_[a-z_]+", m.name)
        assert m.name.endswith("_total") == (m.kind == "counter"), m
        assert ("_seconds" in m.name) == (m.unit == "seconds"), m
        assert set(m.labels) <= {"pipeline", "shard", "version", "state", "figure", "column", "group"}, m
        assert m.meaning.endswith("."), m


def test_a_window_counts_latencies_into_buckets_as_prometheus_does() -> None:
    stats, rng = Stats(batch=10), np.random.default_rng(3)
    ms = np.concatenate([rng.exponential(800, 500), np.array(BUCKETS_S) * 1000, [0, 1e9]])
    stats.latency(ms[:300])
    stats.latency(ms[300:])
    window = stats.window()
    at_most = [int((ms <= bound * 1000).sum()) for bound in BUCKETS_S]
    assert np.cumsum(window.latency_buckets).tolist() == [*at_most, len(ms)]
    assert window.latency_sum_s == pytest.approx(ms.sum() / 1000)
    assert stats.window().latency_buckets == []


def test_rows_without_a_timestamp_have_no_latency() -> None:
    stats = Stats(batch=10)
    stats.latency(np.zeros(0))
    assert stats.window().latency_ms == {}


def test_totals_add_up_over_windows_by_shard(taken: Taken) -> None:
    metrics, counts = Metrics("rul"), {"rows": 10, "step_busy_ms": 500, "commit_ms": 40, "dead_letters": 2, "late": 1}
    buckets = [1, 2, *[0] * (len(BUCKETS_S) - 2), 3]
    for _ in range(3):
        metrics.export(status(), {0: Window(0.5, counts, {}, 0.1, {}, buckets, 9.0), 4: Window(0.5, {}, {}, 0.0, {})})
    assert taken.value("tocsin_rows_total", "shard=0") == 30
    assert taken.value("tocsin_rows_total", "shard=4") == 0  # a rate needs a value before the first event
    assert taken.value("tocsin_dead_letters_total", "shard=0") == 6
    assert taken.value("tocsin_late_total", "shard=0") == 3
    assert taken.value("tocsin_step_busy_seconds_total", "shard=0") == 1.5
    assert taken.value("tocsin_commit_seconds_total", "shard=0") == pytest.approx(0.12)
    assert taken.value("tocsin_latency_seconds_bucket", "shard=0", "le=0.005") == 3
    assert taken.value("tocsin_latency_seconds_bucket", "shard=0", "le=300.0") == 9
    assert taken.value("tocsin_latency_seconds_bucket", "shard=0", "le=+Inf") == 18
    assert taken.value("tocsin_latency_seconds_count", "shard=0") == 18
    assert taken.value("tocsin_latency_seconds_sum", "shard=0") == 27


def test_a_running_shard_is_told_of_and_one_that_does_not_run_is_not(taken: Taken) -> None:
    unknown = {"shard": 2, "state": "unknown", "why": "no worker has reported it yet"}
    Metrics("rul").export(status(shard(0), shard(1, "restarting", window=None), problems=(unknown,)), {})
    gauges = {
        "lag_records": 12,
        "committed_lag_records": 30,
        "uncommitted_rows": 7,
        "commit_age_seconds": 4.5,
        "step_age_seconds": 0.3,
        "watermark_lag_seconds": 1.5,
        "batch_occupancy_ratio": 0.25,
        "keys": 5,
        "keys_on_two_partitions": 1,
        "damaged_partitions": 1,
    }
    assert {name: taken.value(f"tocsin_{name}", "shard=0") for name in gauges} == gauges
    assert taken.value("tocsin_model_info", "shard=0", "version=rul/3") == 1
    assert {key[0] for key in taken if "shard=1" in key} == {"tocsin_commit_age_seconds"}
    states = {s: taken.value("tocsin_shards", f"state={s}") for s in ("running", "restarting", "unknown", "refused")}
    assert states == {"running": 1, "restarting": 1, "unknown": 1, "refused": 0}
    assert (taken.value("tocsin_workers"), taken.value("tocsin_restarts_total")) == (2, 3)


def test_models_are_told_of_by_their_scores_and_the_drift_of_their_input(taken: Taken) -> None:
    Metrics("rul").export(status(shard(0)), {})
    assert {key[0]: value for key, value in taken.items() if key[0].startswith(("tocsin_live", "tocsin_drift"))} == {
        "tocsin_live_score": 9.5,
        "tocsin_drift_index": 0.4,
        "tocsin_drift_level": 0.25,
    }


def test_what_is_exported_is_what_is_listed(taken: Taken) -> None:
    Metrics("rul").export(status(shard(0)), {0: Window(0.5, {}, {}, 0.0, {})})
    assert {f"ray_{name}" for name, *_ in taken} == {name for m in METRICS for name in m.exported}
    labels = {(name, tuple(label.split("=")[0] for label in tags)) for name, *tags in taken}
    listed = {(m.name, m.labels) for m in METRICS if m.kind != "histogram"}
    parts = {"_bucket": ("pipeline", "shard", "le"), "_sum": ("pipeline", "shard"), "_count": ("pipeline", "shard")}
    assert labels == listed | {(f"tocsin_latency_seconds{part}", names) for part, names in parts.items()}


def test_what_ails_ray_is_said_once_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no agent")

    monkeypatch.setattr(rays.Gauge, "set", broken)
    metrics = Metrics("rul")
    with caplog.at_level(logging.WARNING):
        metrics.export(status(shard(0)), {})
        metrics.export(status(shard(0)), {})
    assert [r.getMessage() for r in caplog.records] == [
        "metrics: expected Ray to accept them, got OSError('no agent'); streams continue without metrics"
    ]


def test_a_metric_that_fails_for_a_while_loses_no_count(monkeypatch: pytest.MonkeyPatch, taken: Taken) -> None:
    metrics, window = Metrics("rul"), Window(0.5, {"rows": 10}, {}, 0.1, {})
    put = rays.Gauge.set
    monkeypatch.setattr(rays.Gauge, "set", lambda *_: 1 / 0)
    metrics.export(status(), {0: window})
    monkeypatch.setattr(rays.Gauge, "set", put)
    metrics.export(status(), {0: window})
    assert taken.value("tocsin_rows_total", "shard=0") == 20


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_names_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    exported = {name: m for m in METRICS for name in m.exported}
    named = re.findall(r"\bray_\w+", rule["expr"])
    assert named and set(named) <= set(exported)
    labels = {label for name in named for label in exported[name].labels}
    used = re.findall(r'(\w+)(?:!=|=~|=)"', rule["expr"])
    used += [label for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in group.split(", ")]
    assert set(used) <= labels | ({"le"} if "_bucket" in rule["expr"] else set())
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= set(used)
    assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_names_a_section_of_the_runbook(rule: dict[str, Any]) -> None:
    page, _, section = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert section in {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}


def test_a_rule_watches_each_thing_that_needs_a_person() -> None:
    watched = {name for rule in RULES for name in re.findall(r"\bray_tocsin_(\w+)", rule["expr"])}
    assert watched >= {"lag_records", "shards", "restarts_total", "dead_letters_total", "commit_age_seconds"}


def test_prometheus_finds_the_nodes_and_the_rules() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert [(PROMETHEUS / name).exists() for name in config["rule_files"]] == [True]
    (ray,) = (job for job in config["scrape_configs"] if job["job_name"] == "ray")
    assert ray["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
