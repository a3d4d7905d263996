"""Revisits: whether what has come into sight was seen before, at the same place.

When an event begins, the running picture of the place is compared with pictures of the places of earlier events. A place is known
if the two pictures agree at some shift and scale. What is new there was seen before if it lies where the earlier event was, and
looks like it. An event is remembered from up to `OF_EVENT` views, since the camera may come back from another side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tocsin.models.surprise.matching import match, normalised
from tocsin.models.surprise.network import warped

PLACE, COVER, LOOK = 0.18, 0.2, 0.2
"""Least of each part of a `Match` at which an event was seen before. Chosen on validation dives."""
VIEWS = 64
"""Views that are remembered of a camera."""
OF_EVENT = 4
SEEN = 5
"""Frames of an event after which it is compared, where its place is known."""
FOLLOWED = 100
"""Frames for which an event is followed, to remember it from more than one side."""
STEP = 0.25
"""Share of the frame by which the picture must have moved from one remembered view of an event to the next."""
LEAST = 2.0
"""Tokens that an event must cover to be remembered."""
SUSPECT = 0.3
"""Share of an event's highest surprise above which a place belongs to it."""
SLOW = 600
"""Frames over which the camera's usual picture is averaged."""
FINE = 16
"""Steps of a remembered picture per unit."""
NEVER = -(1 << 62)
UNDECIDED, NEW, AGAIN = range(3)


