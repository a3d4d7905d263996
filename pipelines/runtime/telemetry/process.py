"""What every process of a deployment begins with; imported before anything that is heavy, for it decides how that behaves."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from tocsin.pipelines.runtime.telemetry import logs

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
