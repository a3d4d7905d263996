"""What a command costs: the processor time and memory of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

EVERY_S, MEMORY_EVERY_S = 0.2, 2.0
STOP_S = 60.0


class Command:
    """A command that runs, with all processes that it starts.

    Its processes are found by an environment variable, because some outlive their parents.
    """

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str], folder: Path) -> None:
        self._mark = f"BENCHMARK={log.stem}-{time.monotonic_ns()}"
        name, _, value = self._mark.partition("=")
        self.started, self.log = time.monotonic(), log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, name: value},
                cwd=folder,
                start_new_session=True,
            )
        self._known: dict[int, psutil.Process] = {}
        self._foreign = set[int]()
        self._seconds: dict[int, float] = {}
        self.memory = 0
        """The most that its processes held at a time, in bytes. Shared pages count once."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def cpu_s(self) -> float:
        """Processor time of all its processes so far, ended ones included."""
        return sum(self._seconds.values())

    def processes(self) -> list[psutil.Process]:
        """Its living processes."""
        for process in psutil.process_iter():
            if process.pid in self._known or process.pid in self._foreign:
                continue
            with suppress(psutil.Error, OSError):
                own = self._mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
                if own:
                    self._known[process.pid] = process
                elif process.create_time() < time.time() - 60:
                    self._foreign.add(process.pid)
        return [process for process in self._known.values() if process.is_running()]

    def stop(self) -> None:
        """Interrupt it, as Ctrl-C does; end what is left after a minute."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._ended.set()
        self._thread.join()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def _watch(self) -> None:
        memory_at = 0.0
        while not self._ended.wait(EVERY_S):
            living = self.processes()
            for process in living:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
            if time.monotonic() > memory_at:
                memory_at = time.monotonic() + MEMORY_EVERY_S
                self.memory = max(self.memory, sum(map(_proportional, living)))


def _proportional(process: psutil.Process) -> int:
    """A process's share of memory in bytes: of a page that n processes map, one n-th."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
