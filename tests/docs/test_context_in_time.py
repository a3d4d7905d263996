"""The page on context: its settings make pipelines, its commands train a network that reads plans, its files are read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.models.test_rul_context import aware
from tests.support.tour import Tour, blocks
from tocsin.models import timetable
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.source import simulated
from tocsin.pipelines import occupancy, rul
from tocsin.pipelines.runtime import Model
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "intervals.md"
TEXTS = [text for kind, text in blocks(PAGE) if kind == "text"]


def test_the_settings_of_the_page_make_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    aware("fading").save(tmp_path / "model")
    options = {name: Settings.load().pipeline(name).options for name in ("rul", "occupancy")}
    machines = rul.pipeline(options["rul"], Model(tmp_path / "model", "rul/1", "cpu"))
    assert machines.context is not None and "wash" in machines.context.kinds
    rooms = occupancy.pipeline(options["occupancy"], Model(OFFICES, "offices", "cpu"))
    assert rooms.context is not None and [*rooms.context.kinds] == ["booked", "holiday"]
    defaults = occupancy.OccupancyOptions()
    assert {name: getattr(defaults, name) for name in ("booked", "free", "holiday")} == {
        name: value for name, value in options["occupancy"].items() if name != "context"
    }


def test_the_files_of_the_page_are_read(tmp_path: Path) -> None:
    config = simulated()
    assert tomllib.loads(TEXTS[0]) == {
        "context": [*config.context], "context_numbers": [*config.context_numbers], "time": config.time,
    }  # fmt: skip
    (tmp_path / "context.csv").write_text(TEXTS[1])
    file = timetable.beside(tmp_path)
    assert file is not None
    assert timetable.read(file, kinds=config.context, numbers=config.context_numbers)["load"].to_list() == [1.5, None]
    assert [json.loads(line)["kind"] for line in TEXTS[2].splitlines()] == ["booked", "holiday"]


@pytest.mark.slow  # a minute of training
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "127.0.0.1:1")
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate"]
    trained = json.loads(tour(f"{commands[0]} --epochs 2 --json"))
    assert (trained["name"], trained["version"]) == ("engines", "1")
    said = json.loads(tour(f"{commands[1]} --json"))
    assert said["figures"]["rmse"] < said["baselines"]["without intervals"]["rmse"]
    assert said["parts"]["context"].keys() == {"assets without any", "after wash", "after overhaul", "after load"}
    assert "after overhaul" in tour(commands[1])
