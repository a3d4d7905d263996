"""A slow lake while alerts are raised: the journal stays within its topic's limit, and a shard that exceeded it recovers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from tests.crash.harness import Job, Killed
from tests.crash.load import Message, messages
from tests.support.shards import read, shard
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.engine import shard as shard_module
from tocsin.pipelines.runtime.engine.journal import Journal, Mark, StepRecord
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.kafka.topics import LARGEST, provision
from tocsin.pipelines.runtime.lake.table import ResultsTable

LIMIT = 1_800
"""Maximum bytes of a record in the journal's topic, instead of a megabyte."""


@pytest.fixture
def wide(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    """A job whose steps have one record each."""
    job = Job(kafka.bootstrap_servers, tmp_path)
    job.plan = replace(job.plan, options={**job.plan.options, "rows": 1})
    yield job
    job.close()


@pytest.fixture
def job(wide: Job) -> Job:
    """A job whose journal topic takes records of at most `LIMIT` bytes."""
    _limit(wide, LIMIT)
    return wide


def _limit(job: Job, most: int | None = None) -> int:
    """Return the largest record that the journal's topic takes, in bytes; `most` sets it first."""
    given = {"max.message.bytes": str(most)} if most else None
    wanted = ConfigResource(ConfigResourceType.TOPIC, f"_tocsin.{job.name}", given)
    with KafkaAdminClient(**job.kafka) as admin:
        if most:
            admin.alter_configs([wanted])
            return most
        (found,) = admin.describe_configs([wanted], config_filter="all").values()
    return int(found[f"_tocsin.{job.name}"]["max.message.bytes"]["value"])


def _slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make commits wait until the returned event is set."""
    fast, lands = ResultsTable.publish, threading.Event()

    def publish(*what: Any) -> None:
        lands.wait(60)
        fast(*what)

    monkeypatch.setattr(ResultsTable, "publish", publish)
    return lands


def test_while_the_lake_is_slow_the_input_waits_before_the_journal_is_too_long(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "LONG", 300)
    job.send(islice(messages(7), 20))
    running = read(shard(job), job)
    running.checkpoint()
    lands, done = _slow(monkeypatch), threading.Event()
    job.send(islice(messages(8, units=40), 45))
    going = threading.Thread(target=lambda: (read(running, job), done.set()))
    going.start()
    until(lambda: running.facts()["waits_for"] == "the lake", "the shard to wait", 30)
    assert running.facts()["turn_s"] == 0  # it waits and does not hang
    assert not done.wait(0.5)
    assert len(running._recovered.journal.items) > 15
    lands.set()
    assert done.wait(60)
    going.join()
    running.close()
    assert max(len(record.value) for record in job.read(f"_tocsin.{job.name}")) < 700 + 3 * len(job.plan.dump())
    assert job.differences() == []


def _version_1(journal: Journal) -> bytes:
    """Encode a journal as before its records had versions."""
    items: list[Any] = []
    for item in journal.items:
        if isinstance(item, Mark):
            items.append([item.checkpoint, item.sent, item.digest, item.plan])
        else:
            assert isinstance(item, StepRecord)
            items.append([item.now, item.wall - item.now, [n for pair in item.ends.items() for n in pair]])
    return orjson.dumps({"base": journal.base, "sent": journal.sent, "digest": journal.digest, "items": items})


def test_a_shard_whose_journal_had_grown_too_long_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Iterator[Message] = messages(9)
    job.send(islice(sent, 20))
    with monkeypatch.context() as before:
        before.setattr(Journal, "append", lambda journal: (0, _version_1(journal)))
        before.setattr(Shard, "_is_journal_long", lambda *_: False)
        running = read(shard(job), job)
        running.checkpoint()
        lands = _slow(before)
        job.send(islice(sent, 120))
        with pytest.raises(KafkaError, match="TooLarge"):
            read(running, job)
        running = shard(job)
        with pytest.raises(KafkaError, match="TooLarge"):  # the next owner meets the same limit
            read(running, job)
        lands.set()
    (*_, newest) = job.read(f"_tocsin.{job.name}")
    assert LIMIT / 2 < len(newest.value) < LIMIT
    monkeypatch.setattr(shard_module, "LONG", 300)
    read(shard(job), job).close()
    assert job.differences() == []


def test_the_journals_topic_is_made_for_the_largest_record_and_widened_if_it_was_made_before(job: Job) -> None:
    pipeline = job.plan.build(job.lake)
    provision(job.kafka, pipeline, shards=1)
    until(lambda: _limit(job) == LARGEST, "the broker to know the new limit", 30)
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_topics([f"_tocsin.{job.name}"])
        until(lambda: f"_tocsin.{job.name}" not in admin.list_topics(), "the journal to be gone")
    provision(job.kafka, pipeline, shards=1)
    until(lambda: _limit(job) == LARGEST, "the broker to know the new limit", 30)


def test_a_large_record_passes_the_producer_too(wide: Job) -> None:
    job, running = wide, shard(wide)  # a widened topic takes large records only after a moment
    large = Journal(running._recovered.journal.base)
    large.mark(1, "x" * (LARGEST - 10_000))
    running._recovered.publisher.send([], [], large, {})
    running._recovered.publisher.settle(wait=True)
    (*_, newest) = job.read(f"_tocsin.{job.name}")
    assert len(newest.value) > LARGEST - 10_000


def test_owners_that_die_in_their_commit_one_after_the_other_leave_no_marks_behind(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.plan = replace(job.plan, options={**job.plan.options, "rows": 64, "every": "1h"})
    job.send(islice(messages(7), 50))
    read(shard(job), job).close()
    monkeypatch.setattr(ResultsTable, "publish", lambda *_: (_ for _ in ()).throw(Killed))
    sizes = []
    for _ in range(4):
        job.send(islice(messages(8), 5))
        running = read(shard(job), job)
        with pytest.raises(Killed):
            running.checkpoint()
        (*_, newest) = job.read(f"_tocsin.{job.name}")
        sizes.append(sum(isinstance(item, Mark) for item in Journal.load(newest.value).items))
    assert sizes == [1, 1, 1, 1]
