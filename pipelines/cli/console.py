"""How the commands speak: tables for people, JSON for scripts, one line on stderr for what went wrong."""

from __future__ import annotations

import os
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

PIPED = 120
"""Columns where there is no terminal to ask."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPED)

LEVELS = {"critical": "bold red", "warning": "yellow", "healthy": "green"}


def say_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark on stderr, where no script reads."""
    err.print(text, style="dim", soft_wrap=True, markup=False)


def fail(reason: BaseException) -> None:
    """One line on stderr."""
    if os.environ.get("TOCSIN_DEBUG"):
        err.print_exception()
    text = " ".join(str(reason).split()) or type(reason).__name__
    err.print(f"tocsin: {text}", style="red", soft_wrap=True, markup=False)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Say that something is under way; without a terminal, nothing."""
    if not err.is_terminal:
        yield
        return
    with err.status(text):
        yield


def progress() -> Progress:
    """A bar on stderr; gone at the end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def until_told() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what runs can end in order. After joining Ray, which takes SIGTERM."""
    told = threading.Event()
    before = {s: signal.signal(s, lambda *_: told.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
