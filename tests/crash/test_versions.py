"""State of another version is migrated, rebuilt from the log, or refused; nothing is lost and no alert is published twice."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from tests.crash.conftest import MakeJob
from tests.crash.harness import PARTITIONS, Job, Killed
from tests.crash.job import SCHEMA
from tests.crash.load import Message, messages, reading
from tests.crash.process import ANYWHERE
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.table import ResultsTable

pytestmark = pytest.mark.crash
WAYS = {"migrated": {"migrate": True}, "rebuilt": {"warmup": "3h"}}


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> Job:
    (tmp_path / "code").write_bytes(orjson.dumps({"version": 1}))
    return make_job(factory="tests.crash.versions:pipeline", code=str(tmp_path / "code"))


def _deploy(job: Job, version: int, *, by: str = "code", **ways: Any) -> None:
    """Deploy a version: change the code, or with `by="options"` the plan's options."""
    code = {"version": version, **ways}
    if by == "code":
        Path(job.plan.options["code"]).write_bytes(orjson.dumps(code))
    else:
        job.plan = replace(job.plan, options={**job.plan.options, "code": code})


def _shard(job: Job) -> Shard:
    """Start a shard in this process."""
    reader = Reader(job.kafka, job.topic, range(PARTITIONS), Codec(topic=job.topic, schema=SCHEMA), 50)
    return Shard(ShardConfig(job.plan, job.lake, job.kafka, 0, range(PARTITIONS)), reader)


def _read(shard: Shard, job: Job) -> None:
    while shard.facts()["read"] != job.ends():
        shard.turn()


def _ahead(job: Job, load: Iterator[Message], monkeypatch: pytest.MonkeyPatch, lands: threading.Event) -> Shard:
    """Run a shard that publishes alerts after a checkpoint, and whose next checkpoint never reaches Delta."""
    job.send(islice(load, 300))
    shard = _shard(job)
    _read(shard, job)
    shard.checkpoint()
    monkeypatch.setattr(ResultsTable, "publish", lambda *_: lands.wait(30))
    job.send(islice(load, 300))
    _read(shard, job)
    return shard


def _version(job: Job) -> int:
    """Return the state version of the newest snapshot."""
    return Snapshots(job.lake, job.name, 0).read(job.stored("0#checkpoint")).facts["state_version"]


@pytest.mark.parametrize("way", WAYS)
def test_a_new_version_goes_on_where_the_old_one_was_killed(job: Job, way: str) -> None:
    with job.load():
        worker = job.start()
        for point in ("takeover.restored", "takeover.rerun", "takeover.live"):
            rows, alerts = worker.fall(ANYWHERE)
            assert rows and alerts
            _deploy(job, 2, **WAYS[way])
            job.start(**{point.replace(".", "_"): "SIGKILL"}).fell(point)
            assert _version(job) == (2 if point == "takeover.live" else 1)
            if point != "takeover.live":
                _deploy(job, 1)  # the snapshot is still of the old code
            worker = job.start()
        worker.fall("alerts.committed")
        worker = job.start()
    job.finish(worker)
    assert _version(job) == 2
    assert job.differences() == []


KILLED = [(1, "code", "rebuilt"), (2, "code", "migrated"), (2, "options", "rebuilt")]
OTHERS = [(1, "code", "migrated"), (1, "options", "migrated"), (1, "options", "rebuilt"), (2, "code", "rebuilt")]
"""The version deployed after the kills, where it is set, and how the new version gets its state."""


@pytest.mark.parametrize(
    ("then", "by", "way"),
    [*KILLED, *(pytest.param(*other, marks=pytest.mark.slow) for other in [*OTHERS, (2, "options", "migrated")])],
)
def test_a_kill_before_its_first_checkpoint_has_landed_leaves_the_old_version(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str, by: str, then: int
) -> None:
    load, lands = messages(3), threading.Event()
    _deploy(job, 1, by=by)
    first = _ahead(job, load, monkeypatch, lands)
    assert first._recovered.journal.sent > 20

    _deploy(job, 2, by=by, **WAYS[way])
    monkeypatch.setattr(ResultsTable, "publish", _killed)
    for _ in range(2):
        with pytest.raises(Killed):
            _shard(job)  # the journal marks its checkpoint, but Delta lacks it
    monkeypatch.undo()
    assert _version(job) == 1
    _deploy(job, then, by=by, **(WAYS[way] if then == 2 else {}))
    last = _shard(job)
    lands.set()
    assert last.facts()["uncommitted_rows"] > 0 or then == 2
    job.send(islice(load, 400))
    _read(last, job)
    last.close()
    assert _version(job) == then
    assert job.differences() == []
    assert not [r for r in caplog.records if "re-ran" in r.message]


def _killed(*_: object) -> None:
    raise Killed


def test_a_version_that_rings_otherwise_does_not_ring_again_for_what_was_judged(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lands = threading.Event()
    _ahead(job, messages(3), monkeypatch, lands)
    monkeypatch.undo()
    rung = job.found().alerts
    _deploy(job, 2, warmup="1ms")  # starts without windows, so its rows differ
    last = _shard(job)
    lands.set()
    last.close()
    assert "re-ran" in caplog.text and "those sent stay sent" in caplog.text
    assert job.found().alerts == rung


def test_a_rebuild_reads_the_warmup_and_no_more(job: Job) -> None:
    at_ms = int(time.time() * 1000) - 3_600_000
    for unit in range(10):  # the first half sends a minute before the second
        at_ms += 60_000 if unit == 5 else 0
        job.send(
            Message(unit % 2, json.dumps(reading(unit, n, 0.3)).encode(), [], at_ms := at_ms + 1) for n in range(3)
        )
    job.finish(job.start())
    now = Snapshots(job.lake, job.name, 0).read(job.stored("0#checkpoint")).facts["now"]
    _deploy(job, 2, warmup=f"{now - at_ms + 30_000}ms")
    shard = _shard(job)
    _, units = shard._recovered.machine._state.keys_of(torch.arange(5))
    assert sorted(units.to_pylist()) == [5, 6, 7, 8, 9]
    assert shard._recovered.machine.keys == 5
    shard.close()
    assert job.differences() == []


def test_without_a_way_it_is_refused_in_one_line_and_the_old_version_goes_on(job: Job) -> None:
    load = messages(6)
    job.send(islice(load, 200))
    job.finish(job.start())
    _deploy(job, 2)
    refused = job.start()
    assert refused.ended() == 1
    (line,) = refused.said.splitlines()
    for way in ("StateMismatch: ", "version 2, got version 1", "`migrate`", "set warmup", "run version 1 again"):
        assert way in line
    _deploy(job, 1)
    job.send(islice(load, 200))
    job.finish(job.start())
    assert job.differences() == []
