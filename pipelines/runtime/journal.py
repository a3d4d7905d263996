"""The journal: what a takeover re-runs, so that alarms already published stay true.

One compacted topic a pipeline, one partition a shard, one record in each alert transaction. A record stands alone: the checkpoint
it builds on, and every step and mark since. Its partition's newest committed record says how far what was published reaches (A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from kafka import TopicPartition

from pipelines.runtime import clients
from pipelines.runtime.deadletter import OVERLOAD, DeadLetter
from pipelines.runtime.errors import ConfigError


class Ran(NamedTuple):
    """A step: its clock, the offsets at which it ended, the wall's clock, and what could not be read.

    Args:
        unread: partition, offset and error of records whose frame was not where they say: asked again, the store may answer
            otherwise.
    """

    now: int
    ends: Mapping[int, int]
    wall: int
    unread: Sequence[tuple[int, int, str]] = ()


class Skipped(NamedTuple):
    """Records that were left out to keep up, between two steps: each partition's first, and the next one read."""

    starts: Mapping[int, int]
    ends: Mapping[int, int]

    def letters(self, topic: str) -> list[DeadLetter]:
        """What the dead letters say of them."""
        return [
            DeadLetter.of_none(topic, p, start, stage=OVERLOAD, error="Skipped", message=self._line(p))
            for p, start in self.starts.items()
        ]

    def _line(self, partition: int) -> str:
        start, end = self.starts[partition], self.ends[partition]
        return f"expected to keep up, got {end - start} records behind: went on from {end}, by the policy `latest`"


class Mark(NamedTuple):
    """Where a checkpoint was taken that may not have landed yet, what had been sent by then, and the plan from here on."""

    checkpoint: int
    sent: int
    digest: int
    plan: str


Item = Ran | Skipped | Mark


@dataclass
class Journal:
    """Steps and marks since the checkpoint `base`, and what has been published since it.

    Args:
        base: name of the checkpoint it builds on; 0: the very start.
        sent: alarms and dead letters published since `base`, counted; `digest` their hashes, summed modulo 2**64.
    """

    base: int
    items: list[Item] = field(default_factory=list)
    sent: int = 0
    digest: int = 0

    @property
    def newest(self) -> int:
        """The newest checkpoint that it names, landed or not."""
        return max([self.base, *(item.checkpoint for item in self.items if isinstance(item, Mark))])

    def ran(
        self,
        now: int,
        ends: Mapping[int, int],
        wall: int | None = None,
        unread: Sequence[tuple[int, int, str]] = (),
    ) -> None:
        """A step was taken; `wall` where it is not `now`."""
        self.items.append(Ran(now, dict(ends), now if wall is None else wall, tuple(unread)))

    def skips(self, skipped: Skipped) -> None:
        """Records were left out after the last step."""
        self.items.append(skipped)

    def publishes(self, hashes: Sequence[int]) -> None:
        """Alarms or dead letters go out with the next record."""
        self.sent += len(hashes)
        self.digest = (self.digest + sum(hashes)) % 2**64

    def mark(self, checkpoint: int, plan: str) -> None:
        """A checkpoint is taken here."""
        self.items.append(Mark(checkpoint, self.sent, self.digest, plan))

    def landed(self, checkpoint: int) -> None:
        """A marked checkpoint is in Delta: what comes before its mark will not be re-run any more."""
        rest = self.since(checkpoint)
        assert rest is not None, checkpoint
        self.base, self.items, self.sent, self.digest = rest.base, rest.items, rest.sent, rest.digest

    def since(self, checkpoint: int) -> Journal | None:
        """What came after a checkpoint; None: this journal is older than it."""
        if checkpoint == self.base:
            return self
        for at, item in enumerate(self.items):
            if isinstance(item, Mark) and item.checkpoint == checkpoint:
                later = [_shifted(i, item) for i in self.items[at + 1 :]]
                return Journal(checkpoint, later, self.sent - item.sent, (self.digest - item.digest) % 2**64)
        return None

    def dump(self) -> bytes:
        """One record's value."""
        items: list[Any] = []
        for item in self.items:
            if isinstance(item, Mark):
                items.append([item.checkpoint, item.sent, item.digest, item.plan])
            elif isinstance(item, Skipped):
                items.append([_flat(item.starts), _flat(item.ends)])
            else:
                unread = [list(item.unread)] if item.unread else []
                items.append([item.now, item.wall - item.now, _flat(item.ends), *unread])
        return orjson.dumps({"base": self.base, "sent": self.sent, "digest": self.digest, "items": items})

    @classmethod
    def load(cls, value: bytes) -> Journal:
        """A record that `dump` wrote."""
        stored = orjson.loads(value)
        items: list[Item] = []
        for item in stored["items"]:
            match item:
                case [starts, ends]:
                    items.append(Skipped(_paired(starts), _paired(ends)))
                case [checkpoint, sent, digest, str(plan)]:
                    items.append(Mark(checkpoint, sent, digest, plan))
                case [now, ahead, ends, *unread]:
                    read = tuple((p, o, error) for p, o, error in (unread[0] if unread else ()))
                    items.append(Ran(now, _paired(ends), now + ahead, read))
        return cls(stored["base"], items, stored["sent"], stored["digest"])


def named(checkpoint: int) -> str:
    """A checkpoint's name for people: epoch and sequence."""
    return f"{checkpoint >> 32}.{checkpoint & 0xFFFFFFFF}" if checkpoint else "none"


def _flat(offsets: Mapping[int, int]) -> list[int]:
    return [n for pair in offsets.items() for n in pair]


def _paired(flat: Sequence[int]) -> dict[int, int]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _shifted(item: Item, passed: Mark) -> Item:
    """A later item, counting from `passed` instead of from the base before it."""
    if not isinstance(item, Mark):
        return item
    return item._replace(sent=item.sent - passed.sent, digest=(item.digest - passed.digest) % 2**64)


def last(options: Mapping[str, Any], topic: str, shard: int) -> Journal | None:
    """The shard's newest committed journal record; None: the topic holds none.

    Read back from the end, doubling the distance, since transaction markers and aborted records take up offsets too.

    Raises:
        ConfigError: there is no such topic, or it has no partition for this shard.
    """
    tp = TopicPartition(topic, shard)
    consumer = clients.consumer(options, fetch_max_wait_ms=100)
    try:
        if shard not in (there := consumer.partitions_for_topic(topic) or ()):
            raise ConfigError(
                f"topic {topic}: expected it to have partition {shard}, got {sorted(there)}; create it first"
            )
        consumer.assign([tp])
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        distance = 16
        while end > begin:
            start = max(begin, end - distance)
            consumer.seek(tp, start)
            newest = None
            while consumer.position(tp) < end:
                for record in consumer.poll(timeout_ms=1000).get(tp, []):
                    newest = record if record.value is not None else newest
            if newest is not None:
                return Journal.load(newest.value)
            if start == begin:
                return None
            distance *= 4
        return None
    finally:
        consumer.close()
