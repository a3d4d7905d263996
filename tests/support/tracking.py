"""A real MLflow server on this machine, reached over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from tests.support.ports import free_port
from tests.support.waits import until


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run an MLflow server while the body runs; yields its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
    ]
    with (folder / "mlflow.log").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        )
        try:
            until(lambda: process.poll() is not None or _is_up(address), "the MLflow server to answer")
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
