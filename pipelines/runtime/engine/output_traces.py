"""Gives alerts the trace of the record that caused them, and exports a span for each alert and dead letter of a sampled trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.record_traces import RecordTrace, RecordTraces
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import fingerprint
from tocsin.pipelines.runtime.telemetry.spans import Span, SpanExporter

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline


class OutputTraces:
    """The traces of one shard's alerts and dead letters.

    Without an exporter, or in a trace that is not sampled, an alert has the record's own context. Otherwise the parent that it
    names is the exported span, whose id is taken from the alert's, so that it is the same after a recovery. A dead letter keeps
    all headers of its record unchanged, the context among them.

    Args:
        count: see `SpanExporter`.
    """

    def __init__(
        self, config: ShardConfig, pipeline: Pipeline, records: RecordTraces, count: Callable[..., None]
    ) -> None:
        self._records, self._topic = records, pipeline.topic
        self._exporter = SpanExporter(config.traces, count) if config.traces else None
        self._spans = list[Span]()
        self._attributes: Mapping[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": pipeline.topic,
            "messaging.consumer.group.name": names.lag_group(pipeline.name),
            "tocsin.pipeline": pipeline.name,
            "tocsin.shard": config.shard,
        }

    def given(self, alerts: Sequence[Alert]) -> Sequence[Alert]:
        """The alerts, each with the trace of the record that caused it."""
        return [self._given(alert) for alert in alerts] if self._records else alerts

    def refused(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Note dead letters; their spans end with the next transaction."""
        if not self._exporter or not self._records:
            return
        for letter in dead_letters:
            place = letter.partition, letter.offset
            if (trace := self._records.get(*place)) and trace.context.sampled:
                found = {"tocsin.stage": letter.stage, "error.type": letter.error}
                self._spans.append(self._span(f"{fingerprint(letter):016x}", trace, place, found, letter.message))

    def taken(self) -> list[Span]:
        """The spans of all outputs since the last call."""
        taken, self._spans = self._spans, []
        return taken

    def end(self, spans: Sequence[Span]) -> None:
        """End spans: the transaction of their outputs is committed."""
        if self._exporter:
            self._exporter.end(spans)

    def close(self) -> None:
        """Export the last spans, within seconds."""
        if self._exporter:
            self._exporter.close()

    def _given(self, alert: Alert) -> Alert:
        place = alert.data["partition"], alert.data["offset"]
        if place[1] is None or (trace := self._records.get(*place)) is None:
            return alert
        context = trace.context
        if self._exporter and context.sampled:
            found = {
                "tocsin.key": alert.key,
                "tocsin.alert.id": alert.id,
                "tocsin.alert.rule": alert.rule,
                "tocsin.alert.severity": alert.severity,
                "tocsin.alert.transition": alert.transition,
            }
            span = self._span(alert.id[:16], trace, place, found)
            self._spans.append(span)
            context = context.child(span.id)
        return replace(alert, traceparent=context.traceparent, tracestate=context.tracestate)

    def _span(
        self, id: str, trace: RecordTrace, place: tuple[int, int], found: Mapping[str, str], error: str = ""
    ) -> Span:
        partition, offset = place
        where: dict[str, str | int] = {
            "messaging.destination.partition.id": str(partition),
            "messaging.kafka.offset": offset,
        }
        attributes: dict[str, str | int] = {**self._attributes, **where, **found}
        return Span(id, trace.context, f"process {self._topic}", trace.read_at, attributes, error)
