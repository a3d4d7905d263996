"""A lake that takes nothing for a while (full, read-only, out of reach) is waited for, where trying again is safe."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.logs import one_line

log = logging.getLogger(__name__)
AGAIN_S = 2.0
OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF}
"""What ails this process, not the lake: another process may do better."""

T = TypeVar("T")


class LakeRetry:
    """One shard's patience with its lake; used by several threads.

    Args:
        lake: whose name the status shows.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake, self._over = lake, threading.Event()
        self.patient = False
        """Whether to wait; a takeover does not, for it is tried again as a whole."""
        self._waiting: dict[int, str] = {}

    @property
    def why(self) -> str:
        """What is waited for now, in one line; empty: nothing."""
        return next(iter(list(self._waiting.values())), "")

    def through(self, work: Callable[[], T]) -> T:
        """Call `work` until the lake takes it. It must be safe to call again after it has failed half-way."""
        me = threading.get_ident()
        while True:
            try:
                done = work()
            except OSError as reason:
                if not (self.patient and _passes(reason)):
                    raise
                if (why := _line(self._lake, reason)) != self._waiting.get(me):
                    log.warning("%s", why)
                self._waiting[me] = why
                if self._over.wait(AGAIN_S):
                    raise
            else:
                self._waiting.pop(me, None)
                return done

    def close(self) -> None:
        """Have whoever waits give up."""
        self._over.set()


@contextmanager
def lake_errors_as_unavailable(lake: Lake) -> Iterator[None]:
    """Have a lake that takes nothing end the block as `Unavailable`: whoever tries the whole again waits for it."""
    try:
        yield
    except OSError as reason:
        if not _passes(reason):
            raise
        raise Unavailable(_line(lake, reason)) from reason


def _passes(reason: OSError) -> bool:
    """Whether the lake may take it later. That something is not there is no such case."""
    return not isinstance(reason, FileNotFoundError | NotADirectoryError) and _number(reason) not in OWN


def _line(lake: Lake, reason: OSError) -> str:
    number = _number(reason)
    got = os.strerror(number).lower() if number else one_line(reason)
    return (
        f"{got} on lake {lake.place()}: nothing is lost, it is tried again every {AGAIN_S:g} s; make it writable again"
    )


def _number(reason: OSError) -> int:
    """The system's number for an error; deltalake has it in its text."""
    found = re.search(r"\(os error (\d+)\)", str(reason))
    return reason.errno or (int(found[1]) if found else 0)
