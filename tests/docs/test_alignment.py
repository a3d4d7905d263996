"""The page on alignment, followed as a reader would, in a folder with pictures of a rig."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.alignment.model import SHIPPED, load
from tocsin.models.alignment.simulation.rig import Rig
from tocsin.pipelines.alignment import AlignmentOptions, pipeline
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "alignment.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("alignment"), "127.0.0.1:1")
    (sight,) = Rig(3, pairs=1, every=1.0, start=11)
    (pairs := tour.folder / "pairs").mkdir()
    (clip := tour.folder / "clips" / "camera").mkdir(parents=True)
    for place in (tour.folder, pairs):
        cv2.imwrite(str(place / "light.jpg"), sight.first)
        cv2.imwrite(str(place / "heat.jpg"), sight.second)
    cv2.imwrite(str(clip / "0.jpg"), cv2.resize(sight.first, (480, 360)))
    numbers = (sight.homography / sight.homography[2, 2]).ravel()[:8]
    header = "first,second,a11,a12,a13,a21,a22,a23,a31,a32"
    (pairs / "pairs.csv").write_text(f"{header}\nlight.jpg,heat.jpg,{','.join(map(str, numbers))}\n")
    return tour


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.models.alignment.domain.EACH", 1)
    monkeypatch.chdir(tour.folder)
    align, train, *evaluate = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    said = json.loads(tour(f"{align} --json"))
    assert said["confident"] == 1 and (tour.folder / "both.png").stat().st_size > 10_000
    done = CliRunner().invoke(app, [*train.split()[1:], "--steps", "3", "--json"], catch_exceptions=False)
    trained = json.loads(done.stdout.splitlines()[-1])
    assert (trained["version"], trained["name"], trained["seed"]) == ("1", "alignment", 0)
    shipped, own = (json.loads(tour(f"{command} --json")) for command in evaluate)
    assert shipped["model"] == "shipped rigs" and own["model"] == "alignment@champion"
    assert shipped["figures"]["error"] < 3 and shipped["counted"] == {"pairs": 1}
    assert {*shipped["baselines"]} == {"SIFT + RANSAC", "ORB + RANSAC", "ECC", "phase correlation"}


def test_the_settings_of_the_page_are_the_defaults(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tour.folder / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tour.folder)
    given = Settings.load().pipeline("alignment")
    (tour.folder / "tocsin.toml").unlink()
    own = {name: value for name, value in given.options.items() if name != "forget_after"}
    made = pipeline(own, Model(Path(SHIPPED), "rigs", "cpu"))
    assert [rule.name for rule in made.rules] == ["moved", "unpaired"]
    defaults = AlignmentOptions().model_dump(exclude={"name", "topic", "renew"})
    assert {name: value for name, value in own.items() if name != "renew"} == defaults


def test_the_page_says_how_large_the_network_is() -> None:
    assert f"{load().parameters / 1000:,.0f},000 weights" in PAGE.read_text()


def test_the_page_says_what_the_watch_counts() -> None:
    watch = load().config.watch
    assert (watch.references, watch.recent) == (15, 9)
    text = " ".join(PAGE.read_text().split())
    assert "first 15 confident alignments" in text and "the last nine confident ones" in text
