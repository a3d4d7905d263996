"""What happened in a clip: the touches, and the hands that came near and touched nothing."""

from __future__ import annotations

from dataclasses import dataclass

HANDS = ("left", "right")
KINDS = ("contact", "release")


@dataclass(frozen=True)
class Touch:
    """A hand holds a thing. Frames count from 0.

    Args:
        hand: 0 left, 1 right.
        contact: first frame in which the hand touches it.
        release: first frame in which it no longer does; None where the clip ends before.
        thing: which of the clip's; -1 unknown.
    """

    hand: int
    contact: int
    release: int | None
    thing: int = -1


@dataclass(frozen=True)
class Miss:
    """A hand comes near a thing and goes away without a touch.

    Args:
        hand: 0 left, 1 right.
        first, last: frames of it, both inclusive.
    """

    hand: int
    first: int
    last: int
