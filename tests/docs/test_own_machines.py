"""The page on machines of one's own: each example runs from the published files to an alert."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.config import RulConfig

PAGE = ROOT / "docs" / "own-machines.md"
PUBLISHED = {"battery": "*.csv", "bearings": "*.csv", "hydraulic": "*.txt"}
"""Files of each example, by its folder among the recordings."""


def commands(pipeline: str) -> list[str]:
    """The commands of one example: those of the blocks up to the one that shows the pipeline's alerts."""
    typed: list[str] = []
    for kind, text in blocks(PAGE):
        typed += text.splitlines() if kind == "sh" else []
        if kind == "sh" and text.splitlines()[-1].startswith("tocsin alerts"):
            if typed[-1] == f"tocsin alerts {pipeline}":
                return typed
            typed = []
    raise LookupError(pipeline)


def follow(tour: Tour, pipeline: str) -> dict[str, str]:
    """Run an example. Returns what each command said; of those that report figures or alerts, as JSON."""
    said, rows = dict[str, str](), 0
    for command in commands(pipeline):
        verb = command.split()[1]
        if verb == "run":
            tour.run(command.removesuffix(" &"))
            tour.wait_committed(pipeline, rows)
        else:
            said[command] = tour(f"{command} --json" if command.startswith("tocsin") else command)
        if verb == "feed":
            rows = json.loads(said[command])["rows"]
    return said


def begins(said: dict[str, str], beginning: str) -> str:
    (text,) = (text for command, text in said.items() if command.startswith(beginning))
    return text


def raised(said: dict[str, str]) -> dict[str, set[str]]:
    """The rules that were raised, by key."""
    found: dict[str, set[str]] = {}
    for event in map(json.loads, begins(said, "tocsin alerts").splitlines()):
        if event["type"].endswith("raised"):
            found.setdefault(event["subject"], set()).add(event["data"]["rule"])
    return found


@pytest.fixture
def tour(kafka: KafkaServer, data: Path, tmp_path: Path) -> Iterator[Tour]:
    """A reader's folder with the published files and the files of the page."""
    tour = Tour(tmp_path, kafka.bootstrap_servers)
    for folder, pattern in PUBLISHED.items():
        published = sorted((data / "run_to_failure" / folder).glob(pattern))
        if not published:
            pytest.skip(f"no {pattern} in {data / 'run_to_failure' / folder}")
        for file in published:
            (tmp_path / file.name).symlink_to(file)
    tour.write(PAGE)
    yield tour
    tour.stop()


def test_the_page_has_three_examples_whose_settings_are_valid(tmp_path: Path) -> None:
    files = Tour(tmp_path, "").write(PAGE)
    pipelines = tomllib.loads(files["tocsin.toml"])["pipelines"]
    assert list(pipelines) == ["battery", "bearings", "cooler"]
    for name in pipelines:
        config = RulConfig.from_toml(tmp_path / f"{name}.toml")
        assert not config.age
        assert commands(name)[-1] == f"tocsin alerts {name}"
    assert sum(len(commands(name)) for name in pipelines) == sum(
        len(text.splitlines()) for kind, text in blocks(PAGE) if kind == "sh"
    )


@pytest.mark.slow
def test_battery_cells(tour: Tour) -> None:
    said = follow(tour, "battery")
    (figures,) = json.loads(begins(said, "tocsin train rul --data battery "))["seeds"]
    assert figures["folds_rmse"] < figures["folds_rmse_constant"] / 1.5
    assert figures["folds_rmse_age"] == pytest.approx(15.6, abs=0.1)
    assert figures["folds_rmse_constant"] == pytest.approx(float(shown("Battery cells", "a constant")), abs=0.1)
    unknown = json.loads(begins(said, "tocsin evaluate"))
    assert unknown["counted"] == {"engines": 1, "rows": 109}
    assert unknown["figures"]["rmse"] < 15 and unknown["in_domain"] > 0.95
    assert unknown["figures"]["width"] == 125, "nothing has judged it"
    assert raised(said) == {"B0006": {"warning", "critical"}}


@pytest.mark.slow
def test_bearings(tour: Tour) -> None:
    said = follow(tour, "bearings")
    (figures,) = json.loads(begins(said, "tocsin train rul --data bearings "))["seeds"]
    assert figures["folds_rmse_age"] == pytest.approx(0, abs=1e-3)
    assert figures["folds_rmse_constant"] == pytest.approx(float(shown("Bearings", "a constant")), abs=0.1)
    unknown = json.loads(begins(said, "tocsin evaluate"))
    assert (unknown["counted"]["engines"], unknown["counted"]["survivors"]) == (2, 1)
    assert unknown["figures"]["false_warnings"] == 0
    rules = raised(said)
    assert {"warning", "critical"} <= rules["1-3"]
    assert "critical" not in rules.get("1-2", set())


@pytest.mark.slow
def test_hydraulic_rig(tour: Tour) -> None:
    said = follow(tour, "cooler")
    (figures,) = json.loads(begins(said, "tocsin train"))["seeds"]
    assert figures["folds_rmse"] < figures["folds_rmse_constant"] / 3
    unknown = json.loads(begins(said, "tocsin evaluate"))
    assert unknown["counted"] == {"engines": 3, "rows": 360}
    assert unknown["figures"]["rmse"] < 20
    rules = raised(said)
    assert {"warning", "critical"} <= rules["3"], "the cooler is at 3 %"
    assert "warning" in rules["7"], "the cooler is at 20 %"
    assert "critical" not in rules["7"] and "warning" not in rules.get("11", set())


def shown(section: str, row: str) -> str:
    """The last cell of a row of a section's table."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert text
    found = re.search(rf"^\| {re.escape(row)} \|.* ([\d.]+) \|$", text[1], re.MULTILINE)
    assert found, f"{section}: expected a row {row!r}"
    return found[1]
