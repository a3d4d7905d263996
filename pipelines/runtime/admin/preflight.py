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
        tell: called with each finding, in order.
    """

    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self._tell = tell
        self._failed: set[tuple[str, str]] = set()
        self.wrong = 0
        """Number of failed checks."""

    def look(self, check: str, how: Callable[[], str], *needs: str, pipeline: str = "") -> None:
        """Run one check.

        Args:
            how: returns what is right; raises `Concern` or what is wrong.
            needs: the checks that this one depends on, of this pipeline or of all.
        """
        lacking = next((n for n in needs if self._failed & {("", n), (pipeline, n)}), None)
        state: State
        state, said = ("skipped", f"skipped: it needs {lacking}") if lacking else _seen(how)
        if state in ("wrong", "skipped"):
            self._failed.add((pipeline, check))
        self.wrong += state == "wrong"
        self._tell(Finding(pipeline, check, state, said))


def _seen(how: Callable[[], str]) -> tuple[State, str]:
    """Run a check in a thread, since not everything that may hang has a time limit."""
    done: Future[str] = Future()

    def run() -> None:
        try:
            done.set_result(how())
        except BaseException as reason:
            done.set_exception(reason)

    threading.Thread(target=run, name="check", daemon=True).start()
    try:
        reason = done.exception(LONGEST_S)
    except TimeoutError:
        return (
            "wrong",
            f"expected an answer within {LONGEST_S:.0f} s, got none; check whether the system that it asks is up",
        )
    if reason is None:
        return "ok", done.result()
    text = " ".join(str(reason).split())
    if isinstance(reason, TocsinError):
        return "warning" if isinstance(reason, Concern) else "wrong", text
    return "wrong", f"expected an answer, got {type(reason).__name__}: {text}; correct that and check again"


def codecs() -> str:
    """Check that each compression that a producer or a topic may choose can be read and written here."""
    sample, lacking = b"tocsin " * 1000, list[str]()
    for name in CODECS:
        try:
            back = getattr(codec, f"{name}_decode")(getattr(codec, f"{name}_encode")(sample))
        except Exception as reason:  # each library has errors of its own; without one there is no function
            lacking.append(f"{name} fails ({reason})")
        else:
            lacking += [] if back == sample else [f"{name} changes its content"]
    if lacking:
        raise ConfigError(
            f"compression: expected to read and write {', '.join(CODECS)}, got {', '.join(lacking)}; "
            "install lz4, python-snappy and zstandard where workers run"
        )
    return ", ".join(CODECS)
