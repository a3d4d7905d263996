"""Processes with all imports done: forks of one server that start in 0.1 s, where a new process takes 3 s."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TextIO

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "tests.support.preloaded"])
END_S = 180.0


def warm_up() -> None:
    """Make the server import its modules now, before a test waits for a process."""
    process = FORKS.Process(target=int)
    process.start()
    process.join()


class Tocsin:
    """`tocsin` with arguments in its own process, with pipes for its output; an interface like `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.stdout, out = _pipe()
        self.stderr, err = _pipe()
        process = FORKS.Process(target=_run, args=(arguments, folder, dict(environment), out, err), daemon=True)
        process.start()
        for end in (out, err):
            end.close()
        self._process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or None if the process has not ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None if the process has not ended."""
        return self._process.exitcode

    def wait(self, timeout: float = END_S) -> int:
        """Wait until the process ends. Returns its exit status."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutExpired("tocsin", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = END_S) -> tuple[str, str]:
        """Wait until the process ends. Returns its output on stdout and stderr."""
        outputs = ["", ""]

        def read(number: int, stream: TextIO) -> None:
            outputs[number] = stream.read()

        readers = [threading.Thread(target=read, args=both) for both in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return outputs[0], outputs[1]

    def send_signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self.pid
        os.kill(self.pid, number)


def _pipe() -> tuple[TextIO, Connection]:
    """Create a pipe. Returns the stream to read text from, and the end to pass to a process."""
    reading_end, end = FORKS.Pipe(duplex=False)
    stream = os.fdopen(os.dup(reading_end.fileno()), encoding="utf-8")
    reading_end.close()
    return stream, end


def _run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Connection, err: Connection
) -> None:
    for number, end in enumerate((out, err), 1):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8", buffering=1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tocsin", *arguments]
    from tocsin.pipelines.cli import main

    main()
