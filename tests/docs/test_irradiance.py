"""The page on irradiance, followed as a reader would, in a folder with the readings of two sites."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.irradiance.domain import recorded
from tocsin.models.irradiance.features import HOUR_MS
from tocsin.models.irradiance.model import SITES
from tocsin.pipelines.irradiance import IrradianceOptions, pipeline
from tocsin.pipelines.runtime import Model
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "irradiance.md"
DAYS = 25


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("irradiance"), "127.0.0.1:1")
    table = recorded("sim", sites=2, days=DAYS, seed=1)
    (tour.folder / "solar").mkdir()
    for (site,), part in table.partition_by("site", as_dict=True).items():
        part.with_columns(pl.from_epoch("time", "ms")).write_csv(tour.folder / "solar" / f"{site}.csv")
    return tour


def commands() -> list[str]:
    return [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour) -> None:
    assert [line.split()[1] for line in commands()] == ["train", "evaluate", "evaluate", "train"]
    short = "--steps 30 --sites 2 --days 70 --json"
    trained = json.loads(tour(f"{commands()[0]} {short}"))
    assert trained["version"] == "1" and trained["name"] == "irradiance"
    assert {tried["seed"] for tried in trained["seeds"]} == {0, 1}
    shipped, own = (json.loads(tour(f"{command} --json")) for command in commands()[1:3])
    assert shipped["model"] == "shipped sites" and own["model"] == "irradiance@champion"
    for said in (shipped, own):
        assert set(said["parts"]["sites"]) == {"sim-000", "sim-001"} and said["in_domain"] == 1
        assert 0 < said["figures"]["rmse_all"] < said["figures"]["rmse"]
    plain = json.loads(tour(f"{commands()[3]} --steps 30 --json"))
    assert plain["name"] == "plain" and plain["seeds"][0]["left_out_rmse"] > 0


def test_the_shipped_model_is_evaluated_beside_its_baselines_and_refuses_another_clock(tour: Tour) -> None:
    said = json.loads(tour(f"{commands()[1]} --json"))
    assert list(said["baselines"]) == ["smart persistence", "persistence", "yesterday", "climatology"]
    assert said["baselines"]["smart persistence"]["skill"] == 0
    assert said["figures"]["skill"] > said["baselines"]["persistence"]["skill"]
    (tour.folder / "moved").mkdir()
    for file in (tour.folder / "solar").glob("*.csv"):
        moved = pl.read_csv(file).with_columns(pl.col("time").str.to_datetime() + pl.duration(milliseconds=5 * HOUR_MS))
        moved.write_csv(tour.folder / "moved" / file.name)
    foreign = tour(f"({commands()[1].replace('solar', 'moved')} 2>&1); test $? = 3")
    assert "expected readings that follow the sun at their site, got others in" in foreign and "rmse" in foreign


def test_the_options_of_the_page_are_the_defaults_and_make_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    given = tomllib.loads(text)["pipelines"]["irradiance"]
    sites = given.pop("sites")
    fields = IrradianceOptions.model_fields
    assert given == {name: fields[name].default for name in fields if name not in ("name", "topic", "sites", "ramp")}
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    made = pipeline(Settings.load().pipeline("irradiance").options, Model(SITES, "sites", "cpu"))
    assert [rule.name for rule in made.rules] == ["ramp", "soiling", "shading", "out_of_domain", "silent_sensor"]
    assert sites["roof-1"] == {"latitude": 52.52, "longitude": 13.40, "elevation": 34}
