"""The page on sites, followed as a reader would, with a simulated fleet whose sensors read otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
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
    assert [line.split()[1] for line in commands] == ["adapt", "evaluate"]
    adapted = json.loads(tour(f"{commands[0]} --json"))
    assert (adapted["name"], adapted["version"]) == ("rul", "1")
    judged = json.loads(tour(f"{commands[1]} --force --json"))
    shared = json.loads(tour(f"{commands[1].replace(' --site hall-3', '')} --force --json"))
    assert judged["figures"]["rmse"] < shared["figures"]["rmse"]
    assert judged["in_domain"] >= shared["in_domain"]


def test_the_settings_of_the_page_find_the_site_in_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    pattern = Settings.load().pipeline("rul").options["site"]
    assert pl.Series(["hall-3/press-7"]).str.extract(pattern).to_list() == ["hall-3"]
    Site(["hall-3"], pattern=pattern)
