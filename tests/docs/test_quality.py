"""The page on trust in sensors: its settings make pipelines, its commands run, its query finds what was wrong."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.lakes import land
from tests.support.tour import Tour, blocks
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.quality.domain import as_table
from tocsin.models.quality.faults import REASONS, Faults
from tocsin.models.quality.model import PLANTS, load
from tocsin.models.quality.simulation.plant import plants
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines import occupancy, rul
from tocsin.pipelines.quality import QualityOptions, pipeline
from tocsin.pipelines.runtime import Model, replay
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "quality.md"
SHIPPED = Model(PLANTS, "plants", "cpu")


def settings(number: int) -> str:
    return [text for kind, text in blocks(PAGE) if kind == "toml"][number]


def test_the_options_of_the_page_are_the_defaults_and_watch_its_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tomllib.loads(settings(0))["pipelines"]["quality"]
    fields = QualityOptions.model_fields
    assert {**given, "columns": tuple(given["columns"])} == {
        name: fields[name].default for name in fields if name not in ("name", "topic", "level", "relearn")
    }
    (tmp_path / "tocsin.toml").write_text("\n".join(settings(number) for number in range(3)))
    monkeypatch.chdir(tmp_path)
    read = Settings.load()
    assert [r.name for r in pipeline(read.pipeline("quality").options, SHIPPED).rules] == [
        "bad_sensor",
        "silent_sensor",
    ]
    engines = read.pipeline("engines")
    made = pipeline({"name": "engines", **engines.options}, SHIPPED)
    assert (made.name, made.topic, made.key) == ("engines", "sensors.industrial", "unit")
    assert "quality" in rul.pipeline(read.pipeline("rul").options, Model(FD001, "fd001", "cpu")).results.names
    rooms = occupancy.pipeline(read.pipeline("occupancy").options, Model(OFFICES, "offices", "cpu"))
    assert {"quality", "reason", "channel"} <= {*rooms.results.names}


def test_the_page_has_every_fault_with_the_size_that_the_shipped_model_was_trained_on() -> None:
    text, sizes = PAGE.read_text(), load(PLANTS, "cpu").config.faults
    assert all(f"`{reason}`" in text for reason in REASONS)
    assert sizes == Faults()
    assert f"off by {sizes.spike[0]:g} to {sizes.spike[1]:g}" in text
    assert f"{sizes.drift[0]:g} to {sizes.drift[1]:g} at the end" in text
    assert f"{sizes.clock[0]:g} to {sizes.clock[1]:g} intervals" in text
    assert f"{load(PLANTS, 'cpu').parameters:,}" in text


def test_the_query_of_the_page_says_what_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rul.pipeline({"quality": True}, Model(FD001, "fd001", "cpu"))
    table = run_to_failure(engines=2, seed=1).sort("cycle", "unit")
    stuck = (pl.col("unit") == 1) & pl.col("cycle").is_between(110, 150)
    table = table.with_columns(pl.when(stuck).then(9000.0).otherwise("s9").alias("s9"))
    land(tmp_path / "lake", made, *replay(made, table.select(made.schema.names).to_arrow().cast(made.schema)))
    monkeypatch.chdir(tmp_path)
    (text,) = [text for kind, text in blocks(PAGE) if kind == "python"]
    *lines, query = text.strip().splitlines()
    exec("\n".join([*lines, f"found = {query.split('  #')[0]}"]), scope := dict[str, object]())
    found = scope["found"].lazy().collect().sort("len", descending=True)  # type: ignore[attr-defined]
    assert (found["key"][0], found["channel"][0]) == ("1", "s9") and found["len"][0] > 20


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "127.0.0.1:1")
    for number, name in enumerate(("boiler", "pumps")):
        (tmp_path / name).mkdir()
        as_table(plants(3, seed=number)[1:2]).write_csv(tmp_path / name / "readings.csv")
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate"]
    trained = json.loads(tour(f"{commands[0]} --steps 20 --plants 3 --json"))
    assert trained["version"] == "1" and {tried["seed"] for tried in trained["seeds"]} == {0, 1}
    shipped, own = (json.loads(tour(f"{command} --json")) for command in commands[1:3])
    assert shipped["model"] == "shipped plants" and own["model"] == "quality@champion"
    for said in (shipped, own):
        assert set(said["baselines"]) >= {"z-score", "flat line", "range"} and 0 <= said["figures"]["auroc"] <= 1
