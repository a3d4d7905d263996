"""Exports spans of traces with OpenTelemetry, in a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tocsin.pipelines.runtime.declare.trace import TraceContext
from tocsin.pipelines.runtime.telemetry.logs import one_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)
QUEUED, BATCH = 2048, 512
"""The most spans that wait for their export, and that one request has; OpenTelemetry's own defaults."""
GATHER_S, CLOSE_S = 1.0, 3.0
"""How long a request waits for more spans, and how long a shard that ends waits for the last request."""
PACKAGE, PATH = "opentelemetry-exporter-otlp-proto-http", "/v1/traces"
ENDPOINT, HEADERS, PROTOCOL = (f"OTEL_EXPORTER_OTLP_{name}" for name in ("ENDPOINT", "HEADERS", "PROTOCOL"))


@dataclass(frozen=True)
class Span:
    """A record's way through a shard: from its reading to the commit of the alert, or of the dead letter, that it led to.

    Args:
        id: 16 hexadecimal digits, which the alert's `traceparent` names.
        parent: the record's context.
        began: when the record was read, ns since the epoch.
        attributes: by OpenTelemetry's semantic conventions for messaging, and Tocsin's own.
        error: why the record could not be processed; "": it could.
    """

    id: str
    parent: TraceContext
    name: str
    began: int
    attributes: Mapping[str, str | int]
    error: str = ""


@dataclass(frozen=True)
class SpanOptions:
    """Where spans are sent.

    Args:
        endpoint: where the collector takes them, such as `http://127.0.0.1:4318/v1/traces`.
        headers: of each request; may be secret.
    """

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def full(endpoint: str) -> str:
    """Where a collector takes traces, if only its address is given."""
    return endpoint if endpoint.endswith(PATH) else endpoint.rstrip("/") + PATH


def from_environment(variables: Mapping[str, str]) -> SpanOptions | None:
    """Where OpenTelemetry's own environment variables send spans; None: nowhere, or not by HTTP."""
    endpoint = variables.get(ENDPOINT, "")
    if not endpoint or variables.get(PROTOCOL, "http/protobuf") != "http/protobuf":
        return None
    pairs = [pair.partition("=") for pair in variables.get(HEADERS, "").split(",")]
    return SpanOptions(
        full(endpoint), {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals}
    )


def installed() -> bool:
    """Whether the package that exports spans is installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


class SpanExporter:
    """Exports spans to an OTLP collector by HTTP.

    Guarantee: `end` neither blocks nor raises, whatever the collector does. Spans that find the queue full, or that the collector
    does not take within ten seconds, are dropped and counted. A process that dies loses those that wait.

    Args:
        count: called with `spans` or `spans_dropped`, and their number.
    """

    def __init__(self, options: SpanOptions, count: Callable[..., None]) -> None:
        self._options, self._count = options, count
        self._queue = queue.Queue[tuple[Span, int]](QUEUED)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def end(self, spans: Sequence[Span]) -> None:
        """Export these spans, which end now."""
        now = time.time_ns()
        if spans and self._thread is None:  # most shards never have one
            self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self._thread.start()
        for at, span in enumerate(spans):
            try:
                self._queue.put_nowait((span, now))
            except queue.Full:
                self._count(spans_dropped=len(spans) - at)
                return

    def close(self) -> None:
        """Export what waits, within `CLOSE_S`, and end the thread."""
        self._closing.set()
        if self._thread:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        send, fault = None, ""
        while not self._closing.is_set() or not self._queue.empty():
            if not (batch := self._batch()):
                continue
            before, fault = fault, ""
            try:
                send = send or _sender(self._options)
                fault = send(batch)
            except Exception as reason:  # whatever the package raises: the shard goes on
                fault = one_line(reason)
            self._count(**{"spans_dropped" if fault else "spans": len(batch)})
            if fault and not before:
                log.warning("spans: expected %s to take them, got: %s; they are dropped", self._options.endpoint, fault)

    def _batch(self) -> list[tuple[Span, int]]:
        """The next spans; none if none came within a second."""
        found = list[tuple[Span, int]]()
        with suppress(queue.Empty):
            found.append(self._queue.get(timeout=GATHER_S))
            if self._queue.qsize() < BATCH:
                self._closing.wait(GATHER_S)
            while len(found) < BATCH:
                found.append(self._queue.get_nowait())
        return found


def _sender(options: SpanOptions) -> Callable[[Sequence[tuple[Span, int]]], str]:
    """A function that sends spans, each with its end, and returns why they were not taken; "": they were."""
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = trace_exporter.OTLPSpanExporter(options.endpoint, headers=dict(options.headers))
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "tocsin")})
    logging.getLogger(trace_exporter.__name__).addFilter(_first_line)

    def send(batch: Sequence[tuple[Span, int]]) -> str:
        _said.line = ""
        taken = exporter.export([_readable(span, ended, resource) for span, ended in batch])
        return "" if taken is SpanExportResult.SUCCESS else _said.line or "an error"

    return send


_said = threading.local()


def _first_line(record: logging.LogRecord) -> bool:
    """Keep the first line that the exporter logs in this thread, and log none: it has several for each request that fails."""
    _said.line = getattr(_said, "line", "") or record.getMessage()
    return False


def _readable(span: Span, ended: int, resource: Any) -> ReadableSpan:
    """A span as OpenTelemetry exports it."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

    trace, flags = int(span.parent.trace_id, 16), TraceFlags(span.parent.flags)
    state = TraceState.from_header([span.parent.tracestate])
    return ReadableSpan(
        span.name,
        SpanContext(trace, int(span.id, 16), False, flags, state),
        SpanContext(trace, int(span.parent.span_id, 16), True, flags, state),
        resource,
        span.attributes,
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.began,
        end_time=max(ended, span.began),
        instrumentation_scope=InstrumentationScope("tocsin"),
    )
