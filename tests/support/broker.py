"""One Apache Kafka for all test processes. The controller starts it while the workers import, and stops it at the end."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from tempfile import mkdtemp

from tocsin.deploy.kafka.server import KafkaServer, MissingToolError
from tocsin.pipelines.runtime.lake.storage import write_aside

NAMED = "TOCSIN_TEST_KAFKA"
"""The environment variable with the path of a file that holds the broker's address, or why there is no broker."""
START_S = 120


class Shared:
    """The shared broker: it starts in a thread and runs until `end`."""

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="tocsin-kafka-"))
        os.environ[NAMED] = str(self._folder / "named.json")
        self._server = KafkaServer(data=self._folder / "kafka")
        self._thread = threading.Thread(target=self._start)
        self._thread.start()

    def end(self, *, keep: bool) -> None:
        """Stop the broker; keep its files if `keep`, to examine a failed test."""
        self._thread.join()
        self._server.kill()  # a clean stop would sync every log to disk first
        if not keep:
            shutil.rmtree(self._folder)

    def _start(self) -> None:
        status: dict[str, object] = {"data": str(self._server.data), "port": self._server.port}
        try:
            self._server.start()
        except MissingToolError as reason:
            status = {"missing": str(reason)}
        except Exception as reason:
            status = {"failed": repr(reason)}
        write_aside(Path(os.environ[NAMED]), json.dumps(status).encode())


def shared() -> KafkaServer:
    """Wait for the shared broker. Returns an object with its address and files that does not start or stop it.

    Raises:
        MissingToolError: if Java or Maven is not installed.
        RuntimeError: if the broker did not start.
    """
    file, give_up = Path(os.environ[NAMED]), time.monotonic() + START_S
    while not file.exists():
        if time.monotonic() > give_up:
            raise RuntimeError(f"expected Kafka to start within {START_S} s")
        time.sleep(0.1)
    status = json.loads(file.read_text())
    if "missing" in status:
        raise MissingToolError(status["missing"])
    if "failed" in status:
        raise RuntimeError(status["failed"])
    return KafkaServer(data=Path(status["data"]), port=status["port"])
