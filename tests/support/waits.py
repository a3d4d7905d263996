"""Waits for a condition that another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

LOOK_S = 0.03


class Located(Protocol):
    """Something whose state explains why a wait failed."""

    @property
    def where(self) -> str:
        """Its state, as the end of an error."""


def until(what: Callable[[], Any], why: str, seconds: float = 300, worker: Located | None = None) -> Any:
    """Wait until `what` returns a true value, and return the value. A failure reports the state of `worker`."""
    give_up = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if found := what():
            return found
        if (now := time.monotonic()) > give_up:
            raise AssertionError(f"expected within {seconds:g} s: {why}{worker.where if worker else ''}")
        time.sleep(max(LOOK_S, 2 * (now - began)))  # check less often if a check is expensive
