"""A Reader in a thread of the shard's process. librdkafka fetches outside the interpreter, so a thread is enough."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from tocsin.pipelines.runtime.declare.records import Readable
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader, TopicState
from tocsin.pipelines.runtime.telemetry import progress

AHEAD = 2
"""Polls read in advance. The thread decodes one while the shard processes the other; more would only wait in memory."""
POLL_MS = 100
T = TypeVar("T")


class ReaderThread:
    """A `RecordSource` that polls ahead of its shard.

    Guarantee: as `Reader`. Polls from before a `seek` are dropped.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._calls = queue.SimpleQueue[Callable[[], object]]()
        self._polls = queue.SimpleQueue[tuple[int, Poll | BaseException]]()
        self._room, self._seeks = AHEAD, 0
        self._positions: dict[int, int] | None = None
        self._has_sought = self._is_closed = False
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def log(self, shards: int = 0) -> TopicState:
        return self._call(lambda: self._reader.log(shards))

    def seek(self, positions: Mapping[int, int]) -> None:
        def seek() -> None:
            self._seeks, self._positions, self._has_sought = self._seeks + 1, dict(positions), False
            self._seek()

        self._call(seek)

    def poll(self, timeout_ms: int) -> Poll | None:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                seeks, found = self._polls.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                return None
            self._calls.put(self._add_room)
            if seeks != self._seeks:
                continue
            if isinstance(found, BaseException):
                raise found
            progress.made()
            return found

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._call(lambda: self._reader.originals(offsets))

    def close(self) -> None:
        if self._is_closed:
            return

        def close() -> None:
            self._is_closed = True
            self._reader.close()

        self._call(close)

    def _call(self, work: Callable[[], T]) -> T:
        """Run `work` in the reader's thread, between two polls."""
        done = Future[T]()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as reason:
                done.set_exception(reason)

        self._calls.put(run)
        return done.result()

    def _add_room(self) -> None:
        self._room += 1

    def _run(self) -> None:
        while not self._is_closed:
            try:
                call = self._calls.get(block=self._positions is None or not self._room)
            except queue.Empty:
                self._poll()
            else:
                call()

    def _poll(self) -> None:
        found: Poll | BaseException | None
        try:
            if not self._has_sought:  # the broker was away
                self._seek()
            found = self._reader.poll(POLL_MS)
        except BaseException as reason:
            found = reason
        if found is not None:
            self._room -= 1
            self._polls.put((self._seeks, found))

    def _seek(self) -> None:
        self._reader.seek(self._positions or {})
        self._has_sought = True
