"""What every process of a deployment begins with; imported before anything that is heavy, for it decides how that behaves."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.runtime.telemetry import logs

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.kafka.reader import Log, Poll, Reader

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MIMALLOC_PURGE_DELAY": "60000",
}
"""Keep freed memory of tensors (glibc, bytes) and Arrow's columns (mimalloc, ms) in the process. Returning it to the system after
each step costs a third of the throughput in page faults."""
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}


def begin(env: Mapping[str, str], **fields: Any) -> None:
    """Take on an environment and log as it says.

    Ray could start the process with it, but would start Python twice for that: 0.7 s more of CPU a process, and no process that Ray
    has ready could be used.

    Args:
        env: `KEEP_MEMORY` has its effect if Arrow is not imported yet.
        fields: what every log line has.
    """
    os.environ.update(env)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for name, parameter in _GLIBC.items():
            if name in env and hasattr(libc, "mallopt"):  # musl has none
                libc.mallopt(parameter, int(env[name]))
    logs.start(**fields)


def import_pandas() -> None:
    """Have Arrow import pandas beside other work: it does so at the first list that it makes a column of, and rows would wait."""

    def look() -> None:
        import pyarrow as pa

        pa.array([], pa.int8())

    threading.Thread(target=look, name="import pandas", daemon=True).start()


class ReaderProcess:
    """A `Reader` as a Ray actor, whose process starts and imports before anybody knows what it is to read.

    Args:
        env: see `begin`.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        begin(env)
        from tocsin.pipelines.runtime.kafka import reader

        import_pandas()
        self._make: type[Reader] = reader.Reader
        self._reader: Reader

    def open(self, *arguments: Any) -> None:
        """Say what to read; the arguments are `Reader`'s."""
        self._reader = self._make(*arguments)

    def log(self, shards: int = 0) -> Log:
        return self._reader.log(shards)

    def seek(self, positions: Mapping[int, int]) -> None:
        self._reader.seek(positions)

    def poll(self, timeout_ms: int) -> Poll | None:
        return self._reader.poll(timeout_ms)

    def originals(self, offsets: Mapping[int, Any]) -> Any:
        return self._reader.originals(offsets)
