"""A shard's record source while Kafka or a schema registry may be away: it waits, and nothing is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare.errors import Unavailable, Undecoded
from tocsin.pipelines.runtime.declare.records import Readable
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent
from tocsin.pipelines.runtime.kafka.reader import Poll, RecordSource, TopicState
from tocsin.pipelines.runtime.telemetry.logs import one_line

log = logging.getLogger(__name__)
T = TypeVar("T")
AGAIN_S = 2.0


class PatientSource:
    """Reads from a `RecordSource`. While the broker does not answer, `poll` returns nothing and the other calls retry.

    Args:
        name: the shard, for the log.
    """

    def __init__(self, source: RecordSource, name: str) -> None:
        self._source, self._name = source, name
        self.why = ""
        """Why it waits; empty if it does not."""
        self.undecoded = False
        """Whether there are records that could not be decoded yet, because something that decoding needs does not answer."""

    def poll(self, timeout_ms: int) -> Poll | None:
        """The next records; None: none yet, or the broker or a registry does not answer."""
        try:
            polled = self._source.poll(timeout_ms)
        except (Unavailable, KafkaError) as reason:
            self.undecoded |= isinstance(reason, Undecoded)
            self._wait(reason, timeout_ms / 1000)
            return None
        if polled or not self.undecoded:  # records that could not be decoded are still there while nothing comes
            self.why, self.undecoded = "", False
        return polled

    def seek(self, positions: Mapping[int, int]) -> None:
        self._retry(lambda: self._source.seek(positions))
        self.undecoded = False

    def distrust(self, until: Mapping[int, int]) -> None:
        self._source.distrust(until)

    def log(self, shards: int = 0) -> TopicState:
        return self._retry(lambda: self._source.log(shards))

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._retry(lambda: self._source.originals(offsets))

    def close(self) -> None:
        self._source.close()

    def _retry(self, read: Callable[[], T]) -> T:
        """Call the source until it answers. Reads have no side effects, so a retry is safe.

        Raises:
            KafkaError: it is permanent.
        """
        while True:
            try:
                found = read()
            except (Unavailable, KafkaError) as reason:
                if permanent(reason, ""):
                    raise
                self._wait(reason, AGAIN_S)
            else:
                self.why = ""
                return found

    def _wait(self, reason: Exception, seconds: float) -> None:
        if (line := one_line(reason)) != self.why:
            log.warning("%s waits: %s", self._name, line)
        self.why = line
        time.sleep(seconds)
