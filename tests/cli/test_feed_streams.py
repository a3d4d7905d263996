"""`tocsin feed` from cameras' RTSP streams, for each pipeline of cameras."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import simplejpeg

from tests.cli.test_surprise_sheet import tocsin
from tests.conftest import ROOT
from tests.support.cameras import LEVELS
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients


@contextmanager
def camera() -> Iterator[str]:
    """The URL of a camera that sends its pictures once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-m", "tests.support.cameras", url], cwd=ROOT)
    try:
        give_up = time.monotonic() + 60
        while not listens(url):
            assert time.monotonic() < give_up
            time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def listens(url: str) -> bool:
    """Whether a port of this machine is taken, without a connection: a camera has one client."""
    port = int(url.rpartition(":")[2])
    return any(
        f":{port:04X} " in line.split(None, 3)[1] + " " for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["damage", "pose", "surprise", "tampering", "touch"])
def test_a_cameras_stream_is_fed_until_it_ends(kafka: KafkaServer, tmp_path: Path, name: str) -> None:
    topic = f"video.{uuid.uuid4().hex[:8]}"
    settings = {"kafka.bootstrap_servers": kafka.bootstrap_servers, f"pipelines.{name}.topic": topic}
    settings["lake.path"] = str(tmp_path)
    with camera() as url:
        called = tocsin(settings, "feed", name, "--from", url, "--rate", "0", "--json")
    assert not called.why
    records = list(clients.committed({"bootstrap_servers": kafka.bootstrap_servers}, [topic]))
    assert called.said[0]["rows"] == len(records) > len(LEVELS) // 6  # damage takes two frames a second
    shades = [float(simplejpeg.decode_jpeg(record.value).mean()) for record in records]
    assert shades == sorted(shades) and abs(shades[0] - LEVELS[0]) < 3


@pytest.mark.slow
def test_a_rigs_two_streams_are_fed_as_they_come(kafka: KafkaServer, tmp_path: Path) -> None:
    topic = f"video.{uuid.uuid4().hex[:8]}"
    settings = {"kafka.bootstrap_servers": kafka.bootstrap_servers, "pipelines.alignment.topic": topic}
    settings["lake.path"] = str(tmp_path)
    with camera() as first, camera() as second:
        both = f"{first},{second}"
        called = tocsin(settings, "feed", "alignment", "--from", both, "--rate", "20", "--json")
    assert not called.why
    facts = [dict(r.headers) for r in clients.committed({"bootstrap_servers": kafka.bootstrap_servers}, [topic])]
    assert called.said[0]["rows"] == len(facts)
    counts = Counter(f["view"] for f in facts)
    assert counts.keys() == {b"first", b"second"} and min(counts.values()) > len(LEVELS) // 2
    for view in counts:
        own = [f for f in facts if f["view"] == view]
        assert [int(f["sequence"]) for f in own] == list(range(counts[view]))
    begins = {view: min(int(f["time"]) for f in facts if f["view"] == view) for view in counts}
    assert abs(begins[b"first"] - begins[b"second"]) < 2_000  # both are read at the same time
