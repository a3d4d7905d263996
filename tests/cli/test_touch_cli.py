"""Touch on the command line: a running pipeline processes a camera, and a sheet shows the frames around each event."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from tests.cli.test_cli import Cli, committed
from tests.conftest import Once
from tests.support.touches import SIZE, clip, small_model, touches
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.cli.frames import AROUND, LINE, WIDTH
from tocsin.pipelines.query import results
from tocsin.pipelines.runtime.formats.video import sent
from tocsin.pipelines.runtime.kafka import feeder
from tocsin.pipelines.runtime.lake.storage import Lake

FRAMES, RATE = 90, 30
HEIGHT = round(SIZE[0] * WIDTH / SIZE[1])
"""Height of a frame on the sheet, in pixels, without the line under it."""
BORDER = np.array([80, 200, 255])


@pytest.fixture
def tocsin(kafka: KafkaServer, topic: str, tmp_path: Path, once: Once) -> Cli:
    """`tocsin` in a folder whose pipeline `touch` uses the small model."""
    (tmp_path / "tocsin.toml").write_text(
        f"""
        ray.num_cpus = 0
        mlflow.enabled = false
        [pipelines.touch]
        model = "{once("touch-model", small_model)}"
        topic = "{topic}"
        every = "500ms"
        """
    )
    return Cli(tmp_path, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers)


@pytest.mark.slow
def test_touches_ring_and_the_frames_around_each_are_on_a_line_of_the_sheet(
    tocsin: Cli, kafka: KafkaServer, topic: str
) -> None:
    frames = sent((shot.frame for shot in clip(FRAMES, seed=9)), camera="head", rate=RATE)
    address = {"bootstrap_servers": kafka.bootstrap_servers}
    feeder.feed(frames, kafka=address, topic=topic, key="camera", format="jpeg")
    with tocsin.run("touch") as running:
        tocsin.eventually(lambda said: committed(said) == FRAMES, "status", "touch")
        # The last frames are processed once the camera has been inactive for two seconds.
        tocsin.eventually(lambda said: said[0]["rows"] == FRAMES, "query", "select count(*) as rows from touch")
        running.stop()
    assert "touch is experimental: " in (tocsin.folder / "said").read_text()
    table = results("touch", lake=Lake(str(tocsin.folder / "lake"))).sort("sequence").collect()
    assert table["sequence"].to_list() == [*range(FRAMES)]
    begun = {
        (hand, at)
        for hand in ("left", "right")
        for at in table.filter(pl.col(f"{hand}_event") == "contact")["sequence"].to_list()
    }
    truth = {(("left", "right")[t.hand], t.contact) for t in touches(FRAMES, seed=9)}
    assert len(begun & truth) > 0.7 * len(truth) > 2
    rang = [event["data"] for event in tocsin.json("alerts", "touch") if event["type"].endswith("raised")]
    assert {(data["rule"], data["sequence"]) for data in rang} <= begun

    (said,) = tocsin.json("frames", "touch", "--last", "5")
    sheet = cv2.imread(str(tocsin.folder / "touch.png"))
    kept = table.filter(pl.col("frame").is_not_null())
    happens = kept.filter(pl.any_horizontal(pl.col("left_event", "right_event").is_not_null()))["sequence"].to_list()
    lines = [kept.filter((pl.col("sequence") - at).abs() <= AROUND)["sequence"].to_list() for at in happens[-5:]]
    assert said == {"file": "touch.png", "frames": sum(map(len, lines)), "forgotten": 0} and max(map(len, lines)) > 3
    assert sheet.shape == (5 * (HEIGHT + LINE), max(map(len, lines)) * WIDTH, 3)
    for row, line in enumerate(lines):
        corners = sheet[row * (HEIGHT + LINE), [column * WIDTH for column in range(len(line))]]
        assert [bool((corner == BORDER).all()) for corner in corners] == [at in happens for at in line]
