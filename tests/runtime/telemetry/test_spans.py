"""Spans: what a collector gets, and that a collector holds back nothing."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.collector import Collector, attributes
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.trace import TraceContext
from tocsin.pipelines.runtime.telemetry import spans
from tocsin.pipelines.runtime.telemetry.spans import Span, SpanExporter, SpanOptions, from_environment, full

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def _span(number: int = 1, error: str = "") -> Span:
    parent = TraceContext(f"00-{TRACE}-{PARENT}-01", "vendor=a")
    began = time.time_ns() - 10**9
    return Span(f"{number:016x}", parent, "process sensors", began, {"messaging.kafka.offset": number}, error)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


class Exported:
    """An exporter, and what it has counted."""

    def __init__(self, collector: Collector, **headers: str) -> None:
        self.counts = Counter[str]()
        self.exporter = SpanExporter(SpanOptions(full(collector.endpoint), headers), self.count)

    def count(self, **counts: int) -> None:
        self.counts.update(counts)

    def until(self, **counts: int) -> None:
        until(lambda: self.counts == counts, f"{counts}, after {self.counts}", 60)


def test_a_collector_gets_a_span_with_its_parent_and_its_attributes(collector: Collector) -> None:
    made = Exported(collector, Authorization="Bearer hush")
    before = time.time_ns()
    made.exporter.end([_span(7), _span(8, "expected 21 sensors, got 20")])
    made.until(spans=2)
    made.exporter.close()
    (span, resource), (refused, _) = collector.spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, f"{7:016x}", PARENT)
    assert (span.name, span.kind, span.trace_state) == ("process sensors", span.SPAN_KIND_CONSUMER, "vendor=a")
    assert attributes(span) == {"messaging.kafka.offset": 7}
    assert span.start_time_unix_nano < before <= span.end_time_unix_nano <= time.time_ns()
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert (refused.status.code, refused.status.message) == (
        span.status.STATUS_CODE_ERROR,
        "expected 21 sensors, got 20",
    )
    assert resource["service.name"] == "tocsin"
    (request,) = collector.requests
    assert (request["path"], request["authorization"]) == ("/v1/traces", "Bearer hush")


def test_spans_that_a_collector_refuses_are_counted_and_said_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spans, "GATHER_S", 0.01)
    made, collector.answer = Exported(collector), 403
    for n in range(3):
        made.exporter.end([_span(n)])
        made.until(spans_dropped=n + 1)
    collector.answer = 200
    made.exporter.end([_span(4)])
    made.until(spans_dropped=3, spans=1)
    made.exporter.close()
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith(f"spans: expected {collector.endpoint}/v1/traces to take them, got: ") and "403" in line


def test_a_collector_that_does_not_answer_holds_back_no_one(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "QUEUED", 10)
    monkeypatch.setattr(spans, "GATHER_S", 0.01)
    made = Exported(collector)
    collector.open.clear()
    made.exporter.end([_span()])
    until(lambda: collector.requests, "a request that gets no answer", 60)
    made.exporter.end([_span(n) for n in range(25)])  # returns, though nothing is taken
    assert made.counts == {"spans_dropped": 15}
    collector.open.set()
    made.until(spans_dropped=15, spans=11)
    made.exporter.close()


def test_spans_that_come_later_are_exported_too(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "GATHER_S", 0.01)
    made = Exported(collector)
    for n in range(3):
        made.exporter.end([_span(n)])
        made.until(spans=n + 1)
        time.sleep(0.1)  # the thread finds the queue empty
    made.exporter.close()


def test_what_waits_is_exported_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "CLOSE_S", 60.0)  # the first export imports the package
    made = Exported(collector)
    made.exporter.end([_span()])
    made.exporter.close()
    assert len(collector.spans) == 1


def test_without_a_span_there_is_no_thread(collector: Collector) -> None:
    made = Exported(collector)
    made.exporter.end([])
    assert made.exporter._thread is None
    made.exporter.close()


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, None),
        ({"ENDPOINT": ""}, None),
        ({"ENDPOINT": "http://otel:4317", "PROTOCOL": "grpc"}, None),
        ({"ENDPOINT": "http://otel:4318"}, SpanOptions("http://otel:4318/v1/traces")),
        (
            {"ENDPOINT": "https://otel/", "PROTOCOL": "http/protobuf", "HEADERS": "key=a%20b, other=c=d,,"},
            SpanOptions("https://otel/v1/traces", {"key": "a b", "other": "c=d"}),
        ),
    ],
)
def test_opentelemetrys_own_variables_name_the_collector(
    variables: dict[str, str], options: SpanOptions | None
) -> None:
    assert from_environment({f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}) == options
