"""The page on sites, followed as a reader would, with a simulated fleet whose sensors read otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.occupancy.domain import recorded
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines.runtime.settings import Settings
from tocsin.pipelines.runtime.stages import Site

PAGE = ROOT / "docs" / "sites.md"


@pytest.mark.slow  # a minute of training
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    tour, columns = Tour(tmp_path, "127.0.0.1:1"), load(FD001, "cpu").config.types
    for folder, seed in (("hall-3", 1), ("hall-3-later", 2)):
        (tmp_path / folder).mkdir()
        runs = run_to_failure(engines=2, seed=seed).with_columns(pl.col("s4") + 25, pl.col("s12") - 2)
        runs.select(*columns).write_csv(tmp_path / folder / "runs.csv")
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1:3] for line in commands] == [
        [command, pipeline] for pipeline in ("rul", "occupancy") for command in ("adapt", "evaluate")
    ]
    adapted = json.loads(tour(f"{commands[0]} --json"))
    assert (adapted["name"], adapted["version"]) == ("rul", "1")
    judged = json.loads(tour(f"{commands[1]} --force --json"))
    shared = json.loads(tour(f"{commands[1].replace(' --site hall-3', '')} --force --json"))
    assert judged["figures"]["rmse"] < shared["figures"]["rmse"]
    assert judged["in_domain"] >= shared["in_domain"]
    for folder, seed in (("labelled", 1), ("labelled-later", 2)):
        _record(tmp_path / folder, seed)
    adapted = json.loads(tour(f"{commands[2]} --force --json"))
    assert (adapted["name"], adapted["version"]) == ("occupancy", "1")
    assert adapted["seeds"][0].keys() >= {"site_f1", "site_f1_shared"}
    own = json.loads(tour(f"{commands[3]} --force --json"))
    assert "the shared network" in own["baselines"] and set(own["parts"]["rooms"]) == {"lab-2", "lab-3"}
    all_rooms = json.loads(tour(f"{commands[3]} --site lab-2 --force --json"))
    assert all_rooms["parts"]["rooms"]["lab-2"] == own["parts"]["rooms"]["lab-2"]
    assert all_rooms["parts"]["rooms"]["lab-3"] != own["parts"]["rooms"]["lab-3"]
    with pytest.raises(AssertionError, match="site lab-3: expected one of lab-2, got another"):
        tour(f"{commands[3]} --site lab-3")


def _record(folder: Path, seed: int) -> None:
    """Write three days of two simulated rooms with their truth."""
    folder.mkdir()
    recording = recorded("sim", rooms=2, seed=seed, days=3)
    for room, name in zip(recording.rooms, ("lab-2", "lab-3"), strict=True):
        co2 = recording.events.filter(room=room, property="co2").select("time", co2="value").sort("time")
        truth = (
            recording.truth.filter(room=room).select("time", occupancy=pl.col("occupied").cast(pl.Int8)).sort("time")
        )
        table = truth.join_asof(co2, on="time", strategy="forward").drop_nulls()
        table.with_columns(pl.from_epoch("time", "ms")).write_csv(folder / f"{name}.csv")


def test_the_settings_of_the_page_find_the_site_in_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    pattern = Settings.load().pipeline("rul").options["site"]
    assert pl.Series(["hall-3/press-7"]).str.extract(pattern).to_list() == ["hall-3"]
    Site(["hall-3"], pattern=pattern)