def blank(channels: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """The state of a camera's `Watch` before its first frame.

    Returns:
        `usual` `[C, h, w]`, the mean of its pictures; `event` `[h, w]`, the surprise of each place in the event's first frames,
        moved with the picture; `moved` `[2]`, how far the picture has moved since the event was last remembered; and `counts`
        `[5] int64`.
    """
    return {
        "usual": torch.zeros(channels, *grid),
        "event": torch.zeros(grid),
        "moved": torch.zeros(2),
        "counts": torch.zeros(5, dtype=torch.int64),
    }


def blank_bank(channels: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """A camera's `Bank` before its first event."""
    return {
        "views": torch.zeros(VIEWS, channels, *grid, dtype=torch.int8),
        "masks": torch.zeros(VIEWS, *grid, dtype=torch.uint8),
        "first": torch.full((VIEWS,), NEVER),
        "last": torch.full((VIEWS,), NEVER),
    }


class Bank:
    """What is remembered of a camera's events: up to N views of them.

    Args:
        state: `views` `[N, C, h, w] int8`, `masks` `[N, h, w] uint8`, and `first` and `last` `[N] int64`, ms: when the event of
            each view was first seen, and when it was last seen so. `last` is `NEVER` where there is no view. They are changed in
            place.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self._views, self._masks, self._first, self._last = (
            state[name] for name in ("views", "masks", "first", "last")
        )
        self._found = self._added = False

    def find(self, picture: Tensor, mask: Tensor, before: int) -> tuple[bool, Tensor]:
        """Look for an event that was last seen before a time, ms.

        Args:
            picture, mask: as of `match`.

        Returns:
            Whether the place is known, and the numbers of the views that show the event.
        """
        able = ((self._last != NEVER) & (self._last <= before)).nonzero()[:, 0]
        if not len(able):
            return False, able
        found = match(picture, mask, self._views[able].float() / FINE, self._masks[able].float() / 255)
        known = found.place >= PLACE
        return bool(known.any()), able[known & (found.cover >= COVER) & (found.look >= LOOK)]

    def seen_again(self, views: Tensor, time: int) -> int:
        """Note that an event is in sight again, ms. Returns when it was first seen."""
        self._last[views], self._found = time, True
        return int(self._first[views].min())

    def add(self, picture: Tensor, mask: Tensor, first: int, time: int) -> None:
        """Remember a view, in place of the one that was seen least recently."""
        at = int(self._last.argmin())
        self._views[at] = (picture * FINE).round().clamp(-127, 127).to(torch.int8)
        self._masks[at] = (mask * 255).round().to(torch.uint8)
        self._first[at], self._last[at] = first, time
        self._added = True

    def changed(self) -> Mapping[str, Tensor]:
        """The tensors that have changed."""
        return self._state if self._added else {"last": self._last} if self._found else {}


class Frame(NamedTuple):
    """A frame of a camera.

    Args:
        time: ms.
        picture: `[C, h, w]`, the running picture of what is there, from the predictor.
        warp: `[2, 3]`, and action: `[8]`, the camera's motion into it, as in `Motion`.
        places: `[h, w]`, the surprise of each place.
        novel, begins: the verdict.
        fresh: whether nothing came before it.
    """

    time: int
    picture: Tensor
    warp: Tensor
    action: Tensor
    places: Tensor
    novel: bool
    begins: bool
    fresh: bool


class Watch:
    """Follows the events of one camera, and tells which of them were seen before.

    Args:
        state: see `blank`; changed in place.
        bank: opens the camera's bank, at the first frame that needs it.
        away: ms for which an event must have been out of sight before it counts as seen again.
    """

    def __init__(self, state: Mapping[str, Tensor], bank: Callable[[], Bank], *, away: int) -> None:
        self._state, self._open, self._away = state, bank, away
        self._age, self._verdict, self._since, self._kept, self._frames = state["counts"].tolist()

    @property
    def since(self) -> int:
        """When the event was first seen, ms."""
        return self._since

    def step(self, frame: Frame) -> bool | None:
        """Whether what is new in the frame was seen before; None: there is no event, or it is not decided yet."""
        s = self._state
        self._frames += 1
        s["usual"].add_((frame.picture - s["usual"]) * max(1 / self._frames, 1 / SLOW))
        if frame.begins:
            s["event"].zero_()
            s["moved"].zero_()
            self._age, self._verdict, self._since, self._kept = 0, UNDECIDED, frame.time, 0
        elif not self._age or frame.fresh:
            self._age = 0
            return None
        self._age += 1
        self._follow(frame)
        decided = self._verdict == UNDECIDED and self._decide(frame)
        if self._due():
            self._open().add(self._picture(frame), self._mask, self._since, frame.time)
            s["moved"].zero_()
            self._kept += 1
        if self._age >= FOLLOWED and not frame.novel:
            self._age = 0
        return self._verdict == AGAIN if self._verdict != UNDECIDED and (frame.novel or decided) else None

    def _follow(self, frame: Frame) -> None:
        """Move the surprise of the event with the picture; its first frames add theirs."""
        mask, moved = self._state["event"], self._state["moved"]
        mask.copy_(warped(mask[None, None], frame.warp[None])[0, 0])
        if self._age <= SEEN and frame.novel:
            torch.maximum(mask, frame.places, out=mask)
        moved.add_(frame.action[:2])

    def _decide(self, frame: Frame) -> bool:
        """Decide at once where the place is not known; elsewhere when the event has been seen for long enough, or is over."""
        if 1 < self._age < SEEN and frame.novel:
            return False
        bank = self._open()
        known, views = bank.find(self._picture(frame), self._mask, frame.time - self._away)
        if self._age == 1:
            self._verdict = UNDECIDED if known else NEW
        elif len(views):
            self._verdict, self._since = AGAIN, bank.seen_again(views, frame.time)
        else:
            self._verdict = NEW
        return self._verdict != UNDECIDED

    def _due(self) -> bool:
        """Whether the event is to be remembered from this view."""
        if self._kept >= OF_EVENT or self._age < SEEN or self._age > FOLLOWED:
            return False
        moved = bool((self._state["moved"].abs() >= STEP).any())
        return (moved or not self._kept) and float(self._mask.sum()) >= LEAST

    @property
    def _mask(self) -> Tensor:
        """Where the event is, `[h, w]` from 0 to 1: from `SUSPECT` of its highest surprise on."""
        suspects = self._state["event"]
        return ((suspects / suspects.max().clamp(min=1e-6) - SUSPECT) / (1 - SUSPECT)).clamp(min=0)

    def _picture(self, frame: Frame) -> Tensor:
        return normalised(frame.picture, self._state["usual"])

    def state(self) -> Mapping[str, Tensor]:
        """The state after the last frame."""
        counts = [self._age, self._verdict, self._since, self._kept, self._frames]
        return {**self._state, "counts": torch.tensor(counts)}
