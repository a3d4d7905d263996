"""Runs work repeatedly in its own thread. An error ends one round, never the thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tocsin.pipelines.runtime.telemetry.logs import one_line

log = logging.getLogger(__name__)
FAILED_S = 0.5


def recurring(name: str, work: Callable[[], None], pause: Callable[[], bool]) -> threading.Thread:
    """Start a daemon thread that calls `work` after each `pause`.

    Guarantee: whatever `work` raises is logged, and the next round follows. An error that repeats is logged once.

    Args:
        name: the thread's name, also in its log lines.
        pause: waits for the next round; returns whether the thread should end.
    """

    def run() -> None:
        last_error = ""
        while True:
            try:
                if pause():
                    return
                work()
            except BaseException as reason:  # a panic in deltalake or polars is no Exception
                if (line := one_line(reason)) != last_error:
                    log.exception("%s: this round failed with %s; retrying in the next round", name, line)
                last_error = line
                time.sleep(FAILED_S)  # `pause` itself may be what fails
            else:
                last_error = ""

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
