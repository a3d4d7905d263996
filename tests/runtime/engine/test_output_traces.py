"""The trace of an alert is that of its record, whoever publishes it; its span is exported once it is committed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash.harness import Job
from tests.crash.load import Message, reading
from tests.support.collector import Collector, attributes
from tests.support.shards import read, shard
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.telemetry import spans
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions, full

AT_MS = round(time.time() * 1000) - 3_600_000
WAITING = {"late": 2, "patience": "9999d"}
CLIENTS = pytest.mark.parametrize("client", ["librdkafka", "kafka-python"])


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    job = Job(kafka.bootstrap_servers, tmp_path, every="1h")
    yield job
    job.close()


def _parent(number: int, flags: str = "01") -> str:
    return f"00-{number:032x}-{number:016x}-{flags}"


def _message(cycle: int, heat: float = 0.9, headers: Sequence[tuple[str, bytes]] = ()) -> Message:
    return Message(0, json.dumps(reading(1, cycle, heat)).encode(), [*headers], AT_MS + 10 * cycle)


def _traced(cycle: int, flags: str = "01") -> Message:
    headers = [("traceparent", _parent(cycle, flags).encode()), ("tracestate", b"vendor=a")]
    return _message(cycle, headers=headers)


def _published(job: Job) -> dict[str, tuple[Alert, ConsumerRecord]]:
    records = job.read(f"alerts.{job.name}")
    found = [(Alert.read(r.headers, r.value), r) for r in records]
    assert len({alert.id for alert, _ in found}) == len(found)
    return {f"{alert.rule} {alert.transition}": (alert, record) for alert, record in found}


@CLIENTS
def test_an_alert_and_a_dead_letter_are_of_their_records_trace(job: Job, client: str) -> None:
    readings = [_traced(1), _message(2), _traced(3), _traced(4, "00"), _message(5, 0.0), _message(6, 0.0)]
    job.send([*readings, Message(1, b"not a reading", [("traceparent", _parent(99).encode())], AT_MS)])
    read(shard(job, kafka=job.kafka | {"client": client}), job).close()
    found = _published(job)
    hot, record = found["hot raised"]  # at the third reading
    headers = dict(record.headers)
    assert headers["traceparent"] == headers["ce_traceparent"] == _parent(3).encode()
    assert headers["tracestate"] == headers["ce_tracestate"] == b"vendor=a"
    assert (hot.traceparent, hot.tracestate) == (_parent(3), "vendor=a")
    assert found["steady raised"][0].traceparent == _parent(4, "00")
    cleared, record = found["hot cleared"]  # by a reading that came without one
    assert not {"traceparent", "ce_traceparent", "tracestate"} & {name for name, _ in record.headers}
    assert cleared.traceparent == ""
    (letter,) = map(DeadLetter.read, job.read(f"{job.topic}.dlq"))
    assert letter.headers == (("traceparent", _parent(99).encode()),)


def test_rows_that_wait_have_their_trace_after_a_restart(job: Job) -> None:
    job.plan = replace(job.plan, options={**job.plan.options, **WAITING})
    job.send([_message(1, 0.6), _message(2, 0.9), _traced(3)])
    running = read(shard(job), job)
    running.close()
    assert _published(job) == {}
    job.send([_message(4, 0.9), _message(5, 0.9)])  # which release the third
    read(shard(job), job).close()
    assert _published(job)["hot raised"][0].traceparent == _parent(3)


def test_records_since_the_last_checkpoint_have_their_trace_after_a_crash(job: Job) -> None:
    job.plan = replace(job.plan, options={**job.plan.options, **WAITING})
    running = shard(job)
    running.checkpoint()
    job.send([_message(1, 0.6), _message(2, 0.9), _traced(3)])
    read(running, job)
    job.send([Message(1, b"not a reading", [], AT_MS)])  # it is published, and so is the journal
    read(running, job)
    until(lambda: running.turn() or job.letters(), "the dead letter to be published", 30)
    assert _published(job) == {}
    running.abandon()
    again = shard(job)
    job.send([_message(4, 0.9), _message(5, 0.9)])
    read(again, job).close()
    assert _published(job)["hot raised"][0].traceparent == _parent(3)


@CLIENTS
def test_the_span_of_an_alert_is_the_parent_that_it_names(job: Job, client: str) -> None:
    bad = Message(1, b"not a reading", [("traceparent", _parent(99).encode())], AT_MS)
    job.send([_message(1), _message(2), _traced(3), _traced(4, "00"), _traced(2), bad])
    with Collector() as collector:
        options = SpanOptions(full(collector.endpoint))
        running = read(shard(job, kafka=job.kafka | {"client": client}, traces=options), job)
        running.close()
        until(lambda: running.stats._counts["spans"] == 3, "the spans of an alert and two dead letters", 60)
    found = _published(job)
    hot, _ = found["hot raised"]
    assert hot.traceparent == f"00-{3:032x}-{hot.id[:16]}-01"
    assert found["steady raised"][0].traceparent == _parent(4, "00")  # not sampled: no span
    by_trace = {span.trace_id.hex(): span for span, _ in collector.spans}
    span = by_trace[f"{3:032x}"]
    assert (span.span_id.hex(), span.parent_span_id.hex()) == (hot.id[:16], f"{3:016x}")
    assert span.name == f"process {job.topic}"
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": job.topic,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 2,
        "messaging.consumer.group.name": f"tocsin.{job.name}",
        "tocsin.pipeline": job.name,
        "tocsin.shard": 0,
        "tocsin.key": "1",
        "tocsin.alert.id": hot.id,
        "tocsin.alert.rule": "hot",
        "tocsin.alert.severity": "warning",
        "tocsin.alert.transition": "raised",
    }
    for trace, error, stage in ((99, "Malformed", "decode"), (2, "TooLate", "sorted")):
        span = by_trace[f"{trace:032x}"]
        assert span.parent_span_id.hex() == f"{trace:016x}"
        assert span.status.code == span.status.STATUS_CODE_ERROR and span.status.message
        assert (attributes(span)["error.type"], attributes(span)["tocsin.stage"]) == (error, stage)
    letters = [DeadLetter.read(record) for record in job.read(f"{job.topic}.dlq")]
    assert sorted(dict(letter.headers)["traceparent"] for letter in letters) == sorted(
        _parent(n).encode() for n in (2, 99)
    )


def test_a_collector_that_is_away_does_not_hold_back_a_shard(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "CLOSE_S", 0.1)
    with Collector() as gone:
        options = SpanOptions(full(gone.endpoint))
    job.send([_message(1), _message(2), _traced(3)])
    running = read(shard(job, traces=options), job)
    running.close()
    assert _published(job)["hot raised"][0].traceparent.startswith(f"00-{3:032x}-")
    assert job.drained(job.ends())
