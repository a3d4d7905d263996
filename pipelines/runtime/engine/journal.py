"""The journal: what a takeover re-runs, so that alerts already published stay true.

One compacted topic a pipeline, one partition a shard, one record in each alert transaction. A record stands alone: the checkpoint
it builds on, and every step and mark since. Its partition's newest committed record says how far what was published reaches (A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.dead_letter import OVERLOAD, DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.kafka import clients

VERSION = 2
"""Of a record: since 2 a step's clock and offsets are differences from the step before; a mark begins anew from 0."""


class StepRecord(NamedTuple):
    """A step: its clock, the offsets at which it ended, the wall's clock, and what could not be read.

    Args:
        unread: partition, offset and error of records whose frame was not where they say: asked again, the store may answer
            otherwise.
    """

    now: int
    ends: Mapping[int, int]
    wall: int
    unread: Sequence[tuple[int, int, str]] = ()


class SkipRecord(NamedTuple):
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


Item = StepRecord | SkipRecord | Mark


@dataclass
class Journal:
    """Steps and marks since the checkpoint `base`, and what has been published since it.

    Args:
        base: name of the checkpoint it builds on; 0: the very start.
        sent: alerts and dead letters published since `base`, counted; `digest` their hashes, summed modulo 2**64.
    """

    base: int
    items: list[Item] = field(default_factory=list)
    sent: int = 0
    digest: int = 0
    _written: _Written = field(default_factory=lambda: _Written(), compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of its steps in a record; the plans in marks are not counted."""
        return self._written.up_to(self.items).steps

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
        self.items.append(StepRecord(now, dict(ends), now if wall is None else wall, tuple(unread)))

    def skips(self, skipped: SkipRecord) -> None:
        """Records were left out after the last step."""
        self.items.append(skipped)

    def publishes(self, hashes: Sequence[int]) -> None:
        """Alerts or dead letters go out with the next record."""
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
        self._written = _Written()

    def fence(self, plan: str) -> None:
        """Forget the marks of earlier owners, whose checkpoints can't land any more, unless another plan begins there.

        Args:
            plan: the one at the base.
        """
        kept: list[Item] = []
        for item in self.items:
            if isinstance(item, Mark):
                if item.plan == plan:
                    continue
                plan = item.plan
            kept.append(item)
        self.items, self._written = kept, _Written()

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
        head = {"version": VERSION, "base": self.base, "sent": self.sent, "digest": self.digest}
        return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(self._written.up_to(self.items).parts) + b"]}"

    @classmethod
    def load(cls, value: bytes) -> Journal:
        """A record that `dump` wrote, now or before records had versions.

        Raises:
            ConfigError: a newer Tocsin has written it.
        """
        stored = orjson.loads(value)
        if (version := stored.get("version", 1)) > VERSION:
            raise ConfigError(
                f"journal: expected a record of version {VERSION} at most, got {version}: a newer Tocsin has written it; "
                "run that one"
            )
        items: list[Item] = []
        before = _Before()
        for item in stored["items"]:
            match item:
                case [starts, ends]:
                    items.append(SkipRecord(_paired(starts), _paired(ends)))
                case [checkpoint, sent, digest, str(plan)]:
                    items.append(Mark(checkpoint, sent, digest, plan))
                    before = _Before()
                case [now, ahead, ends, *unread]:
                    read = tuple((p, o, error) for p, o, error in (unread[0] if unread else ()))
                    if version == 1:
                        before = _Before()
                    now, ends = before.plus(now, _paired(ends))
                    items.append(StepRecord(now, ends, now + ahead, read))
        return cls(stored["base"], items, stored["sent"], stored["digest"])


@dataclass
class _Before:
    """The clock and the offsets from which the next step's are told as differences."""

    now: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    def minus(self, now: int, ends: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """A step's differences; the next step is told from this one."""
        found = now - self.now, {p: end - self.ends.get(p, 0) for p, end in ends.items()}
        self.now = now
        self.ends.update(ends)
        return found

    def plus(self, now: int, ends: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """The step of which `minus` gave these differences."""
        self.now += now
        found = {p: end + self.ends.get(p, 0) for p, end in ends.items()}
        self.ends.update(found)
        return self.now, found


class _Written:
    """Items as a record has them. Each is written once: a journal of thousands of steps goes out with every alert."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.steps = 0
        self._before = _Before()

    def up_to(self, items: Sequence[Item]) -> _Written:
        """With those that have come since the last call."""
        for item in items[len(self.parts) :]:
            part = orjson.dumps(self._fields(item))
            self.parts.append(part)
            if isinstance(item, Mark):
                self._before = _Before()
            else:
                self.steps += len(part) + 1
        return self

    def _fields(self, item: Item) -> list[Any]:
        if isinstance(item, Mark):
            return [item.checkpoint, item.sent, item.digest, item.plan]
        if isinstance(item, SkipRecord):
            return [_flat(item.starts), _flat(item.ends)]
        now, ends = self._before.minus(item.now, item.ends)
        unread = [list(item.unread)] if item.unread else []
        return [now, item.wall - item.now, _flat(ends), *unread]


def checkpoint_name(checkpoint: int) -> str:
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


def newest(options: Mapping[str, Any], topic: str, shard: int) -> Journal | None:
    """The shard's newest committed journal record; None: the topic holds none.

    Read back from the end, doubling the distance, since transaction markers and aborted records take up offsets too.

    Raises:
        ConfigError: there is no such topic, or it has no partition for this shard.
    """
    tp = TopicPartition(topic, shard)
    consumer = clients.consumer(options, fetch_max_wait_ms=100)
    try:
        if shard not in (there := clients.partitions_of(consumer, topic)):
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
