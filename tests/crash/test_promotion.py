"""A model's life on a stream: a challenger in shadow, its promotion and its roll-back, by a real MLflow server, under load."""

from __future__ import annotations

import itertools
import os
import signal
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

from tests.crash.deployed import ROOT, actor
from tests.crash.harness import Job
from tests.crash.load import Message
from tests.support.tracking import serving
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.promotion import promote, rollback
from tocsin.models.registry import register
from tocsin.models.rul.model import FD001, RulModel, load
from tocsin.models.rul.simulation.fleet import live
from tocsin.models.tracking_store import CHALLENGER, CHAMPION
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.launch import deploy
from tocsin.pipelines.runtime.control.ray_client import connect, find
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

ENGINES, RATE = 40, 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@contextmanager
def _streaming(job: Job) -> Iterator[list[dict[str, Any]]]:
    """Send the readings of a fleet all the time, at a steady rate, and one that is not JSON each second."""
    sent, over = list[dict[str, Any]](), threading.Event()

    def send() -> None:
        rows = itertools.chain.from_iterable(frame.iter_rows(named=True) for frame in live(engines=ENGINES, seed=1))
        while not over.wait(0.25):
            batch = list(itertools.islice(rows, RATE // 4))
            messages = [Message(row["unit"] % 2, orjson.dumps(row), [], _now()) for row in batch]
            job.send([*messages, Message(0, b"not JSON", [], _now())])
            sent.extend(batch)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def _now() -> int:
    return round(time.time() * 1000)


def _other(folder: Path) -> RulModel:
    """A model that predicts otherwise, with the same memory of a life."""
    model = load(FD001, "cpu")
    for weights in model.parts.network.parameters():
        weights.mul_(0.97)
    model.save(folder)
    return load(folder, "cpu")


def _register(folder: Path, name: str, server: str, alias: str) -> str:
    return register(folder, name=name, domain="rul", params={"seed": 0}, metrics=[], tracking_uri=server, alias=alias)


def _status(name: str) -> dict[str, Any]:
    try:
        status: dict[str, Any] = ray.get(find(name).status.remote(), timeout=10)
        return status
    except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return {"shards": [], "landing": []}


def _runs(job: Job, version: str) -> bool:
    """Whether the pipeline's own shard runs with a version."""
    shards = _status(job.name)["shards"]
    return bool(shards) and all(
        (s["state"], s["facts"].get("model")) == ("running", f"{job.name}/{version}") for s in shards
    )


def _shadows(job: Job) -> list[str]:
    return [s["pipeline"] for s in _status(job.name)["landing"] if s["state"] == "running"]


@pytest.mark.parametrize(
    "killed", ["", pytest.param("Worker", marks=pytest.mark.slow), pytest.param("Supervisor", marks=pytest.mark.slow)]
)
@pytest.mark.slow  # over a minute; tests/runtime/engine/test_shadow.py has the shadow itself
def test_a_challenger_runs_in_shadow_becomes_champion_and_is_rolled_back(
    cluster: None, server: str, kafka: KafkaServer, tmp_path: Path, killed: str
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tocsin.pipelines.rul:pipeline", every="500ms")
    models = {"1": load(FD001, "cpu"), "2": _other(tmp_path / "other")}
    assert _register(FD001, job.name, server, CHAMPION) == "1"
    folder = resolve_model(server, f"{job.name}@champion")[2]
    plan = replace(job.plan, model=store_model(job.lake, folder, name=job.name, version="1"))
    tracked = {"tracking": (server, "promotion"), "follows": f"{job.name}@champion", "follow_s": 0.5}
    deploy(Deployment(plan, job.lake, job.shards_kafka, 2, env={"PYTHONPATH": ROOT}, **tracked))  # type: ignore[arg-type]
    with _streaming(job) as sent:
        until(lambda: _runs(job, "1"), "the champion to run")
        until(lambda: len(sent) > 2000, "some history")
        assert _register(tmp_path / "other", job.name, server, CHALLENGER) == "2"
        until(lambda: _shadows(job), "the challenger to run in shadow")
        _kill(killed)
        until(lambda: _judged(job, shadow=True) > 500, "rows of the shadow")
        promote(job.name, tracking_uri=server)
        _kill(killed)
        until(lambda: _runs(job, "2") and not _shadows(job), "the challenger to be champion, and its shadow to end")
        so_far = len(sent)
        until(lambda: len(sent) > so_far + 500, "more rows")
        assert rollback(job.name, tracking_uri=server).version == "1"
        _kill(killed)
        until(lambda: _runs(job, "1"), "the first version to run again")
        so_far = len(sent)
        until(lambda: len(sent) > so_far + 500, "more rows")
    until(job.whole(), "all input to be in the table")
    supervisor = find(job.name)
    assert ray.get(supervisor.stop.remote(), timeout=90)
    ray.kill(supervisor)
    _check(job, pl.DataFrame(sent), models)


def _kill(what: str) -> None:
    if what:
        os.kill(actor(what), signal.SIGKILL)


def _judged(job: Job, *, shadow: bool) -> int:
    return int(job.lake.scan(job.name, shadow=shadow).select(pl.len()).collect().item())


def _check(job: Job, sent: pl.DataFrame, models: dict[str, RulModel]) -> None:
    """Each reading has one row of the version that it names, as that version judges it; a shadow has its rows once, too."""
    expected = pl.concat(
        [
            model.judge(sent).select(
                "unit", "cycle", pl.col("rul").alias("expected"), model_version=pl.lit(f"{job.name}/{version}")
            )
            for version, model in models.items()
        ]
    )
    own = job.lake.scan(job.name).collect()
    assert len(own) == len(sent) and own.select("partition", "offset").is_unique().all()
    shadow = job.lake.scan(job.name, shadow=True).collect()
    assert len(shadow) > 500 and shadow.select("partition", "offset").is_unique().all()
    for rows in (own, shadow):
        judged = rows.join(expected, on=["unit", "cycle", "model_version"], how="left")
        assert judged["expected"].null_count() == 0
        assert float((judged["rul"] - judged["expected"]).abs().max()) < 1e-2  # type: ignore[arg-type]
    assert shadow["model_version"].unique().to_list() == [f"{job.name}/2"]
    for _, rows in own.sort("offset").group_by("partition"):
        versions = rows["model_version"].rle().struct.field("value").to_list()
        assert versions == [f"{job.name}/{version}" for version in (1, 2, 1)]
    # What the shadow refuses or would have rung for is sent once, by its pipeline.
    letters = [DeadLetter.read(record) for record in job.read(f"{job.topic}.dlq")]
    broken = [r for r in job.read(job.topic) if r.value == b"not JSON"]
    assert sorted((x.partition, x.offset) for x in letters) == sorted((r.partition, r.offset) for r in broken)
    alerts = [orjson.loads(record.value) for record in job.read(f"alerts.{job.name}")]
    rung = [(a["rule"], a["partition"], a["offset"]) for a in alerts]
    assert alerts and len({*rung}) == len(rung)
    named = own.select("partition", "offset", "model_version").rows()
    assert {(a["partition"], a["offset"], a["model_version"]) for a in alerts} <= {*named}
