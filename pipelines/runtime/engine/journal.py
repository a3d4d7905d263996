"""The journal: the steps that recovery re-runs, so that results agree with alerts already published.

A pipeline has one compacted topic, a shard one partition of it. Each alert transaction writes one record. Records form chains: the
first of a chain is whole and holds the checkpoint that the journal builds on, and every step and mark since; each later one adds
what came after the one before. A partition's newest committed record gives the position up to which output has been published (A).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from tocsin.pipelines.runtime.declare.dead_letter import OVERLOAD, DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError

VERSION, CONTINUED = 2, 3
"""Formats of a whole record, and of one that continues a chain. Since version 2 a step's clock and offsets are stored as
differences from the previous step. They restart from 0 after a mark."""

CHAIN = 256
"""Maximum records of a chain. Recovery reads back to the chain's first."""


class StepRecord(NamedTuple):
    """A step: its clock, its end offsets, the wall clock, and the records refused for a reason outside the log.

    Args:
        unread: partition, offset and error of each record whose frame or schema could not be had from where the record says. A
            later read may give another result.
    """

    now: int
    ends: Mapping[int, int]
    wall: int
    unread: Sequence[tuple[int, int, str]] = ()


class SkipRecord(NamedTuple):
    """Records skipped between two steps to keep up: each partition's first skipped offset, and the next offset read."""

    starts: Mapping[int, int]
    ends: Mapping[int, int]

    def dead_letters(self, topic: str) -> list[DeadLetter]:
        """The dead letters for the skipped records, one per partition."""
        return [
            DeadLetter.of_none(topic, p, start, stage=OVERLOAD, error="Skipped", message=self._message(p))
            for p, start in self.starts.items()
        ]

    def _message(self, partition: int) -> str:
        start, end = self.starts[partition], self.ends[partition]
        return f"expected to keep up, got a lag of {end - start} records; skipped to {end}, by the policy `latest`"


class Mark(NamedTuple):
    """The point at which a checkpoint was taken, which may not be committed yet.

    Args:
        sent, digest: what had been published by then; see `Journal`.
        plan: the plan from here on.
    """

    checkpoint: int
    sent: int
    digest: int
    plan: str


Item = StepRecord | SkipRecord | Mark


