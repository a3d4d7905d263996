"""The page on surprise, followed as a reader would, in a folder with clips."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.surprise.simulation.scene import Dive
from tocsin.pipelines.cli.app import app

PAGE = ROOT / "docs" / "surprise.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("surprise"), "127.0.0.1:1")
    (folder := tour.folder / "clips").mkdir()
    for seed in (100, 101):
        with av.open(str(folder / f"{seed}.mp4"), "w") as video:
            stream = video.add_stream("mpeg4", rate=10)
            stream.width, stream.height = 320, 180
            for picture in Dive(seed, seconds=6):
                video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            video.mux(stream.encode())
    (folder / "novelties.csv").write_text("clip,start_s,end_s,kind\n100.mp4,3.0,4.5,fish\n")
    return tour


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one short dive for validation, and short pans."""
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.VALIDATION_SEEDS", (700,))
    for name, value in (("PANS", 1), ("VALIDATION", 1), ("SECONDS", 4.0)):
        monkeypatch.setattr(f"tocsin.models.surprise.pans.{name}", value)
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.Dive", partial(Dive, seconds=6))
    monkeypatch.chdir(tour.folder)
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate", "evaluate"]
    done = CliRunner().invoke(app, [*commands[0].split()[1:], "--steps", "10", "--json"], catch_exceptions=False)
    trained = json.loads(done.stdout.splitlines()[-1])
    assert (trained["version"], trained["name"], trained["seed"]) == ("1", "surprise", 0)
    assert 0 <= trained["seeds"][0]["f1"] <= 1
    shipped, compared, own = (json.loads(tour(f"{command} --json")) for command in commands[1:])
    assert shipped["model"] == compared["model"] == "shipped dives" and own["model"] == "surprise@champion"
    assert {"uncompensated", "kNN novelty", "frame difference"} <= set(compared["baselines"])
    for said in (shipped, compared, own):
        assert set(said["parts"]["clips"]) == {"100.mp4", "101.mp4"}
        assert said["counted"]["novelties"] == 1 and said["counted"]["seconds"] == pytest.approx(12, abs=0.5)
        assert 0 <= said["figures"]["saved_bytes"] <= 1


def test_the_settings_of_the_page_make_a_pipeline(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.models.surprise.model import SHIPPED
    from tocsin.pipelines.runtime.engine.plan import Model
    from tocsin.pipelines.runtime.settings import Settings
    from tocsin.pipelines.surprise import pipeline

    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tour.folder / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tour.folder)
    given = Settings.load().pipeline("surprise")
    (tour.folder / "tocsin.toml").unlink()
    own = {name: value for name, value in given.options.items() if name != "forget_after"}
    made = pipeline(own, Model(Path(SHIPPED), "dives", "cpu"))
    assert [rule.name for rule in made.rules] == ["surprise", "out_of_domain"] and given.options[
        "forget_after"
    ] == "30d"
