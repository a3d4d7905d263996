"""`tocsin run` in the background, as with a shell's `&`."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

START_S, END_S = 240, 400


class Background:
    """A command in the background that starts its own Ray; the constructor waits until Ray is up.

    Its stderr goes to a file. A pipe would fill up, or stay open as long as any process that the command has started.

    Args:
        environment: of the command. The constructor sets the address of the command's Ray in it, for later commands.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        self._output = folder / "said"
        environment.pop("TOCSIN_RAY__ADDRESS", None)  # may name a Ray that has ended
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=output
            )
        give_up = time.monotonic() + START_S
        while not (found := re.search(r"Ray at ([\w.:]+),", self._output.read_text())):
            is_starting = self._process.poll() is None and time.monotonic() < give_up
            assert is_starting, f"expected {' '.join(command)} to run, got: {self._output.read_text()}"
            time.sleep(0.2)
        environment["TOCSIN_RAY__ADDRESS"] = found[1]

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:  # only if a test has failed
            self.kill()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Signal the command, and wait until it has committed and ended."""
        self._process.send_signal(how)
        self.ended()

    def ended(self) -> None:
        """Wait until the command ends well."""
        assert self._process.wait(END_S) == 0, self._output.read_text()

    def kill(self) -> None:
        """SIGKILL the command and all its child processes, as if the machine had died."""
        processes = [process := psutil.Process(self._process.pid), *process.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=30)
