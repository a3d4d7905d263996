"""Traces under kills: each alert is of its record's trace, whichever owner published it, and its span is its parent."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.collector import Collector, attributes
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions, full

pytestmark = pytest.mark.crash
WAITING = {"late": 4, "patience": "9999d"}
"""Options with which readings wait for later ones of their unit, so that every snapshot has some that wait."""
FALLS = ["alerts.begin", "alerts.sent", "alerts.committed", "checkpoint.marked", "checkpoint.delta", "takeover.rerun"]
SAMPLED, UNSAMPLED = "01", "00"


class Producer:
    """Puts a trace into two of three messages. Every second one of those is sampled."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, message: Message) -> Message:
        n = next(self._numbers)
        if n % 3 == 0:
            return message
        parent = f"00-{n:032x}-{n:016x}-{SAMPLED if n % 2 else UNSAMPLED}"
        return message._replace(headers=[*message.headers, ("traceparent", parent.encode()), ("tracestate", b"a=b")])


def _killed(job: Job, rng: random.Random, points: list[str], start: dict[str, object]) -> None:
    """Kill the job's processes at these points under load, then let the last one finish."""
    with job.load(change=Producer()):
        worker = job.start(**start)
        for point in [*points, ANYWHERE]:
            time.sleep(rng.uniform(0, 0.4))
            worker.fall(ANYWHERE if point.startswith("takeover") else point)
            if point.startswith("takeover"):
                job.start(**start, **{point.replace(".", "_"): "SIGKILL"}).fell(point)
            worker = job.start(**start)
    job.finish(worker)


def _sent(job: Job) -> dict[tuple[int, int], ConsumerRecord]:
    return {(record.partition, record.offset): record for record in job.read(job.topic)}


def _alerts(job: Job) -> list[tuple[Alert, dict[str, bytes]]]:
    return [
        (Alert.read(record.headers, record.value), dict(record.headers)) for record in job.read(f"alerts.{job.name}")
    ]


def test_an_alert_has_its_records_context_after_any_kill(make_job: MakeJob, falls: Falls) -> None:
    rng, job = random.Random(11), make_job(**WAITING)
    _killed(job, rng, falls(rng, FALLS), {})
    sent, found = _sent(job), _alerts(job)
    kinds = Counter[str]()
    for alert, headers in found:
        expected = dict(sent[alert.data["partition"], alert.data["offset"]].headers)
        assert headers.get("traceparent") == headers.get("ce_traceparent") == expected.get("traceparent")
        assert headers.get("tracestate") == headers.get("ce_tracestate") == expected.get("tracestate")
        kinds[expected.get("traceparent", b"none")[-2:].decode()] += 1
    assert kinds.keys() == {SAMPLED, UNSAMPLED, "ne"} and min(kinds.values()) > 10, kinds
    assert max(Counter(alert.id for alert, _ in found).values()) == 1
    letters = [DeadLetter.read(record) for record in job.read(f"{job.topic}.dlq")]
    assert letters and any(dict(letter.headers).get("traceparent") for letter in letters)
    assert all(letter.headers == tuple(sent[letter.partition, letter.offset].headers) for letter in letters)


def test_the_span_of_an_alert_is_its_parent_after_any_kill(make_job: MakeJob, falls: Falls) -> None:
    """With kafka-python. Spans that a killed process had not exported are missing; none is wrong."""
    rng, job = random.Random(12), make_job(**WAITING)
    with Collector() as collector:
        own = job.configs()[0]
        config = replace(
            own, kafka=own.kafka | {"client": "kafka-python"}, traces=SpanOptions(full(collector.endpoint))
        )
        _killed(job, rng, falls(rng, FALLS), {"config": config})
        until(lambda: collector.spans, "a span", 60)
    sent, parents, kinds = _sent(job), dict[str, tuple[str, str]](), Counter[str]()
    for alert, headers in _alerts(job):
        expected = dict(sent[alert.data["partition"], alert.data["offset"]].headers).get("traceparent", b"").decode()
        if expected.endswith(SAMPLED):
            parents[alert.id[:16]] = alert.id, expected
            expected = f"{expected[:36]}{alert.id[:16]}-01"
        assert headers.get("traceparent", b"").decode() == alert.traceparent == expected
        kinds[expected[-2:]] += 1
    assert kinds.keys() == {SAMPLED, UNSAMPLED, ""} and min(kinds.values()) > 10, kinds
    seen = 0
    for span, _ in collector.spans:
        if alert_id := attributes(span).get("tocsin.alert.id"):
            published, parent = parents[span.span_id.hex()]
            assert (alert_id, span.trace_id.hex(), span.parent_span_id.hex()) == (
                published,
                parent[3:35],
                parent[36:52],
            )
            seen += 1
    assert seen > 10
