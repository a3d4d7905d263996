"""`tocsin feed` from cameras' RTSP streams, for each pipeline of cameras."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest
import simplejpeg

from tests.cli.test_surprise_sheet import tocsin
from tests.support.cameras import LEVELS, camera
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients


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
