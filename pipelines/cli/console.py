"""Output of the commands: tables for people, JSON for scripts, one line on stderr for an error."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

PIPED = 160
"""Width in columns where the output is not a terminal."""


def _console(*, stderr: bool) -> Console:
    """A console that prints every string as it is. Most are data: a key `[red]Pump :warning:` has no markup and no emoji."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPED
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


out, err = _console(stderr=False), _console(stderr=True)

LEVELS = {"critical": "bold red", "warning": "yellow", "healthy": "green"}


def say_json(value: Any) -> None:
    """Write one line of JSON to stdout."""
    sys.stdout.write(orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def plain(text: object) -> str:
    """Data as text on one line. Control characters become escapes such as `\\x1b`, because a terminal would obey them."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: found[0].encode("unicode_escape").decode(), str(text)
    )


def note(text: str) -> None:
    """Print a remark to stderr, which scripts do not read. Passwords in addresses are masked."""
    from tocsin.pipelines.runtime.telemetry.logs import without_password

    err.print(plain(without_password(text)), style="dim", soft_wrap=True)


ERROR = "tocsin: "
"""How an error line begins."""
UNEXPECTED = (LookupError, AttributeError, TypeError, AssertionError, ArithmeticError, NameError)
"""Errors whose message alone explains nothing. No code raises them for a user to read."""


def fail(reason: BaseException) -> None:
    """Print an error as one line to stderr, passwords in addresses masked; `TOCSIN_DEBUG` adds the traceback."""
    from tocsin.pipelines.runtime.telemetry.logs import without_password

    if os.environ.get("TOCSIN_DEBUG"):
        err.print_exception()
    text = " ".join(str(reason).split()) or type(reason).__name__
    if isinstance(reason, UNEXPECTED):
        text = f"unexpected {type(reason).__name__}: {text}; TOCSIN_DEBUG=1 shows where"
    err.print(f"{ERROR}{plain(without_password(text))}", style="red", soft_wrap=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show a status line while the body runs; without a terminal, show nothing."""
    if not err.is_terminal:
        yield
        return
    with err.status(Text(plain(text))):  # it parses a string as markup, whatever the console's settings
        yield


def progress() -> Progress:
    """A progress bar on stderr that disappears at the end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set, for an orderly end. Enter it after joining Ray, which takes SIGTERM."""
    event = threading.Event()
    previous = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
