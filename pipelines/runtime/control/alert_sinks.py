"""Alert sinks forward alerts from their topic. Each sink reads the topic in its own thread, so no stream waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.extension import extension
from tocsin.pipelines.runtime.declare.pipeline import TRANSITIONS
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.telemetry.logs import one_line

log = logging.getLogger(__name__)
GROUP = "tocsin.alert_sinks"
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 30.0)
REFRESH_S = 30.0
"""How often a sink looks for partitions that were added to the alert topic."""


class AlertSink:
    """Base class of alert sinks. Subclass it and name the class in the settings, `[sinks.<name>]`.

    Guarantee: at-least-once delivery, in order within each partition. If `send` raises, it gets the same alerts again, also after a
    restart. A sink that fails or hangs delays only itself. A new sink begins with the next alert.

    Args:
        options: the options in its section of the settings.

    Raises:
        ConfigError: an option is wrong.
    """

    transitions: ClassVar[Collection[str]] = TRANSITIONS
    """The transitions that the sink is sent. One that also wants what people do adds `acknowledged` and `silenced`."""

    def __init__(self, **options: Any) -> None:
        if options:
            raise ConfigError(f"{type(self).__name__}: expected no options, got {', '.join(options)}; remove them")

    def send(self, alerts: Sequence[Alert]) -> None:
        """Forward alerts. Return once they have arrived."""
        raise NotImplementedError

    def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True)
class SinkConfig:
    """A sink's settings.

    Args:
        name: the name of its section.
        sink: `module:Class`, or an entry point of `tocsin.alert_sinks`.
    """

    name: str
    sink: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets

    def make(self) -> AlertSink:
        """Create the sink.

        Raises:
            ConfigError: the class does not exist, or it rejects the options.
        """
        where = f"sinks.{self.name}"
        sink_class = extension(self.sink, group=GROUP, where=f"{where}.sink")
        try:
            sink: AlertSink = sink_class(**self.options)
        except TypeError as reason:
            raise ConfigError(
                f"{where}: expected options that {self.sink} accepts, got {one_line(reason)}; correct them"
            ) from reason
        return sink


class Delivery:
    """Delivers a pipeline's alerts to one sink, until it is closed.

    Args:
        topic: the alert topic.
        group: the Kafka consumer group. Its committed offsets record what has been delivered.
    """

    def __init__(self, config: SinkConfig, *, kafka: Mapping[str, Any], topic: str, group: str) -> None:
        self._config, self._kafka, self._topic, self._group = config, kafka, topic, group
        self._stop = threading.Event()
        self._sent, self._error, self._busy_since = 0, "", 0.0
        self._thread = threading.Thread(target=self._run, name=f"sink {config.name}", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """What `tocsin status` shows: alerts sent since the start, how long the current `send` has been running, the last error."""
        busy = time.monotonic() - self._busy_since if self._busy_since else 0.0
        return {"sink": self._config.name, "sent": self._sent, "busy_s": round(busy, 1), "error": self._error}

    def close(self, timeout: float = 5.0) -> None:
        """Wait for the current `send` to finish. A sink that hangs is abandoned, and its alerts are sent again."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            sent_before = self._sent
            try:
                self._deliver()
            except Exception as reason:  # retry whatever a sink raises, and Kafka's errors
                failures = 1 if self._sent > sent_before else failures + 1
                if (line := one_line(reason)) != self._error:
                    log.warning("alert sink %s: %s; its alerts are sent again", self._config.name, line)
                self._error = line
                self._stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
            finally:
                self._busy_since = 0.0

    def _deliver(self) -> None:
        """Deliver until `close`, starting with the first alert that is not known to have arrived."""
        with (
            closing(self._config.make()) as sink,
            closing(clients.consumer(self._kafka, group_id=self._group)) as consumer,
        ):
            self._assign(consumer)
            refresh_at = time.monotonic() + REFRESH_S
            while not self._stop.is_set():
                if time.monotonic() > refresh_at:
                    self._assign(consumer)
                    refresh_at = time.monotonic() + REFRESH_S
                if not (records := [r for batch in consumer.poll(500).values() for r in batch]):
                    continue
                alerts = [Alert.read(r.headers, r.value) for r in records]
                if wanted := [alert for alert in alerts if alert.transition in sink.transitions]:
                    self._busy_since = time.monotonic()
                    sink.send(wanted)
                    self._busy_since = 0.0
                consumer.commit({tp: _offset_metadata(consumer.position(tp)) for tp in consumer.assignment()})
                self._sent, self._error = self._sent + len(wanted), ""

    def _assign(self, consumer: KafkaConsumer) -> None:
        """Assign all partitions. Each starts at its committed offset; a new sink starts at the end."""
        partitions = {TopicPartition(self._topic, p) for p in clients.partitions_of(consumer, self._topic)}
        assigned, new = consumer.assignment(), partitions - consumer.assignment()
        if not new:
            return
        positions = {tp: consumer.position(tp) for tp in assigned}
        committed = {tp: offset for tp in new if (offset := consumer.committed(tp)) is not None}
        # A partition that was added while the sink ran is read from its beginning.
        offsets_of = consumer.beginning_offsets if assigned or committed else consumer.end_offsets
        uncommitted = [tp for tp in new if tp not in committed]
        starts = committed | (offsets_of(uncommitted) if uncommitted else {})
        consumer.assign([*partitions])
        for tp, offset in (positions | starts).items():
            consumer.seek(tp, offset)
        consumer.commit({tp: _offset_metadata(offset) for tp, offset in starts.items()})


def _offset_metadata(offset: int) -> OffsetAndMetadata:
    return OffsetAndMetadata(offset, "", -1)
