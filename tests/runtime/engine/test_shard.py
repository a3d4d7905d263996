"""A shard in this process: how it handles an unreadable partition, and a re-run that differs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from kafka import TopicPartition

from tests.crash import job as job_module
from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.segments import damage
from tests.support.shards import read, shard
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.health import problems
from tocsin.pipelines.runtime.declare.errors import RecordsCorrupt
from tocsin.pipelines.runtime.engine import checkpoint_schedule
from tocsin.pipelines.runtime.engine.checkpoint_schedule import CAUGHT_UP_S
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.kafka import reader as reader_module
from tocsin.pipelines.runtime.kafka.transactions import Message

JOURNALED = {"every": "1h"}
"""No checkpoint after the first, so that recovery re-runs everything."""


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka.bootstrap_servers, tmp_path)
    yield job
    job.close()


def _with(job: Job, **options: object) -> None:
    job.plan = replace(job.plan, options={**job.plan.options, **options})


def test_a_re_run_that_gives_other_alerts_is_counted_and_shown(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(job, **JOURNALED)
    job.send(islice(messages(5), 100))
    running = read(shard(job), job)
    assert (running.facts()["digest_mismatches"], running.stats.window().counts["digest_mismatches"]) == (0, 0)
    wear = job_module.wear
    monkeypatch.setattr(job_module, "wear", lambda window: {**wear(window), "score": 1 - wear(window)["score"]})
    again = shard(job)
    assert (again.facts()["digest_mismatches"], again.stats.window().counts["digest_mismatches"]) == (1, 1)
    again.close()


def _reached(running: Shard, ends: dict[int, int]) -> bool:
    running.turn()
    return running.facts()["read"] == ends


def test_of_a_shard_with_a_damaged_partition_the_others_go_on_and_it_too_once_it_is_restored(
    job: Job, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "RESTORED_S", 1.0)
    load = messages(8)
    for _ in range(3):
        job.send(islice(load, 200))
    records = job.read(job.topic)
    lost = damage(kafka, job.topic, sum(r.partition == 0 for r in records) // 2)
    ends = job.ends()
    running = shard(job)
    until(lambda: _reached(running, {0: lost.first, 1: ends[1]}), "the other partition to be judged", 30)
    until(lambda: running.turn() or running.facts()["damaged"], "the damage to be found", 30)
    line = running.facts()["damaged"][0]
    assert line.startswith(f"{job.topic}[0]@{lost.first}: expected records as they were written")
    found = {"shard": 0, "state": "running", "error": "", "facts": running.facts(), "uncommitted_s": 0}
    assert [p["why"] for p in problems(1, [found])] == [line]
    assert running.stats.gauges["damaged"] == 1
    job.send(islice(load, 100))  # the other partition and the clock go on
    more = job.ends()[1]
    until(lambda: _reached(running, {0: lost.first, 1: more}), "what comes later to be judged", 30)
    assert running._step_clock.now > time.time() * 1000 - 60_000
    running.checkpoint()
    assert job.drained({0: lost.first, 1: more})

    damage(kafka, job.topic, lost.first)  # flips the same bits back
    until(lambda: _reached(running, job.ends()), "the restored partition to be judged", 30)
    assert running.facts()["damaged"] == {}
    running.close()
    assert job.differences() == []


def test_the_end_of_a_backlog_is_committed_at_once_and_what_trickles_in_later_is_not(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_schedule, "BACKLOG_S", 0.0)
    _with(job, every="60s")
    load = messages(8)
    job.send(islice(load, 300))
    running = read(shard(job), job)
    until(lambda: running.turn() or job.drained(job.ends()), "the backlog's last rows to be in the table", 20)
    job.send(islice(load, 10))
    read(running, job)
    later = time.monotonic() + 2 * CAUGHT_UP_S
    until(lambda: running.turn() or time.monotonic() > later, "a checkpoint to be due")
    assert not job.drained(job.ends())
    running.close()
    assert job.differences() == []


def test_what_is_raised_while_a_transaction_runs_goes_with_the_next_and_waits_for_no_reading(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(job, **JOURNALED)
    running = read(shard(job), job)
    good = (m for m in messages(8) if m.value != b"not a reading" and b"0.9995" not in m.value)  # no dead letters
    publisher, ends, began = running._recovered.publisher, threading.Event(), list[int]()
    commit = publisher._commit

    def slow(sent: Sequence[Message], positions: Mapping[TopicPartition, int]) -> None:
        began.append(len(sent))
        assert ends.wait(30)
        commit(sent, positions)

    monkeypatch.setattr(publisher, "_commit", slow)
    stop = threading.Event()
    runs = threading.Thread(target=running.run, args=(stop,))
    runs.start()
    job.send(islice(good, 200))
    until(lambda: publisher.busy, "the first alert's transaction to begin", 30)
    job.send(islice(good, 200))
    sent = job.ends()
    until(lambda: running.facts()["read"] == sent and running._alerts, "the steps to go on meanwhile", 30)
    assert len(began) == 1
    ends.set()
    until(lambda: len(began) == 2, "the next transaction to begin, without a reading", 30)
    stop.set()
    runs.join()
    assert job.differences() == []


def test_damage_in_what_has_to_be_judged_again_stops_the_takeover(job: Job, kafka: KafkaServer) -> None:
    _with(job, **JOURNALED)
    job.send(islice(messages(8), 200))
    running = read(shard(job), job)
    assert running._recovered.journal.sent
    lost = damage(kafka, job.topic, 0)
    with pytest.raises(RecordsCorrupt, match=rf"\[0\]@{lost.first}: expected records as they were written"):
        shard(job)
