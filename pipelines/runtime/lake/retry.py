"""Retries operations on a lake that accepts nothing for a while (full, read-only, out of reach), where a retry is safe."""

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
PROCESS_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF}
"""Errors of this process, not of the lake. Another process may succeed."""

T = TypeVar("T")


class LakeRetry:
    """Retries one shard's operations on its lake; used by several threads.

    Args:
        lake: its name appears in the status.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake, self._closed = lake, threading.Event()
        self.patient = False
        """Whether to wait. Recovery does not wait: it is retried as a whole."""
        self._waiting: dict[int, str] = {}

    @property
    def why(self) -> str:
        """The error being waited out, in one line; empty if none."""
        return next(iter(list(self._waiting.values())), "")

    def through(self, work: Callable[[], T]) -> T:
        """Call `work` until the lake accepts it. `work` must be safe to call again after it has failed half-way."""
        thread = threading.get_ident()
        while True:
            try:
                result = work()
            except OSError as reason:
                if not (self.patient and _passes(reason)):
                    raise
                if (why := _line(self._lake, reason)) != self._waiting.get(thread):
                    log.warning("%s", why)
                self._waiting[thread] = why
                if self._closed.wait(AGAIN_S):
                    raise
            else:
                self._waiting.pop(thread, None)
                return result

    def close(self) -> None:
        """Make all waiting threads give up."""
        self._closed.set()


@contextmanager
def lake_errors_as_unavailable(lake: Lake) -> Iterator[None]:
    """Raise `Unavailable` for a lake error that may pass, so that the caller retries the whole block."""
    try:
        yield
    except OSError as reason:
        if not _passes(reason):
            raise
        raise Unavailable(_line(lake, reason)) from reason


def _passes(reason: OSError) -> bool:
    """Whether the lake may accept the operation later. A missing file does not count."""
    return not isinstance(reason, FileNotFoundError | NotADirectoryError) and _number(reason) not in PROCESS_ERRORS


def _line(lake: Lake, reason: OSError) -> str:
    number = _number(reason)
    got = os.strerror(number).lower() if number else one_line(reason)
    return f"{got} on lake {lake.place()}: nothing is lost, retrying every {AGAIN_S:g} s; make it writable again"


def _number(reason: OSError) -> int:
    """The system's error number; deltalake gives it only in the error's text."""
    found = re.search(r"\(os error (\d+)\)", str(reason))
    return reason.errno or (int(found[1]) if found else 0)
