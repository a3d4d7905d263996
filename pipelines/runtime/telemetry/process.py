"""Setup of every process of a deployment. Imported before anything heavy, because it sets how heavy imports behave."""

from __future__ import annotations

import ctypes
import gc
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


CYCLES_AFTER = 50_000
"""Python looks for cycles of garbage after so many new containers, not after 700. A poll makes some for each record, and all are in
use until it is decoded: looking at them again and again took half of the reader's time."""


def begin(env: Mapping[str, str], **fields: Any) -> None:
    """Set environment variables, log as they say, and look for cycles of garbage less often.

    Ray could start the process with them, but would then start Python twice. That takes 0.7 s more CPU a process, and Ray could not
    use its idle processes.

    Args:
        env: `KEEP_MEMORY` takes effect only if Arrow is not imported yet.
        fields: of every log line.
    """
    os.environ.update(env)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for name, parameter in _GLIBC.items():
            if name in env and hasattr(libc, "mallopt"):  # musl has none
                libc.mallopt(parameter, int(env[name]))
    gc.set_threshold(CYCLES_AFTER)
    logs.start(**fields)


def imported() -> None:
    """Exempt what has been imported from the search for cycles. torch alone makes a million objects, half a second's search."""
    gc.freeze()


def import_pandas() -> None:
    """Make Arrow import pandas in the background. It does so when it first converts a list to a column, and rows would wait."""

    def convert() -> None:
        import pyarrow as pa

        pa.array([], pa.int8())

    threading.Thread(target=convert, name="import pandas", daemon=True).start()
