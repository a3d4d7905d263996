"""Runs of a folder: `tocsin run` leaves word of itself in `.tocsin/runs` there, and other commands find its Ray by that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tocsin.pipelines.runtime.lake.storage import write_aside

FOLDER = Path(".tocsin/runs")


@dataclass(frozen=True)
class Run:
    """A `tocsin run` that lives.

    Args:
        address: of its Ray; "" while that starts.
    """

    pipeline: str
    pid: int
    address: str


@contextmanager
def announced(pipeline: str) -> Iterator[Callable[[str], None]]:
    """Leave word of this process as a pipeline's run, for as long as it lasts; yields how to say its Ray's address."""
    file = FOLDER / f"{pipeline}-{os.getpid()}.json"

    def say(address: str) -> None:
        write_aside(file, json.dumps({"pipeline": pipeline, "pid": os.getpid(), "address": address}).encode())

    say("")
    try:
        yield say
    finally:
        file.unlink(missing_ok=True)


def living() -> list[Run]:
    """This folder's runs, by pipeline; word of one that was killed is deleted."""
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):  # it ends at this moment
            run = Run(**json.loads(file.read_text()))
            if _lives(run.pid):
                found.append(run)
            else:
                file.unlink(missing_ok=True)
    return found


def _lives(pid: int) -> bool:
    """Whether a process lives that is a Python, as a run is; a pid may be another program's by now."""
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        pass
    if Path("/proc/self").exists():
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False
