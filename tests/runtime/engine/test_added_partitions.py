"""Partitions that are added to an input topic are processed from their first record on, whatever is killed meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests.crash.harness import Job, Killed
from tests.crash.load import Message, messages, reading
from tests.crash.oracle import judge
from tests.support.setups import Setup
from tests.support.shards import read, shard
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import PositionLost
from tocsin.pipelines.runtime.telemetry import failpoints


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka.bootstrap_servers, tmp_path)
    yield job
    job.close()


def _add(job: Job, records: int = 30) -> int:
    """Add a partition with units of its own to the job's topic. Returns the partition."""
    added = len(job.ends())
    with KafkaAdminClient(**job.kafka) as admin:
        admin.create_partitions({job.topic: added + 1})
    until(lambda: len(job.ends()) > added, "the broker to know the partition that it has created")
    at = int(time.time() * 1000) - 3_600_000
    values = [reading(1000 + added, n, (n * 37 % 100) / 100 + 0.0005) for n in range(1, records + 1)]
    job.send(Message(added, json.dumps(v).encode(), [], at + 10 * n) for n, v in enumerate(values))
    return added


def test_the_very_first_start_may_begin_at_the_end_but_partitions_that_are_added_later_do_not(job: Job) -> None:
    sent = messages(5)
    job.send(islice(sent, 100))
    before = job.ends()
    read(shard(job, start="latest"), job).close()
    assert job.found().rows.total() == 0
    _add(job)
    job.send(islice(sent, 50))
    read(shard(job, start="latest"), job).close()
    assert job.differences(judge(r for r in job.read(job.topic) if r.offset >= before.get(r.partition, 0))) == []
    assert sum(identity[0] == 2 for identity, _ in job.found().rows) == 28  # a window takes 3


def test_what_was_deleted_from_an_added_partition_before_it_was_judged_is_a_loss(job: Job) -> None:
    job.send(islice(messages(5), 50))
    read(shard(job), job).close()
    added = _add(job)
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_records({TopicPartition(job.topic, added): 10})
    with pytest.raises(PositionLost, match=rf"\[{added}\]@0: expected .* 10\.\.30"):
        shard(job)


def test_they_are_taken_up_by_whoever_takes_over_whatever_its_order_says(job: Job) -> None:
    job.plan = replace(job.plan, options={**job.plan.options, "every": "1h"})  # everything stays in the journal
    sent = messages(5)
    job.send(islice(sent, 100))
    running = read(shard(job), job)
    assert running._recovered.journal.sent > 5
    for _ in range(2):
        _add(job)
        job.send(islice(sent, 50))
        running = read(shard(job), job)  # replaces the shard before, which knew fewer partitions
    running = shard(job, partitions=[0, 1])
    assert set(running.facts()["read"]) == {0, 1, 2, 3}
    running.close()
    assert job.differences() == []


POINTS = (
    "takeover.owned",
    "takeover.rerun",
    "alerts.sent",
    "checkpoint.marked",
    "checkpoint.snapshot",
    "checkpoint.delta",
)


def test_a_kill_anywhere_while_they_are_taken_up_loses_and_doubles_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = messages(6)
    job.send(islice(sent, 60))
    running = read(shard(job), job)
    for name in POINTS:
        _add(job, 10)
        job.send(islice(sent, 20))
        with monkeypatch.context() as armed:

            def point(here: str, *, waits: bool = True, name: str = name) -> None:
                if here == name:
                    raise Killed(name)

            armed.setattr(failpoints, "point", point)
            with pytest.raises(Killed, match=name):
                _turn(shard(job))
        running = shard(job)
        running.turn()
    read(running, job).close()
    assert set(job.found().rows.values()) == {1}
    assert job.differences() == []


def _turn(running: Any) -> None:
    for _ in range(20):
        running.turn()
        running.checkpoint()


def test_check_says_that_they_are_there(job: Job, tmp_path: Path) -> None:
    setup = Setup(tmp_path, job.kafka["bootstrap_servers"], job.name, topic=job.topic)
    setup.settings["lake.path"] = job.lake.root
    job.send(islice(messages(5), 50))
    read(shard(job), job).close()
    _add(job)
    state, said = setup.check()["input positions"]
    assert (state, said) == (
        "ok",
        f"{job.topic}: 30 records to process, partitions 2 were added and are read from their start",
    )
