"""The page on remaining useful life, followed as a reader would, with files like C-MAPSS's of a simulated fleet."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines.rul import pipeline
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "rul.md"
CUT = 40
"""Cycles before failure at which the test engines are cut off."""


def write(file: Path, table: pl.DataFrame) -> None:
    file.write_text("".join(" ".join(map(str, row)) + "  \n" for row in table.drop("rul").iter_rows()))


@pytest.fixture
def tour(tmp_path: Path) -> Tour:
    tour = Tour(tmp_path, "127.0.0.1:1")
    folder = tmp_path / "cmapss"
    folder.mkdir()
    for subset, strange in (("FD001", 0), ("FD002", 200)):
        write(folder / f"train_{subset}.txt", run_to_failure(engines=15, seed=1))
        test = run_to_failure(engines=5, seed=2).filter(pl.col("rul") >= CUT).with_columns(pl.col("s2") + strange)
        write(folder / f"test_{subset}.txt", test)
        (folder / f"RUL_{subset}.txt").write_text(f"{CUT}\n" * 5)
    return tour


@pytest.mark.slow  # a minute of training
def test_every_command_of_the_page_runs(tour: Tour) -> None:
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate"]
    trained = json.loads(tour(f"{commands[0]} --epochs 4 --json"))
    assert (trained["name"], trained["version"]) == ("rul", "1")
    assert {tried["seed"] for tried in trained["seeds"]} == {0, 1}
    assert all(0 < tried["validation_coverage"] <= 1 for tried in trained["seeds"])

    said = json.loads(tour(f"{commands[1]} --force --json"))
    subsets = said["parts"]["subsets"]
    assert subsets.keys() == {"FD001", "FD002"}
    assert said["counted"] == {"engines": 10, "rows": 10} and "FD002" in said["doubt"]
    assert subsets["FD001"]["in_domain"] == 1 > said["in_domain"] > subsets["FD002"]["in_domain"]
    pooled = sum(subset["rmse"] ** 2 / 2 for subset in subsets.values())
    assert said["figures"]["rmse"] == pytest.approx(pooled**0.5)
    foreign = tour(f"({commands[1]} 2>&1); test $? = 3")
    assert "FD001" in foreign and "rmse" in foreign
    assert (
        "expected readings like those that the model was trained on, got others: 100% of FD002; train a model"
        in foreign
    )

    own = json.loads(tour(f"{commands[2]} --json"))
    assert (own["model"], own["version"], own["counted"]["engines"]) == ("rul@champion", "1", 5)
    assert own["parts"]["subsets"].keys() == {"FD001"}


def test_the_settings_of_the_page_make_a_pipeline(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tour.folder / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tour.folder)
    made = pipeline(Settings.load().pipeline("rul").options, Model(FD001, "fd001", "cpu"))
    assert [(rule.name, rule.hold) for rule in made.rules] == [("warning", 3), ("critical", 3), ("out_of_domain", 5)]
