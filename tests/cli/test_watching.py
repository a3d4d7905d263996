"""Each pipeline of cameras as its page begins: `tocsin feed`, `run`, `query` and `frames`, simulated, with the shipped weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.cli.test_cli import Cli, committed
from tocsin.deploy.kafka.server import KafkaServer

FRAMES = {"alignment": 60, "damage": 120, "pose": 120, "tampering": 200}
"""Frames that are fed: as many as it takes until one is kept."""
OPTIONS = {"alignment": 'pace = "1s"'}


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_the_simulation_become_rows_and_a_sheet(kafka: KafkaServer, tmp_path: Path, name: str) -> None:
    (tmp_path / "tocsin.toml").write_text(
        f"""
        ray.num_cpus = 0
        mlflow.enabled = false
        [pipelines.{name}]
        topic = "video.{name}-{tmp_path.name}"
        every = "500ms"
        {OPTIONS.get(name, "")}
        """
    )
    cli = Cli(tmp_path, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers)
    count = FRAMES[name]
    (fed,) = cli.json("feed", name, "--from", "sim", "--limit", str(count), "--rate", "0")
    assert fed["rows"] == count
    with cli.run(name) as running:
        cli.eventually(lambda said: committed(said) == count, "status", name)
        running.stop()
    ((said,)) = cli.json("query", f"select count(*) as rows, count(frame) as frames from {name}")
    assert said["rows"] > 0 and said["frames"] > 0
    (drawn,) = cli.json("frames", name)
    sheet = cv2.imread(str(tmp_path / f"{name}.png"))
    assert drawn["frames"] == min(said["frames"], 12) and sheet.std() > 5
