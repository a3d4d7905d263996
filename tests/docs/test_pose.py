"""The page on pose, followed as a reader would, in a folder with a film of a simulated room."""

from __future__ import annotations

import json
import tomllib
from functools import partial

import cv2
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.support.films import ROOM, film
from tests.support.tour import Tour, blocks
from tocsin.models.pose.model import SHIPPED, load
from tocsin.models.pose.simulation.film import Film
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.pose import RESULTS, PoseOptions, pipeline
from tocsin.pipelines.runtime.engine.plan import Model

PAGE = ROOT / "docs" / "pose.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("pose"), "127.0.0.1:1")
    (folder := tour.folder / "films" / "room").mkdir(parents=True)
    frames, path, focal = film(ROOM, 20)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), frame[..., ::-1])
    rows = [f"room,{number},{x},{y},{z},{focal}" for number, (x, y, z) in enumerate(path.place)]
    (folder.parent / "paths.csv").write_text("\n".join(["clip,frame,x,y,z,focal", *rows]))
    return tour


def test_the_options_and_the_columns_of_the_page_are_the_pipelines() -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    given = tomllib.loads(text)["pipelines"]["pose"]
    fields = PoseOptions.model_fields
    assert given.pop("focal") == load().config.focal and given.pop("forget_after") == "30d"
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if name not in ("name", "topic", "focal")
    }
    assert given == defaults
    made = pipeline({}, Model(SHIPPED, "worlds", "cpu"))
    assert [rule.name for rule in made.rules] == ["lost_track"] and made.topic in PAGE.read_text()
    assert all(f"`{name}`" in PAGE.read_text() for name in RESULTS.names if name not in ("camera", "sequence"))


def test_the_query_of_the_page_finds_the_places_that_were_come_back_to() -> None:
    ((_, query),) = [block for block in blocks(PAGE) if block[0] == "sql"]
    made = pipeline({}, Model(SHIPPED, "worlds", "cpu"))
    found = pl.SQLContext(pose=pl.from_arrow(made.table.empty_table())).execute(query).collect()
    assert found.columns == ["key", "place", "since", "back"]


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short films."""
    monkeypatch.setattr("tocsin.models.pose.simulation.film.VALIDATION_SEEDS", (700,))
    monkeypatch.setattr("tocsin.models.pose.train.Film", partial(Film, seconds=5))
    monkeypatch.setattr("tocsin.models.pose.evaluate.SEGMENT", 20)
    monkeypatch.chdir(tour.folder)
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate"]
    short = ["--steps", "2", "--films", "2", "--json"]
    done = CliRunner().invoke(app, [*commands[0].split()[1:], *short], catch_exceptions=False)
    trained = json.loads(done.stdout.splitlines()[-1])
    assert (trained["version"], trained["name"], trained["seed"]) == ("1", "pose", 0)
    shipped, own = (json.loads(tour(f"{command} --json")) for command in commands[1:])
    assert shipped["model"] == "shipped worlds" and own["model"] == "pose@champion"
    for said in (shipped, own):
        assert said["figures"]["drift"] is None and said["figures"]["aligned"] < 0.5
        assert set(said["parts"]["films"]) == {"room"} and set(said["baselines"]) == {
            "ORB and RANSAC",
            "flow and RANSAC",
        }
