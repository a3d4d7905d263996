"""The page on occupancy, followed as a reader would, in a folder with a recording of two rooms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.lakes import land
from tests.support.tour import Tour, blocks
from tocsin.models.occupancy.data import PROPERTIES
from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.model import OFFICES
from tocsin.pipelines.occupancy import pipeline, readings
from tocsin.pipelines.runtime import Model, replay

PAGE = ROOT / "docs" / "occupancy.md"
DAYS, HOURS = 3, 8
"""Days of the recording, and hours of it that the example processes."""


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour = Tour(tmp_path_factory.mktemp("occupancy"), "127.0.0.1:1")
    recording = recorded("sim", rooms=2, days=DAYS, seed=1)
    (tour.folder / "rooms").mkdir()
    for room in recording.rooms:
        events, truth = recording.events.filter(room=room), recording.truth.filter(room=room)
        table = truth.select("time", occupancy=pl.col("occupied").cast(pl.Int8))
        for name in PROPERTIES[:3]:
            values = events.filter(property=name).select("time", pl.col("value").alias(name)).sort("time")
            table = table.join_asof(values, on="time", strategy="forward", check_sortedness=False)
        table.with_columns(pl.from_epoch("time", "ms")).write_csv(tour.folder / "rooms" / f"{room}.csv")
    return tour


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour) -> None:
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate", "train", "calibrate"]
    trained = json.loads(tour(f"{commands[0]} --steps 60 --json"))
    assert trained["version"] == "1" and trained["name"] == "occupancy"
    assert {tried["seed"] for tried in trained["seeds"]} == {0, 1} and trained["seed"] in (0, 1)
    assert all(0 <= tried["left_out_f1"] <= 1 for tried in trained["seeds"])
    shipped, own = (json.loads(tour(f"{command} --json")) for command in commands[1:3])
    assert shipped["model"] == "shipped offices" and own["model"] == "occupancy@champion"
    assert set(shipped["parts"]["rooms"]) == {"room-000", "room-001"}
    for said in (shipped, own):
        assert said["counted"]["minutes"] > 2 * (DAYS * 1440 - 80)
        assert said["figures"]["auroc"] > 0.8
    assert "room room-001: f1" in tour(commands[1])
    searched = tour(f"{commands[3].replace('--data sim --search 20', '--search 2')} --steps 20")
    assert re.search(r"setting.+unchanged", searched) and "trial 1" in searched and "weight_decay" in searched
    assert "registered as searched/1 and searched@champion" in searched


def test_the_settings_of_the_page_make_a_pipeline(tour: Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.pipelines.runtime.settings import Settings

    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tour.folder / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tour.folder)
    options = Settings.load().pipeline("occupancy").options
    made = pipeline(options, Model(OFFICES, "offices", "cpu"))
    assert [rule.name for rule in made.rules] == [
        "unexpected", "stale_air", "stuck_sensor", "out_of_domain", "silent_sensor",
    ]  # fmt: skip
    assert options["rooms"]["lab-2"] == {"days": "mon-sun", "hours": "00:00-24:00", "threshold": 0.6}
    (tour.folder / "tocsin.toml").unlink()


def test_a_room_is_calibrated_by_the_pages_command(tour: Tour) -> None:
    """Three days of results in the lake, and their truth in a file."""
    recording = recorded("sim", rooms=2, days=DAYS, seed=1)
    declared = pipeline({}, Model(OFFICES, "offices", "cpu"))
    land(tour.folder / "lake", declared, *replay(declared, readings(recording)))
    truth = recording.truth.filter(room="room-000").select(pl.from_epoch("time", "ms"), "occupied")
    truth.write_csv(tour.folder / "truth.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    (command,) = [text.strip() for kind, text in blocks(PAGE) if kind == "sh" and "calibrate" in text]
    said = tour(command)
    assert re.search(r"room-000: 3 labelled days, occupied \d+% of the time; F1 0\.\d+", said)


def test_its_example_in_python_prints_what_the_page_says(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "python"]
    (tmp_path / "rooms").mkdir()
    for file in (tour.folder / "rooms").glob("*.csv"):
        pl.read_csv(file).head(HOURS * 60).write_csv(tmp_path / "rooms" / file.name)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    exec(compile(text, "occupancy.md", "exec"), {"__name__": "example", "print": lambda x: said.append(str(x))})
    assert len(said) == 1 and "room-000" in said[0] and "occupied" in said[0]


def test_a_recording_without_truth_is_refused(tour: Tour, tmp_path: Path) -> None:
    path = next((tour.folder / "rooms").glob("*.csv"))
    pl.read_csv(path).drop("occupancy").write_csv(tmp_path / "room.csv")
    with pytest.raises(AssertionError, match="expected the truth beside the readings"):
        tour(f"tocsin evaluate occupancy --data {tmp_path}")
