"""Ground truth of a clip: touches, and misses, in which a hand comes near a thing without touching it."""

from __future__ import annotations

from dataclasses import dataclass

HANDS = ("left", "right")
KINDS = ("contact", "release")


@dataclass(frozen=True)
class Touch:
    """A hand holds a thing. Frames count from 0.

    Args:
        hand: 0 left, 1 right.
        contact: first frame in which the hand touches the thing.
        release: first frame in which it no longer does; None if the clip ends before.
        thing: index of the thing in the clip; -1 if unknown.
    """

    hand: int
    contact: int
    release: int | None
    thing: int = -1


@dataclass(frozen=True)
class Miss:
    """A hand comes near a thing and leaves without touching it.

    Args:
        hand: 0 left, 1 right.
        first, last: frames of the miss, both inclusive.
    """

    hand: int
    first: int
    last: int
