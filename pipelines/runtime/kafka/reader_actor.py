"""A Reader in its own process, as a Ray actor. A saturated Python thread beside torch would slow a small network 3-5x."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from tocsin.pipelines.runtime.kafka.reader_process import ReaderProcess
from tocsin.pipelines.runtime.telemetry import logs, progress
from tocsin.pipelines.runtime.telemetry.process import KEEP_MEMORY

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.records import Readable
    from tocsin.pipelines.runtime.formats.codec import Codec
    from tocsin.pipelines.runtime.kafka.reader import Poll, TopicState

log = logging.getLogger(__name__)
AHEAD = 2
"""Polls requested in advance. The reader decodes one while the shard processes the other; more would only wait in memory."""
POLL_MS = 200


def start_reader() -> Any:
    """Start a reader's process before it is known what to read, so that nobody waits for it later."""
    env = {name: os.environ[name] for name in (*KEEP_MEMORY, logs.FORMAT, logs.LEVEL) if name in os.environ}
    return ray.remote(num_cpus=0, max_restarts=0)(ReaderProcess).remote(env)


class ReaderActor:
    """A `RecordSource` whose reader may die. A new reader then continues at the first offset that was not returned.

    Guarantee: as `Reader`. Reading has no side effects, so a reader's death needs no recovery.

    Args:
        process: from `start_reader`; None: start a new one.
        others: as for `Reader`.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        partitions: Sequence[int],
        codec: Codec,
        max_records: int,
        on_gap: Literal["stop", "skip"] = "stop",
        process: Any = None,
    ) -> None:
        self._topic, self._opening = topic, (options, topic, partitions, codec, max_records, on_gap)
        self._actor = self._open(process or start_reader())
        self._ahead: deque[Any] = deque()
        self._next: dict[int, int] = {}
        self._has_sought = True
        """Whether the reader has been given its positions."""

    def log(self, shards: int = 0) -> TopicState:
        return self._ask(lambda reader: reader.log.remote(shards))

    def seek(self, positions: Mapping[int, int]) -> None:
        self._next, self._has_sought = dict(positions), False
        self._ahead.clear()
        self._ask(lambda reader: reader.seek.remote(self._next))
        self._has_sought = True

    def distrust(self, until: Mapping[int, int]) -> None:
        """Do nothing: kafka-python reads everything."""

    def poll(self, timeout_ms: int) -> Poll | None:
        try:
            if not self._has_sought:
                _answer(self._actor.seek.remote(self._next))
                self._has_sought = True
            while len(self._ahead) < AHEAD:
                self._ahead.append(self._actor.poll.remote(POLL_MS))
            ready, _ = ray.wait([self._ahead[0]], timeout=timeout_ms / 1000)
            if not ready:
                return None
            polled: Poll | None = _answer(self._ahead.popleft())
        except (ActorDiedError, ActorUnavailableError):
            self._revive()
            return None
        if polled:
            self._next |= polled.ends
            progress.made()
        return polled

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._ask(lambda reader: reader.originals.remote(offsets))

    def close(self) -> None:
        ray.kill(self._actor)

    def _open(self, process: Any) -> Any:
        process.open.remote(*self._opening)  # before all other calls
        return process

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Call the reader, or a new one if it has died."""
        try:
            return _answer(call(self._actor))
        except (ActorDiedError, ActorUnavailableError):
            self._revive()
            return _answer(call(self._actor))

    def _revive(self) -> None:
        """Start a new reader. It seeks at the next poll, because the broker may be unreachable now."""
        log.warning("the reader died; a new one continues at offsets %s", self._next, extra={"topic": self._topic})
        ray.kill(self._actor)  # it may be alive, but unreachable
        self._ahead.clear()
        self._actor, self._has_sought = self._open(start_reader()), not self._next


def _answer(reference: Any) -> Any:
    """What the reader returns. Raises the reader's own error, one line, in place of Ray's long one."""
    try:
        return ray.get(reference)
    except RayTaskError as reason:
        raise reason.cause from reason
