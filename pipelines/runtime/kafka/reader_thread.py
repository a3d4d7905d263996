"""A Reader in the shard's process. librdkafka fetches outside the interpreter, so no process of its own is needed."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TypeVar

from tocsin.pipelines.runtime.declare.records import Readable
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader, TopicState
from tocsin.pipelines.runtime.telemetry import progress

AHEAD = 2
"""Polls of a backlog that are read in advance. The thread decodes one while the shard processes the other; more would only wait."""
POLL_MS = 100
T = TypeVar("T")


class ReaderThread:
    """A `RecordSource` that reads in a thread of its own: a backlog ahead of its shard, else only while the shard waits.

    Decoding beside a step slows the step down, since they share the interpreter. Without a backlog it would also decode every few
    records apart.

    Guarantee: as `Reader`. Polls from before a `seek` are dropped. `poll` returns in time, whatever the reader does.

    Args:
        backlog: records behind a poll, or rows in it, that show a backlog.
    """

    def __init__(self, reader: Reader, backlog: int) -> None:
        self._reader, self._backlog = reader, max(backlog, 1)
        self._calls = queue.SimpleQueue[Callable[[], None]]()
        self._reading = deque[Future[Poll | None]]()
        self._positions: dict[int, int] | None = None
        self._has_sought = self._is_closed = False
        # A daemon: a read that hangs must not keep the process from exiting.
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def log(self, shards: int = 0) -> TopicState:
        return self._submit(lambda: self._reader.log(shards)).result()

    def seek(self, positions: Mapping[int, int]) -> None:
        self._positions, self._has_sought = dict(positions), False
        self._drop()
        self._submit(self._seek).result()

    def distrust(self, until: Mapping[int, int]) -> None:
        self._submit(lambda: self._reader.distrust(until)).result()

    def poll(self, timeout_ms: int) -> Poll | None:
        deadline, found = time.monotonic() + timeout_ms / 1000, None
        while found is None:
            remaining = max(deadline - time.monotonic(), 0)
            if not self._reading:
                if not remaining or self._positions is None:
                    return None
                self._read_on(round(min(remaining * 1000, POLL_MS)))
            wait([self._reading[0]], remaining)
            if not self._reading[0].done():
                return None
            found = self._reading.popleft().result()
        progress.made()
        if max(found.table.num_rows, sum(found.behind.values())) >= self._backlog:
            while len(self._reading) < AHEAD:
                self._read_on(POLL_MS)
        return found

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._submit(lambda: self._reader.originals(offsets)).result()

    def close(self) -> None:
        if self._is_closed:
            return

        def close() -> None:
            self._is_closed = True
            self._reader.close()

        self._drop()
        self._submit(close).result()

    def _drop(self) -> None:
        for found in self._reading:
            found.cancel()
        self._reading.clear()

    def _read_on(self, timeout_ms: int) -> None:
        def read() -> Poll | None:
            if not self._has_sought:  # the broker was away
                self._seek()
            return self._reader.poll(timeout_ms)

        self._reading.append(self._submit(read))

    def _seek(self) -> None:
        self._reader.seek(self._positions or {})
        self._has_sought = True

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        """Have the thread do `work` after what it has been given before."""
        done, context = Future[T](), copy_context()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(context.run(work))
                except BaseException as reason:
                    done.set_exception(reason)

        self._calls.put(run)
        return done

    def _run(self) -> None:
        while not self._is_closed:
            self._calls.get()()
