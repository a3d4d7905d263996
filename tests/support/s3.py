"""SeaweedFS, an S3 server that keeps what it has acknowledged, for tests that kill it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector

from tests.support.ports import free_port
from tests.support.waits import until
from tocsin.pipelines.runtime.lake.storage import Lake

WEED = os.environ.get("TOCSIN_TEST_WEED") or shutil.which("weed")
"""SeaweedFS's command."""
NEEDS_S3 = pytest.mark.skipif(
    WEED is None, reason="needs SeaweedFS: put `weed` on PATH, or name it in TOCSIN_TEST_WEED"
)
BUCKET, KEY, SECRET = "plant", "tocsin", "hush-this-one"


class S3Server:
    """A server with one bucket, on loopback. `kill` it and `start` it again: its data stay.

    Args:
        folder: where it keeps its data; must not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._ports = {
            name: free_port()
            for name in (
                *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc"),
                *("volume.port", "volume.port.grpc"),
            )
        }
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    def lake(self, name: str) -> Lake:
        """A lake in the bucket."""
        options = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        return Lake(f"s3://{BUCKET}/{name}", options)

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        assert WEED
        flags = [f"-{name}={port}" for name, port in self._ports.items()]
        flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder}", f"-bucket={BUCKET}"]
        flags += [
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen([WEED, "mini", *flags], env=environment, stdout=log, stderr=log)
        until(self._answers, "SeaweedFS to answer", 60)

    def kill(self) -> None:
        """SIGKILL the process."""
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        """Whether the bucket can be listed. The server answers some time before that."""
        assert self.process.poll() is None, (self._folder / "log").read_text()[-2000:]
        try:
            self.lake("").files.get_file_info(FileSelector("", allow_not_found=True))
        except OSError:
            return False
        return True