@dataclass
class Journal:
    """Steps and marks since the checkpoint `base`, and what has been published since then.

    Args:
        base: name of the checkpoint that the journal builds on; 0: no checkpoint yet.
        sent: number of alerts and dead letters published since `base`.
        digest: sum of their hashes modulo 2**64.
    """

    base: int
    items: list[Item] = field(default_factory=list)
    sent: int = 0
    digest: int = 0
    _serialized: _SerializedItems = field(default_factory=lambda: _SerializedItems(), compare=False, repr=False)
    _written: _Written = field(default_factory=lambda: _Written(), compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of the steps in a whole record; the plans in marks are not counted."""
        return self._serialized.up_to(self.items).steps

    @property
    def newest(self) -> int:
        """The newest checkpoint that the journal names, committed or not."""
        return max([self.base, *(item.checkpoint for item in self.items if isinstance(item, Mark))])

    def add_step(
        self,
        now: int,
        ends: Mapping[int, int],
        wall: int | None = None,
        unread: Sequence[tuple[int, int, str]] = (),
    ) -> None:
        """Append a step; `wall` defaults to `now`."""
        self.items.append(StepRecord(now, dict(ends), now if wall is None else wall, tuple(unread)))

    def add_skip(self, skipped: SkipRecord) -> None:
        """Append records skipped after the last step."""
        self.items.append(skipped)

    def count_published(self, hashes: Sequence[int]) -> None:
        """Count alerts or dead letters that are published with the next record."""
        self.sent += len(hashes)
        self.digest = (self.digest + sum(hashes)) % 2**64

    def mark(self, checkpoint: int, plan: str) -> None:
        """Append the mark of a checkpoint that is taken now."""
        self.items.append(Mark(checkpoint, self.sent, self.digest, plan))
        self._written = _Written()

    def rebase(self, checkpoint: int) -> None:
        """Build on a marked checkpoint that is now committed to Delta. Recovery no longer re-runs what precedes its mark."""
        rest = self.since(checkpoint)
        assert rest is not None, checkpoint
        self.base, self.items, self.sent, self.digest = rest.base, rest.items, rest.sent, rest.digest
        self._serialized, self._written = _SerializedItems(), _Written()

    def fence(self, plan: str) -> None:
        """Drop the marks of earlier owners, unless another plan begins there. Their checkpoints can no longer be committed.

        Args:
            plan: the plan at the base.
        """
        retained: list[Item] = []
        for item in self.items:
            if isinstance(item, Mark):
                if item.plan == plan:
                    continue
                plan = item.plan
            retained.append(item)
        self.items, self._serialized, self._written = retained, _SerializedItems(), _Written()

    def since(self, checkpoint: int) -> Journal | None:
        """The journal since a checkpoint; None: this journal is older than the checkpoint."""
        if checkpoint == self.base:
            return self
        for index, item in enumerate(self.items):
            if isinstance(item, Mark) and item.checkpoint == checkpoint:
                later = [_shifted(i, item) for i in self.items[index + 1 :]]
                return Journal(checkpoint, later, self.sent - item.sent, (self.digest - item.digest) % 2**64)
        return None

    def dump(self) -> bytes:
        """Serialize the journal as the value of one whole record."""
        return self._dumped(0, {"version": VERSION})

    def append(self) -> tuple[int, bytes]:
        """Serialize the next record of the chain. A chain begins anew with a mark, with another base, and after `CHAIN` records.

        Returns:
            The record's place in its chain, and its value. The record at 0 is whole.
        """
        if self._written.records == CHAIN:
            self._written = _Written()
        place, first = self._written
        self._written = _Written(place + 1, len(self.items))
        header = {"version": CONTINUED, "place": place, "first": first} if place else {"version": VERSION}
        return place, self._dumped(first, header)

    def _dumped(self, first: int, header: Mapping[str, int]) -> bytes:
        facts = {**header, "base": self.base, "sent": self.sent, "digest": self.digest}
        parts = self._serialized.up_to(self.items).parts[first:]
        return orjson.dumps(facts)[:-1] + b',"items":[' + b",".join(parts) + b"]}"

    @classmethod
    def load(cls, value: bytes) -> Journal:
        """Parse a whole record. A record without a version has version 1.

        Raises:
            ConfigError: a newer Tocsin wrote the record.
        """
        return Chain(value).journal

    @classmethod
    def outline(cls, value: bytes) -> Journal:
        """What one record says has been published, without steps and marks."""
        stored = _parsed(value)
        return cls(stored["base"], [], stored["sent"], stored["digest"])


class Chain:
    """Reads the records of one chain, from its first one, which is whole."""

    def __init__(self, value: bytes) -> None:
        record = _parsed(value)
        self.journal = Journal(record["base"])
        """The journal as of the newest record."""
        self._version, self._records, self._previous = record.get("version", 1), 0, _PreviousStep()
        self._add(record)

    def add(self, value: bytes) -> bool:
        """Read the next record. False: the record does not follow the one before, and is not read."""
        record = _parsed(value)
        place = record.get("place", 0), record.get("first", 0), record["base"]
        if place != (self._records, len(self.journal.items), self.journal.base):
            return False
        self._add(record)
        return True

    def _add(self, record: Mapping[str, Any]) -> None:
        self.journal.items += map(self._item, record["items"])
        self.journal.sent, self.journal.digest = record["sent"], record["digest"]
        self._records += 1

    def _item(self, item: Sequence[Any]) -> Item:
        match item:
            case [starts, ends]:
                return SkipRecord(_paired(starts), _paired(ends))
            case [checkpoint, sent, digest, str(plan)]:
                self._previous = _PreviousStep()
                return Mark(checkpoint, sent, digest, plan)
            case [now, ahead, ends, *unread]:
                unread_records = tuple((p, o, error) for p, o, error in (unread[0] if unread else ()))
                if self._version == 1:
                    self._previous = _PreviousStep()
                now, step_ends = self._previous.plus(now, _paired(ends))
                return StepRecord(now, step_ends, now + ahead, unread_records)
        raise AssertionError(item)


class _Written(NamedTuple):
    """The chain so far: how many records it has, and how many items they hold."""

    records: int = 0
    items: int = 0


def _parsed(value: bytes) -> Any:
    stored = orjson.loads(value)
    if (version := stored.get("version", 1)) > CONTINUED:
        raise ConfigError(
            f"journal: expected a record of version {CONTINUED} or older, got {version}, written by a newer Tocsin; "
            "run that version"
        )
    return stored


@dataclass
class _PreviousStep:
    """The clock and offsets of the previous step, from which a record stores differences."""

    now: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    def minus(self, now: int, ends: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """The differences of a step from the previous one. The step becomes the previous one."""
        differences = now - self.now, {p: end - self.ends.get(p, 0) for p, end in ends.items()}
        self.now = now
        self.ends.update(ends)
        return differences

    def plus(self, now: int, ends: Mapping[int, int]) -> tuple[int, dict[int, int]]:
        """The step for which `minus` returned these differences. The step becomes the previous one."""
        self.now += now
        step_ends = {p: end + self.ends.get(p, 0) for p, end in ends.items()}
        self.ends.update(step_ends)
        return self.now, step_ends


class _SerializedItems:
    """Serialized items. Each is serialized once, though several whole records may hold it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.steps = 0
        self._previous = _PreviousStep()

    def up_to(self, items: Sequence[Item]) -> _SerializedItems:
        """Serialize the items added since the last call, and return itself."""
        for item in items[len(self.parts) :]:
            part = orjson.dumps(self._fields(item))
            self.parts.append(part)
            if isinstance(item, Mark):
                self._previous = _PreviousStep()
            else:
                self.steps += len(part) + 1
        return self

    def _fields(self, item: Item) -> list[Any]:
        if isinstance(item, Mark):
            return [item.checkpoint, item.sent, item.digest, item.plan]
        if isinstance(item, SkipRecord):
            return [_flat(item.starts), _flat(item.ends)]
        now, ends = self._previous.minus(item.now, item.ends)
        unread = [list(item.unread)] if item.unread else []
        return [now, item.wall - item.now, _flat(ends), *unread]


def checkpoint_name(checkpoint: int) -> str:
    """A checkpoint's readable name: epoch and sequence."""
    return f"{checkpoint >> 32}.{checkpoint & 0xFFFFFFFF}" if checkpoint else "none"


def _flat(offsets: Mapping[int, int]) -> list[int]:
    return [n for pair in offsets.items() for n in pair]


def _paired(flat: Sequence[int]) -> dict[int, int]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _shifted(item: Item, mark: Mark) -> Item:
    """A later item, with counts relative to `mark` instead of to the old base."""
    if not isinstance(item, Mark):
        return item
    return item._replace(sent=item.sent - mark.sent, digest=(item.digest - mark.digest) % 2**64)
