"""A model is watched on Apache Kafka: its input drifts half-way, and the truth arrives late. MLflow has the figures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import ray
from kafka import KafkaProducer

from tests.crash.deployed import ROOT
from tests.crash.harness import Job
from tests.crash.load import Message
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation.fleet import live
from tocsin.models.tracking_store import connect as connect_mlflow
from tocsin.pipelines.runtime.control.deployment import Deployment, provisioned
from tocsin.pipelines.runtime.control.launch import deploy
from tocsin.pipelines.runtime.control.ray_client import connect, find
from tocsin.pipelines.runtime.engine.plan import store_model

ENGINES, CAP = 80, 125
SHIFTED = {"s4": 9.0, "s11": 0.27}
"""One standard deviation of two sensors."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


class Fleet:
    """Sends the readings of a fleet all the time, and with `labels` a label for each engine that has failed."""

    def __init__(self, job: Job, *, labels: bool) -> None:
        self._job, self._labels, self._over = job, labels, threading.Event()
        self.shift: dict[str, float] = {}
        self.sent, self.failed = list[dict[str, Any]](), dict[int, int]()
        self._thread = threading.Thread(target=self._send)

    @contextmanager
    def flying(self) -> Iterator[None]:
        """Send while the body runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _send(self) -> None:
        producer = KafkaProducer(**self._job.kafka)
        for frame in live(engines=ENGINES, seed=2):
            rows = [{n: v + self.shift.get(n, 0) for n, v in row.items()} for row in frame.iter_rows(named=True)]
            at = round(time.time() * 1000)
            self._job.send(Message(row["unit"] % 2, orjson.dumps(row), [], at) for row in rows)
            self.sent += rows
            for row in rows:
                if row["rul"] == 0 and self._labels:
                    self.failed[row["unit"]] = row["cycle"]
                    label = orjson.dumps({"unit": row["unit"], "cycle": row["cycle"]})
                    producer.send(f"labels.{self._job.name}", label, str(row["unit"]).encode())
            if self._over.wait(0.05):
                producer.close(timeout=30)
                return


def _status(name: str) -> dict[str, Any]:
    status: dict[str, Any] = ray.get(find(name).status.remote(), timeout=30)
    return status


def _rmse(rows: pl.DataFrame, failed: dict[int, int]) -> float:
    """The RMSE of rows whose engine has failed, in one plain loop."""
    errors = []
    for unit, cycle, rul in rows.select("unit", "cycle", "rul").iter_rows():
        if unit in failed and failed[unit] - cycle <= 1.2 * CAP:
            errors.append((rul - min(failed[unit] - cycle, CAP)) ** 2)
    return math.sqrt(sum(errors) / len(errors))


@contextmanager
def _watched(job: Job, tracking_uri: str, *, labels: bool, assess_ms: int) -> Iterator[dict[str, float]]:
    """Run the job; yields the figures that MLflow has when it has stopped."""
    plan = replace(job.plan, model=store_model(job.lake, FD001, name=job.name, version="1"))
    tracked = {"tracking": (tracking_uri, job.name), "assess_ms": assess_ms}
    wanted = Deployment(plan, job.lake, job.shards_kafka, env={"PYTHONPATH": ROOT}, **tracked)  # type: ignore[arg-type]
    deploy(provisioned(wanted, alerts=False, labels=labels))
    figures = dict[str, float]()
    yield figures
    supervisor = find(job.name)
    assert ray.get(supervisor.stop.remote(), timeout=90)
    ray.kill(supervisor)
    client = connect_mlflow(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(job.name).experiment_id])
    figures |= run.data.metrics


def _drifts(job: Job) -> list[str]:
    """The transitions of the alert `drift`."""
    read = [r for r in job.read(f"alerts.{job.name}") if orjson.loads(r.value)["rule"] == "drift"]
    return [dict(r.headers)["ce_type"].decode().rsplit(".", 1)[1] for r in read]


@pytest.mark.slow  # most of a minute; tests/runtime/control/test_drift_alarm.py has the alarm
def test_drift_rings_in_the_half_that_drifts_and_not_before(
    cluster: None, tracking_uri: str, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tocsin.pipelines.rul:pipeline", every="500ms")
    fleet = Fleet(job, labels=False)
    with _watched(job, tracking_uri, labels=False, assess_ms=500) as figures:
        with fleet.flying():
            until(lambda: _status(job.name)["drift"], "a first measure of drift")
            so_far = len(fleet.sent)
            until(lambda: len(fleet.sent) > so_far + 3000, "more healthy readings")
            assert _drifts(job) == []
            fleet.shift = SHIFTED
            until(lambda: _drifts(job), "the alert")
            assert {*_status(job.name)["drift"]["drifted"]} <= {*SHIFTED}
            fleet.shift = {}
            until(lambda: len(_drifts(job)) > 1, "the alert to be cleared")
        assert _drifts(job) == ["raised", "cleared"]
    assert len([name for name in figures if name.startswith("drift/")]) == 14


@pytest.mark.slow  # half a minute; tests/pipelines/test_truth.py has the scores
def test_late_truth_scores_the_model(cluster: None, tracking_uri: str, kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tocsin.pipelines.rul:pipeline", every="500ms")
    fleet = Fleet(job, labels=True)
    with _watched(job, tracking_uri, labels=True, assess_ms=2000) as figures:
        with fleet.flying():
            until(lambda: len(fleet.failed) > 10, "engines to fail")
        until(job.whole(), "all input to be in the table")
        rmse = _rmse(job.lake.scan(job.name).collect(), fleet.failed)

        def score() -> dict[str, Any]:
            """The score with all labels."""
            found = next(iter(_status(job.name)["scores"]), {"assets": 0})
            is_complete = found["assets"] == len(fleet.failed) and math.isclose(found["rmse"], rmse, rel_tol=1e-6)
            return found if is_complete else {}

        found = until(score, f"a score of {len(fleet.failed)} engines, with an RMSE of {rmse}", 60)
        assert 0.5 < found["coverage"] <= 1
        labels = job.lake.scan(f"labels.{job.name}").collect()
        assert dict(labels.select("unit", "cycle").iter_rows()) == fleet.failed
    assert math.isclose(figures[f"live/{job.name}/1/rmse"], found["rmse"], rel_tol=1e-6)
