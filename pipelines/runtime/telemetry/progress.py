"""When a shard last got on with its work, so that one that hangs can be told from one that takes long."""

from __future__ import annotations

import time
from contextvars import ContextVar


class Progress:
    """Of one shard."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def made(self) -> None:
        """Something has been achieved: bytes read, a step taken."""
        self._at = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """For how long nothing has been achieved."""
        return time.monotonic() - self._at


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def follow(progress: Progress) -> None:
    """Have what this thread achieves from now on count for `progress`; a thread that it starts needs its context."""
    _current.set(progress)


def followed() -> Progress:
    """What this thread achieves counts for."""
    if (progress := _current.get()) is None:
        follow(progress := Progress())
    return progress


def made() -> None:
    """Something has been achieved in this thread."""
    if progress := _current.get():
        progress.made()
