"""The page on touch, followed as a reader would, in a folder with clips."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import av
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.touch.config import TouchConfig
from tocsin.models.touch.model import SHIPPED
from tocsin.models.touch.simulation.scene import Scene
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.settings import Settings
from tocsin.pipelines.touch import pipeline

PAGE = ROOT / "docs" / "touch.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("touch"), "127.0.0.1:1")
    (folder := tour.folder / "clips").mkdir()
    with av.open(str(folder / "100.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=30)
        stream.width, stream.height = 512, 288
        for shot in Scene(100, seconds=2):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(shot.picture, format="rgb24")))
        video.mux(stream.encode())
    (folder / "touches.csv").write_text("clip,hand,contact,release\n100.mp4,right,20,40\n")
    return tour


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one short clip of a table for validation."""
    monkeypatch.setattr("tocsin.models.touch.simulation.scene.VALIDATION_SEEDS", (700,))
    monkeypatch.setattr("tocsin.models.touch.simulation.scene.Scene", partial(Scene, seconds=2))
    monkeypatch.chdir(tour.folder)
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate"]
    done = CliRunner().invoke(app, [*commands[0].split()[1:], "--steps", "3", "--json"], catch_exceptions=False)
    trained = json.loads(done.stdout.splitlines()[-1])
    assert (trained["version"], trained["name"], trained["seed"]) == ("1", "touch", 0)
    shipped, own = (json.loads(tour(f"{command} --json")) for command in commands[1:])
    assert shipped["model"] == "shipped table" and own["model"] == "touch@champion"
    for said in (shipped, own):
        figures, clips = said["figures"], said["parts"]["clips"]
        assert set(clips) == {"100.mp4"} and figures["delay"] == 19
        assert list(figures)[:3] == ["touches", "found", "alerts"] and figures["touches"] == 1
        assert said["counted"]["touches"] == 1 and said["counted"]["seconds"] == pytest.approx(2, abs=0.1)
        assert 0 <= figures["map_2"] <= 1 and 0 <= clips["100.mp4"]["likeliest_contact"] < 60


def test_the_settings_and_the_columns_of_the_page_are_the_pipelines(
    tour: Tour, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tour.folder / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tour.folder)
    given = Settings.load().pipeline("touch")
    (tour.folder / "tocsin.toml").unlink()
    own = {name: value for name, value in given.options.items() if name != "forget_after"}
    made = pipeline(own, Model(Path(SHIPPED), "table", "cpu"))
    assert [rule.name for rule in made.rules] == ["left", "right", "out_of_domain"]
    thresholds = TouchConfig.load(SHIPPED).decode.thresholds
    assert (own["contact"], own["release"]) == pytest.approx(thresholds, abs=0.001)
    assert "experimental" in PAGE.read_text().split("##")[0] and made.experimental
    ((_, query),) = [block for block in blocks(PAGE) if block[0] == "sql"]
    touches = pl.SQLContext(touch=pl.from_arrow(made.table.empty_table())).execute(query).collect()
    assert touches.columns == ["key", "contact", "release"]
