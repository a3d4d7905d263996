"""A new plan takes effect at a checkpoint, and a re-run switches at the same one."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pytest

from tests.crash.conftest import MakeJob
from tests.crash.harness import PARTITIONS, Job
from tests.crash.job import SCHEMA
from tests.crash.load import Message, messages
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake.table import ResultsTable

LEVEL, HIGHER = 0.75, 0.9


def _shard(job: Job, **options: Any) -> Shard:
    plan = Plan("tests.crash.job:pipeline", {"name": job.name, "topic": job.topic, "every": "100ms", **options})
    reader = Reader(job.kafka, job.topic, range(PARTITIONS), Codec(topic=job.topic, schema=SCHEMA), 500)
    return Shard(ShardConfig(plan, job.lake, job.kafka, 0, range(PARTITIONS)), reader)


def _ahead(job: Job, load: Iterator[Message], monkeypatch: pytest.MonkeyPatch, **options: Any) -> threading.Event:
    """Make a shard change its plan at a checkpoint that the journal marks but Delta lacks. The returned event unblocks it."""
    lands, shard = threading.Event(), _shard(job)
    _read(shard, job)
    shard.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(ResultsTable, "publish", lambda *_: lands.wait(30))
        shard.change(replace(shard._recovered.plan, options={**shard._recovered.plan.options, **options}))
        job.send(itertools.islice(load, 5))
        while not options.keys() <= shard._recovered.plan.options.keys():
            shard.turn()
        job.send(itertools.islice(load, 400))
        _read(shard, job)
    return lands


def _read(shard: Shard, job: Job) -> None:
    while shard.facts()["read"] != job.ends():
        shard.turn()


def test_dead_letters_are_counted_once_over_a_recovery_and_a_checkpoint(make_job: MakeJob) -> None:
    job = make_job()

    def bad(value: bytes) -> Message:
        return Message(1, value, [], round(time.time() * 1000))

    job.send([*itertools.islice(messages(3), 50), bad(b"not JSON"), bad(b"neither")])
    first = _shard(job, every="1h")
    _read(first, job)
    facts = first.facts()
    assert facts["dead_letters"] > 2 and facts["dead_letter"]["message"].startswith("expected one JSON object")
    assert (facts["dead_letter"]["topic"], facts["dead_letter"]["error"]) == (job.topic, "Malformed")
    second = _shard(job, every="1h")  # fences the first one, and re-runs its steps
    assert second.facts()["dead_letters"] == facts["dead_letters"]
    assert second.facts()["dead_letter"]["offset"] == facts["dead_letter"]["offset"]
    job.send([bad(b'{"unit": 1}')])
    _read(second, job)
    second.close()
    third = _shard(job, every="1h")
    assert third.facts()["dead_letters"] == sum(job.letters().values()) == facts["dead_letters"] + 1
    assert third.facts()["dead_letter"]["offset"] > facts["dead_letter"]["offset"]
    third.close()


def _hot(job: Job) -> Iterator[float]:
    for record in job.read(f"alerts.{job.name}"):
        data = orjson.loads(record.value)
        if data["rule"] == "hot" and (b"raised" in dict(record.headers)["ce_type"]):
            yield data["score"]


def test_a_plan_changes_at_a_checkpoint_and_is_run_again_from_its_mark(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, load = make_job(), messages(3)
    job.send(itertools.islice(load, 400))
    first = _shard(job)
    _read(first, job)
    first.checkpoint()
    before = list(_hot(job))
    lands = threading.Event()
    # The journal marks this checkpoint, but Delta lacks it.
    monkeypatch.setattr(ResultsTable, "publish", lambda *_: lands.wait(30))
    first.change(
        Plan("tests.crash.job:pipeline", {"name": job.name, "topic": job.topic, "every": "100ms", "high": HIGHER})
    )
    job.send(itertools.islice(load, 5))
    while "high" not in first._recovered.plan.options:
        first.turn()
    changed_at = len(list(_hot(job)))
    job.send(itertools.islice(load, 400))
    _read(first, job)
    after = list(_hot(job))[changed_at:]
    assert min(before) < HIGHER < min(after)
    monkeypatch.undo()

    second = _shard(job, high=HIGHER)
    lands.set()
    assert second.facts()["uncommitted_rows"] > 0
    job.send(itertools.islice(load, 200))
    _read(second, job)
    second.close()
    assert min(list(_hot(job))[changed_at:]) > HIGHER
    assert not [r for r in caplog.records if "re-ran" in r.message]
    found = job.found()
    assert {*found.rows.values(), *found.alerts.values(), *found.letters.values()} == {1}


def test_result_columns_come_and_go_and_no_row_is_lost_over_it(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, load = make_job(), messages(3)
    job.send(itertools.islice(load, 400))
    lands = _ahead(job, load, monkeypatch, extra=["heat", "load"])
    second = _shard(job, extra=["heat", "load"])  # re-runs steps before and after the change
    lands.set()
    _read(second, job)
    second.close()
    job.send(itertools.islice(load, 200))
    last = _shard(job, extra=["load"])
    _read(last, job)
    last.close()
    assert job.differences() == []
    assert not [r for r in caplog.records if "re-ran" in r.message]
    ends = pl.scan_delta(job.lake.uri(job.name)).sort("partition", "offset").collect().partition_by("partition")
    for rows in ends:
        for column, written in {"heat": [False, True, False], "load": [False, True]}.items():
            runs = rows[column].is_not_null().rle().struct.field("value").to_list()
            assert runs == written, column
