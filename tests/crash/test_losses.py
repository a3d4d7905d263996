"""Lost inputs of recovery: a shard stops with a one-line error, or continues and records the gap."""

from collections.abc import Callable
from contextlib import closing
from itertools import islice

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.waits import until
from tocsin.pipelines.runtime.engine.alerts import Alert

pytestmark = pytest.mark.crash


def _delete(job: Job, topic: str) -> None:
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_topics([topic])
        until(lambda: topic not in admin.list_topics(), f"{topic} to be gone")


def _replace_input(job: Job) -> None:
    _delete(job, job.topic)
    job.create({job.topic: 2})


def _delete_records(job: Job) -> None:
    """Delete the first records that the shard has not read yet."""
    ends = job.ends()
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_records({TopicPartition(job.topic, p): job.stored(f"{job.topic}/{p}") + 10 for p in ends})


def _empty_journal(job: Job) -> None:
    _delete(job, f"_tocsin.{job.name}")
    job.create({f"_tocsin.{job.name}": 1})


def _error(dead_letter: ConsumerRecord) -> str:
    return bytes(dict(dead_letter.headers)["__connect.errors.exception.class.name"]).decode()


LOSSES: dict[str, Callable[[Job], None]] = {
    "TopicReplaced": _replace_input,
    "PositionLost": _delete_records,
    "JournalLost": _empty_journal,
}


@pytest.mark.parametrize("error", LOSSES)
def test_a_loss_stops_the_shard_or_goes_on_record(make_job: MakeJob, error: str) -> None:
    job, sent = make_job(), messages(6)
    job.send(islice(sent, 200))
    job.finish(job.start())
    before = job.found()
    if error != "TopicReplaced":
        job.send(islice(sent, 200))
    LOSSES[error](job)
    if error == "TopicReplaced":
        job.send(islice(sent, 200))

    stopped = job.start()
    assert stopped.ended() == 1
    (line,) = stopped.said.splitlines()
    assert line.startswith(f"{error}: ")
    assert "on-gap skip" in line

    job.finish(job.start(on_gap="skip"))
    letters = [*map(_error, job.read(f"{job.topic}.dlq"))]
    assert letters.count(error) == (2 if error == "PositionLost" else 1)
    after = job.found()
    assert after.rows.total() > before.rows.total()
    if error != "TopicReplaced":
        assert set(after.rows.values()) == {1}
    ids = [Alert.read(m.headers, m.value).id for m in job.read(f"alerts.{job.name}")]
    assert len(set(ids)) == len(ids)  # a recreated topic uses the same offsets again


def test_a_journal_that_lacks_a_record_counts_as_lost(make_job: MakeJob) -> None:
    job, sent = make_job(every="1h"), messages(6)
    topic = f"_tocsin.{job.name}"
    worker = job.start()

    def chain() -> list[ConsumerRecord]:
        job.send(islice(sent, 50))
        written = job.read(topic)
        whole = max((i for i, record in enumerate(written) if b"/" not in record.key), default=len(written))
        return written[whole:]

    until(lambda: len(chain()) > 3, "a chain of the journal", worker=worker)
    worker.kill()
    written = job.read(topic)
    _empty_journal(job)
    with closing(KafkaProducer(**job.kafka)) as producer:
        for record in [*written[:-2], written[-1]]:
            producer.send(topic, key=record.key, value=record.value, partition=0)
    stopped = job.start()
    assert stopped.ended() == 1
    assert "JournalLost: " in stopped.said.splitlines()[-1]
    worker = job.start(on_gap="skip")
    until(lambda: "JournalLost" in map(_error, job.read(f"{job.topic}.dlq")), "the gap to be recorded", worker=worker)
    worker.stop()
    assert set(job.found().rows.values()) == {1}


def test_without_its_journal_topic_a_shard_says_so(make_job: MakeJob) -> None:
    job = make_job()
    job.send(islice(messages(6), 100))
    job.finish(job.start())
    _delete(job, f"_tocsin.{job.name}")
    stopped = job.start()
    assert stopped.ended() == 1
    (line,) = stopped.said.splitlines()
    assert f"_tocsin.{job.name}" in line
