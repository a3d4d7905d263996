"""A worker's shard: an error that no retry can cure leaves it refused with a one-line reason. The worker's process stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import codec as kafka_codec
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import UnsupportedCodecError

from tests.crash.harness import Job
from tests.crash.load import Message, messages, reading
from tests.support.hosted import hosted, reaches
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.worker import HostedShard, Worker
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.shard_config import ShardId
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON
from tocsin.pipelines.runtime.kafka.originals import Originals
from tocsin.pipelines.runtime.telemetry import progress


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    made = Job(kafka.bootstrap_servers, tmp_path)
    yield made
    made.close()


def _alter(job: Job, topic: str, **configs: str) -> None:
    with KafkaAdminClient(**job.kafka) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


def _send(job: Job, sent: list[Message], codec: str) -> None:
    producer = KafkaProducer(**job.kafka, compression_type=codec, linger_ms=50)
    for m in sent:
        producer.send(job.topic, m.value, m.key, m.headers, m.partition, m.at_ms)
    producer.close(timeout=30)


class _AsWorker:
    """The attributes of a process that `Job.drain` uses."""

    said = where = ""

    def __init__(self, thread: threading.Thread) -> None:
        self.process = thread


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_each_codec_of_producers_and_topics_is_read_and_a_takeover_reads_the_journal_again(
    job: Job, codec: str
) -> None:
    for topic in (f"_tocsin.{job.name}", f"alerts.{job.name}", f"{job.topic}.dlq"):
        _alter(job, topic, **{"compression.type": codec})
    load = messages(1)
    _send(job, list(islice(load, 300)), codec)
    first = job.start()
    job.drain(first).kill()
    _alter(job, job.topic, **{"compression.type": codec})
    job.send(islice(load, 300))
    job.finish(job.start())
    assert job.differences() == []


def test_a_codec_that_is_missing_here_is_said_once_what_came_before_is_committed_and_then_it_goes_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = messages(1)
    job.send(islice(load, 200))
    before = job.ends()
    _send(job, list(islice(load, 200)), "lz4")
    (config,) = job.configs()
    config = replace(config, kafka={**config.kafka, CLIENT: KAFKA_PYTHON})  # librdkafka has all codecs
    with monkeypatch.context() as without:
        without.setattr(kafka_codec, "has_lz4", lambda: False)
        with hosted(config) as shard:
            line = reaches(shard, "refused")
            assert f"{job.topic}, records from " in line and "Libraries for lz4 compression codec not found" in line
            assert "install lz4" in line and "\n" not in line
            assert any(job.stored(f"{job.topic}/{p}") >= end for p, end in before.items())  # the other may come later
    with hosted(config) as shard:
        reaches(shard, "running")
        job.drain(_AsWorker(shard.thread))
    assert job.differences() == []


def test_a_refused_row_whose_record_cannot_be_read_again_refuses_the_shard_and_nothing_is_lost(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnsupportedCodecError("no lz4")

    job.send(islice(messages(1), 300))
    (config,) = job.configs()
    with monkeypatch.context() as without:
        without.setattr(Originals, "read", fail)
        with hosted(config) as shard:
            assert "a compression codec that is installed here, got " in reaches(shard, "refused")
    with hosted(config) as shard:
        job.drain(_AsWorker(shard.thread))
    assert job.differences() == []


@pytest.mark.parametrize(
    ("topic", "configs", "says"),
    [
        ("alerts.{}", {"max.message.bytes": "80"}, "MessageSizeTooLargeError"),
        ("in.{}.dlq", {"cleanup.policy": "compact"}, "InvalidRecordError"),
    ],
)
def test_what_the_broker_will_never_take_refuses_a_running_shard(
    job: Job, topic: str, configs: dict[str, str], says: str
) -> None:
    _alter(job, topic.format(job.name), **configs)
    job.send([*islice(messages(1), 300), Message(0, b"not a reading", [], 1)])
    (config,) = job.configs()
    with hosted(config) as shard:
        line = reaches(shard, "refused")
        assert line.startswith(f"{job.name}/0: expected a topic that accepts ") and says in line


def test_a_kafka_timestamp_in_another_unit_is_a_dead_letter_and_never_the_end_of_the_sink(job: Job) -> None:
    _alter(job, job.topic, **{"message.timestamp.after.max.ms": str(2**63 - 1)})
    load = messages(1)
    good, now = list(islice(load, 200)), time.time_ns()
    stamps = [now // 1000] * 4 + [now] * 4  # each more than a window
    wrong = [Message(0, json.dumps(reading(90, n, 0.5)).encode(), [], at) for n, at in enumerate(stamps)]
    job.send([*good[:100], *wrong, *good[100:]])
    (config,) = job.configs()
    with hosted(config) as shard:
        reaches(shard, "running")
        job.drain(_AsWorker(shard.thread))
    letters = [x for x in map(DeadLetter.read, job.read(f"{job.topic}.dlq")) if x.error == "BadTimestamp"]
    assert [x.timestamp for x in letters] == stamps
    assert [x.message.rsplit("; ", 1)[1] for x in letters] == ["microseconds?"] * 4 + ["nanoseconds?"] * 4
    table = pl.scan_delta(job.lake.uri(job.name)).select("unit", "event_time").collect()
    assert len(table) > 100 and 90 not in table["unit"].to_list()


@pytest.mark.parametrize("gets_on", [True, False])
def test_a_shard_that_drains_is_waited_for_as_long_as_it_gets_on(gets_on: bool) -> None:
    """Progress of a thread that the shard's thread has started counts, too."""
    followed, over = progress.Progress(), threading.Event()

    def write() -> None:
        while not over.wait(0.1):
            if gets_on:
                progress.made()
            if time.monotonic() > begun + 2:
                return

    def run() -> None:
        progress.follow(followed)
        beside = threading.Thread(target=copy_context().run, args=(write,))
        beside.start()
        beside.join()

    begun, shard = time.monotonic(), object.__new__(HostedShard)
    shard.stop, shard._state, shard._progress = threading.Event(), "running", followed
    shard.thread = threading.Thread(target=run)
    shard.thread.start()
    drained = Worker.drain(SimpleNamespace(_hosted={ShardId("job", 0): shard}), 0.6)  # type: ignore[arg-type]
    assert drained == gets_on
    over.set()
    shard.thread.join()


def test_output_topics_that_were_deleted_are_made_again_by_the_next_owner(job: Job) -> None:
    job.send(islice(messages(1), 300))
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_topics([f"alerts.{job.name}", f"{job.topic}.dlq"])
    (config,) = job.configs()
    with hosted(config) as shard:
        reaches(shard, "running")
        job.drain(_AsWorker(shard.thread))
    assert job.differences() == []
