"""When a shard last made progress, to tell a hanging shard from a slow one."""

from __future__ import annotations

import time
from contextvars import ContextVar


class Progress:
    """Progress of one shard."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def made(self) -> None:
        """Record progress, such as bytes read or a step taken."""
        self._at = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._at


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def follow(progress: Progress) -> None:
    """Count this thread's progress for `progress` from now on. A thread that it starts needs its context."""
    _current.set(progress)


def followed() -> Progress:
    """The `Progress` that this thread's progress counts for; a new one if there is none."""
    if (progress := _current.get()) is None:
        follow(progress := Progress())
    return progress


def made() -> None:
    """Record progress in this thread."""
    if progress := _current.get():
        progress.made()
