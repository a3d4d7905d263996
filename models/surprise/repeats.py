"""Evaluation of revisits: repeated alerts, and what is found for the first time, with and without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.models.surprise.evaluate import GRACE_S
from tocsin.models.surprise.simulation.returns import Sight


@dataclass(frozen=True)
class Repeats:
    """Counts of dives that come back; those that end in `_with` are with revisits.

    Args:
        repeated, repeated_with: alerts for what had rung when it was in sight before.
        found, found_with: sights of what had not rung before, during which an alert began.
        sights: of what had not rung before.
        false, false_with: alerts while nothing new was in sight.
    """

    repeated: int = 0
    repeated_with: int = 0
    found: int = 0
    found_with: int = 0
    sights: int = 0
    false: int = 0
    false_with: int = 0

    def __add__(self, other: Repeats) -> Repeats:
        return Repeats(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def figures(self) -> dict[str, float | None]:
        """The share of repeated alerts that revisits silence, and the recall of first sights with and without them."""
        return {
            "repeats_silenced": 1 - self.repeated_with / self.repeated if self.repeated else None,
            "first_recall": self.found_with / self.sights if self.sights else None,
            "first_recall_without": self.found / self.sights if self.sights else None,
        }


def repeats(events: Sequence[tuple[int, bool]], sights: Sequence[Sight], *, rate: float) -> Repeats:
    """Count a dive's alerts.

    Args:
        events: the frame at which each begins, in order, and whether revisits silence it.
        sights: the truth, in order.
        rate: frames a second.
    """
    rung = dict[int, Sight]()
    found, found_with = set[int](), set[int]()
    count = dict.fromkeys(("repeated", "repeated_with", "false", "false_with"), 0)
    for at, silent in events:
        inside = [i for i, sight in enumerate(sights) if sight.first <= at <= sight.last + GRACE_S * rate]
        if inside:
            sight = sights[inside[0]]
            first = rung.setdefault(sight.thing, sight)
            if first is sight:
                found.add(inside[0])
                found_with |= set() if silent else {inside[0]}
                continue
        kind = "repeated" if inside else "false"
        count[kind] += 1
        count[f"{kind}_with"] += not silent
    new = [sight for sight in sights if sight.first <= rung.get(sight.thing, sight).first]
    return Repeats(**count, found=len(found), found_with=len(found_with), sights=len(new))


def events(novel: Sequence[bool], again: Sequence[bool | None]) -> list[tuple[int, bool]]:
    """Each event of a table: the frame at which it begins, and whether it was seen before."""
    begins = [at for at, now in enumerate(novel) if now and not (at and novel[at - 1])]
    ends = [*begins[1:], len(novel)]
    return [(at, any(again[at:end])) for at, end in zip(begins, ends, strict=True)]
