"""The page on sensor fields, followed as a reader would, in a folder with the readings of a hall."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.lakes import land
from tests.support.tour import Tour, blocks
from tocsin.models.field.model import HALLS
from tocsin.models.field.simulation.feed import simulate, usual_halls
from tocsin.models.vision.picture import decode
from tocsin.pipelines.field import READING, FieldOptions, pipeline
from tocsin.pipelines.runtime import Model, replay
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "field.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    tour, hall = Tour(tmp_path_factory.mktemp("field"), "127.0.0.1:1"), usual_halls()[1]
    (folder := tour.folder / "hall").mkdir()
    plan = [f'[{hall.name}]\nkind = "{hall.kind}"\noutline = {hall.outline.tolist()}', f"walls = {hall.walls.tolist()}"]
    plan += [f"[{hall.name}.sensors]", *(f"{name} = {[*at]}" for name, at in hall.sensors.items())]
    (folder / "halls.toml").write_text("\n".join(plan))
    table = simulate(hall, minutes=10, seed=3)
    table.with_columns(pl.from_epoch("time", "ms").dt.to_string("iso:strict")).write_csv(folder / "readings.csv")
    return tour


def commands() -> list[str]:
    return [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]


@pytest.mark.slow
def test_every_command_of_the_page_runs(tour: Tour) -> None:
    assert [line.split()[1] for line in commands()] == ["train", "evaluate", "evaluate", "train"]
    trained = json.loads(tour(f"{commands()[0]} --steps 5 --halls 6 --json"))
    assert trained["version"] == "1" and {tried["seed"] for tried in trained["seeds"]} == {0, 1, 2}
    shipped = json.loads(tour(f"{commands()[1]} --halls 6 --json"))
    assert set(shipped["parts"]["sensors"]) == {"6 sensors", "12 sensors", "24 sensors"}
    assert shipped["figures"]["rmse_signal"] > 0 and shipped["baselines"]["inverse distance"]["ratio"] == 1
    own = json.loads(tour(f"{commands()[3]} --steps 5 --halls 4 --json"))
    assert own["name"] == "own" and own["seeds"][0]["validation_error"] > 0


def test_a_hall_is_judged_by_hidden_sensors(tour: Tour) -> None:
    said = json.loads(tour(f"{commands()[2]} --json"))
    assert said["counted"] == {"places": 30, "fields": 10, "fields of signal": 0, "fields of temperature": 10}
    assert 0 < said["figures"]["rmse_temperature"] < 15 and said["figures"]["rmse_signal"] is None
    assert list(said["baselines"]) == [
        "inverse distance",
        "inverse distance around walls",
        "nearest sensor",
        "gaussian process",
    ]


def test_the_options_of_the_page_are_the_defaults_and_make_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    given = tomllib.loads(text)["pipelines"]["field"]
    halls = given.pop("halls")
    fields = FieldOptions.model_fields
    assert given == {name: fields[name].default for name in fields if name not in ("name", "topic", "halls")}
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    made = pipeline(Settings.load().pipeline("field").options, Model(HALLS, "halls", "cpu"))
    assert [rule.name for rule in made.rules] == ["above", "below", "missing_sensor", "silent_sensor"]
    assert [*halls] == ["press-shop"] and len(halls["press-shop"]["sensors"]) == 5


def test_the_example_writes_the_last_picture(tmp_path: Path) -> None:
    made = pipeline({}, Model(HALLS, "halls", "cpu"))
    table = simulate(usual_halls()[1], minutes=2, seed=0).with_columns(pl.from_epoch("time", "ms"))
    rows, alerts = replay(made, table.select(READING.names).to_arrow().cast(READING), after="20min")
    assert rows.filter("silent").height == 1
    land(tmp_path / "lake", made, rows, alerts)
    ((_, example),) = [block for block in blocks(PAGE) if block[0] == "python"]
    (tmp_path / "last_map.py").write_text(example)
    said, last = Tour(tmp_path, "")("python last_map.py"), rows.drop_nulls("png").sort("event_time").row(-1, named=True)
    assert (tmp_path / "sim-001.png").read_bytes() == last["png"] and decode(last["png"]).shape[2] == 3
    assert said == f"{last['highest']:.1f} °C at {last['highest_x']:.1f}, {last['highest_y']:.1f} m\n"
