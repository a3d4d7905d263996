"""Checks of what a pipeline needs, one after the other. A check is skipped if one that it depends on has failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from kafka import codec

from tocsin.pipelines.runtime.declare.errors import ConfigError, TocsinError

CODECS = ("gzip", "snappy", "lz4", "zstd")
State = Literal["ok", "warning", "wrong", "skipped"]
LONGEST_S = 60.0
"""Time limit of one check. Those of Kafka give up after 5 to 10 s."""


class Concern(TocsinError):
    """The pipeline can start, but a person should know of this."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        pipeline: whose it is; "": of all.
        check: what was looked at.
        said: one line; where something is wrong, it ends with what to do.
    """

    pipeline: str
    check: str
    state: State
    said: str


class Preflight:
    """Runs checks and reports their results.

    Args:
        report: called with each finding, in order.
    """

    def __init__(self, report: Callable[[Finding], None]) -> None:
        self._report = report
        self._failed: set[tuple[str, str]] = set()
        self.wrong = 0
        """Number of failed checks."""

    def run(self, check: str, action: Callable[[], str], *needs: str, pipeline: str = "") -> None:
        """Run one check.

        Args:
            action: returns what is right; raises `Concern` or what is wrong.
            needs: the checks that this one depends on, of this pipeline or of all.
        """
        failed_need = next((n for n in needs if self._failed & {("", n), (pipeline, n)}), None)
        state: State
        state, text = ("skipped", f"skipped: it needs {failed_need}") if failed_need else _outcome(action)
        if state in ("wrong", "skipped"):
            self._failed.add((pipeline, check))
        self.wrong += state == "wrong"
        self._report(Finding(pipeline, check, state, text))


def _outcome(action: Callable[[], str]) -> tuple[State, str]:
    """Run a check in a thread, since not everything that may hang has a time limit."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as reason:
            future.set_exception(reason)

    threading.Thread(target=run, name="check", daemon=True).start()
    try:
        reason = future.exception(LONGEST_S)
    except TimeoutError:
        return (
            "wrong",
            f"expected an answer within {LONGEST_S:.0f} s, got none; check whether the system that it asks is up",
        )
    if reason is None:
        return "ok", future.result()
    text = " ".join(str(reason).split())
    if isinstance(reason, TocsinError):
        return "warning" if isinstance(reason, Concern) else "wrong", text
    return "wrong", f"expected an answer, got {type(reason).__name__}: {text}; correct that and check again"


def codecs() -> str:
    """Check that each compression that a producer or a topic may choose can be read and written here."""
    sample, failures = b"tocsin " * 1000, list[str]()
    for name in CODECS:
        try:
            decoded = getattr(codec, f"{name}_decode")(getattr(codec, f"{name}_encode")(sample))
        except Exception as reason:  # each library has errors of its own; without one there is no function
            failures.append(f"{name} fails ({reason})")
        else:
            failures += [] if decoded == sample else [f"{name} changes its content"]
    if failures:
        raise ConfigError(
            f"compression: expected to read and write {', '.join(CODECS)}, got {', '.join(failures)}; "
            "install lz4, python-snappy and zstandard where workers run"
        )
    return ", ".join(CODECS)
