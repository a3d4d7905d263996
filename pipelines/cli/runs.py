"""Runs of a folder: `tocsin run` writes a file to `.tocsin/runs` there, in which other commands find its Ray's address."""

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
    """A living `tocsin run`.

    Args:
        address: its Ray's address; "" while Ray starts.
    """

    pipeline: str
    pid: int
    address: str


@contextmanager
def announced(pipeline: str) -> Iterator[Callable[[str], None]]:
    """Keep a file about this process, a pipeline's run, while the body runs. Yields a function that sets its Ray's address."""
    file = FOLDER / f"{pipeline}-{os.getpid()}.json"

    def write_address(address: str) -> None:
        write_aside(file, json.dumps({"pipeline": pipeline, "pid": os.getpid(), "address": address}).encode())

    write_address("")
    try:
        yield write_address
    finally:
        file.unlink(missing_ok=True)


def active_runs() -> list[Run]:
    """This folder's living runs, by pipeline. Deletes the files of runs that were killed."""
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):  # the run is ending
            run = Run(**json.loads(file.read_text()))
            if _is_running(run.pid):
                found.append(run)
            else:
                file.unlink(missing_ok=True)
    return found


def _is_running(pid: int) -> bool:
    """Whether the process lives and is a Python, as a run is; another program may have the pid by now."""
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
