"""A Reader in the shard's process. librdkafka fetches outside the interpreter, so no process of its own is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tocsin.pipelines.runtime.declare.records import Readable
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader, TopicState
from tocsin.pipelines.runtime.telemetry import progress

AHEAD = 2
"""Polls read in advance. The thread decodes one while the shard processes the other; more would only wait in memory."""
POLL_MS = 100


class ReaderThread:
    """A `RecordSource` that reads a backlog ahead of its shard, in a thread of its own.

    Without a backlog the shard's own thread reads, when it has nothing else to do. Decoding beside a step would only slow the
    step down, since they share the interpreter, and would decode every few records apart.

    Guarantee: as `Reader`. Polls from before a `seek` are dropped.

    Args:
        backlog: rows of a poll that show a backlog.
    """

    def __init__(self, reader: Reader, backlog: int) -> None:
        self._reader, self._backlog = reader, backlog
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._ahead = deque[Future[Poll | None]]()  # while it is empty, the thread is idle
        self._positions: dict[int, int] | None = None
        self._has_sought = self._is_closed = False

    def log(self, shards: int = 0) -> TopicState:
        return self._thread.submit(self._reader.log, shards).result()

    def seek(self, positions: Mapping[int, int]) -> None:
        self._positions, self._has_sought = dict(positions), False
        self._drop()
        self._thread.submit(self._seek).result()

    def poll(self, timeout_ms: int) -> Poll | None:
        if self._ahead:
            wait([self._ahead[0]], timeout_ms / 1000)
            if not self._ahead[0].done():
                return None
            found = self._ahead.popleft().result()
        elif timeout_ms and self._positions is not None:
            found = self._read(timeout_ms)
        else:
            return None
        if found is None:
            return None
        progress.made()
        if found.table.num_rows >= self._backlog:
            while len(self._ahead) < AHEAD:
                self._ahead.append(self._thread.submit(self._read, POLL_MS))
        return found

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._thread.submit(self._reader.originals, offsets).result()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._drop()
        self._thread.submit(self._reader.close).result()
        self._thread.shutdown()

    def _drop(self) -> None:
        for found in self._ahead:
            found.cancel()
        self._ahead.clear()

    def _read(self, timeout_ms: int) -> Poll | None:
        if not self._has_sought:  # the broker was away
            self._seek()
        return self._reader.poll(timeout_ms)

    def _seek(self) -> None:
        self._reader.seek(self._positions or {})
        self._has_sought = True
