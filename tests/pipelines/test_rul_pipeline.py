"""The RUL pipeline over a fleet that wears out: what it remembers, columns, alerts at two levels."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from kafka.consumer.fetcher import ConsumerRecord

from tests.models.test_rul_context import INTERVALS, aware, timed
from tests.models.test_rul_model import small, table
from tests.models.test_rul_network import KINDS
from tocsin.models.rul.adapt import RECIPE, adapt
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import lives, read_csv_directory
from tocsin.models.rul.model import FD001, Parts, RulModel, load
from tocsin.models.rul.simulation import fleet
from tocsin.pipelines.rul import pipeline
from tocsin.pipelines.runtime.declare.context import Intervals
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import feeder

SHIPPED = Model(FD001, "rul/1", "cpu")


@cache
def _lives() -> pl.DataFrame:
    """Three engines from new to failure, with their cycles interleaved as on a topic."""
    return fleet.run_to_failure(engines=3, seed=5).sort("cycle", "unit")


@cache
def _judged() -> tuple[pl.DataFrame, list[Alert]]:
    return replay(pipeline({}, SHIPPED), _lives().to_arrow())


def test_every_reading_has_a_rul_in_its_interval_and_an_explanation() -> None:
    frame, _ = _judged()
    assert frame.select("unit", "cycle").equals(_lives().select("unit", "cycle"))
    assert frame["key"].to_list() == [str(u) for u in _lives()["unit"]]
    assert frame["model_version"].unique().to_list() == ["rul/1"]
    config = load(FD001, device="cpu").config
    assert frame["explanation"].list.len().unique().to_list() == [len(config.steps) * len(config.features)]
    assert frame["rul"].is_between(frame["rul_low"], frame["rul_high"]).all()
    assert frame["rul_low"].min() >= 0 and frame["rul_high"].max() <= 125
    assert frame["in_domain"].mean() > 0.95


def test_a_judgement_is_the_models_own_on_the_engines_whole_life() -> None:
    frame, _ = _judged()
    model = load(FD001, device="cpu")
    expected = model.judge(_lives())
    found = frame.sort("unit", "cycle")
    for column in ("rul", "rul_low", "rul_high"):
        np.testing.assert_allclose(found[column], expected[column], atol=5e-2)
    assert found["in_domain"].equals(expected["in_domain"])


def test_any_split_in_time_gives_the_same_table_and_alerts() -> None:
    whole, alerts = _judged()
    table = _lives().to_arrow()
    rng = np.random.default_rng(1)
    cuts = np.sort(rng.choice(len(table), 40, replace=False))
    split, others = replay(pipeline({}, SHIPPED), table, splits=np.diff([0, *cuts, len(table)]).tolist())
    assert whole.select("unit", "cycle", "offset", "in_domain").equals(
        split.select("unit", "cycle", "offset", "in_domain")
    )
    for column in ("rul", "rul_low", "rul_high"):
        np.testing.assert_allclose(whole[column], split[column], atol=1e-3)
    assert [a.id for a in alerts] == [a.id for a in others]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_judges_a_stream_as_it_judges_a_table(tmp_path: Path, kind: str) -> None:
    model = small(kind)
    model.save(tmp_path)
    frame, _ = replay(pipeline({}, Model(tmp_path, "rul/1", "cpu")), table().sort("cycle", "unit").to_arrow())
    expected = model.judge(table())
    found = frame.sort("unit", "cycle")
    for column in ("rul", "rul_low", "rul_high"):
        np.testing.assert_allclose(found[column], expected[column], atol=5e-2)
    assert found["in_domain"].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_counter_that_restarts_begins_a_new_life(tmp_path: Path, kind: str) -> None:
    model = small(kind)
    model.save(tmp_path)
    life = table(units=1)
    twice = pl.concat([life, life.with_columns(b=pl.col("b") + 1e-4)])
    frame, _ = replay(pipeline({"restart": 3}, Model(tmp_path, "rul/1", "cpu")), twice.to_arrow())
    assert len(frame) == 80
    np.testing.assert_allclose(frame["rul"][40:], model.judge(twice[40:])["rul"], atol=5e-2)


def test_readings_of_a_foreign_engine_are_named_and_ring() -> None:
    foreign = _lives().filter(unit=1).with_columns(setting1=pl.lit(35.0), s2=pl.col("s2") - 90)
    frame, alerts = replay(pipeline({}, SHIPPED), foreign.to_arrow())
    assert not frame["in_domain"].any()
    assert (frame["rul_low"] == 0).all() and (frame["rul_high"] == 125).all()
    (alert,) = [a for a in alerts if a.rule == "out_of_domain"]
    assert (alert.transition, alert.data["cycle"]) == ("raised", 5)


def test_an_engine_that_wears_out_rings_at_both_levels_and_each_alert_obeys_its_hysteresis() -> None:
    frame, alerts = _judged()
    rang = defaultdict(list)
    for a in alerts:
        rang[int(a.key), a.rule].append((a.transition, a.data["cycle"]))
        identity = {"topic", "partition", "offset", "row", "model_version"}
        assert set(a.data) == identity | {"unit", "cycle", "rul", "rul_low", "rul_high"}
        assert a.severity == a.rule
    config = load(FD001, device="cpu").config
    for unit in (1, 2, 3):
        for level, below in (("warning", config.warning), ("critical", config.critical)):
            firing, expected = False, []
            for cycle, rul in frame.filter(unit=unit).select("cycle", "rul").iter_rows():
                if not firing and rul < below:
                    firing = True
                    expected.append(("raised", cycle))
                elif firing and rul > below + 5:
                    firing = False
                    expected.append(("cleared", cycle))
            assert rang[unit, level] == expected
            assert expected[-1][0] == "raised"  # the alert is active at failure


def test_readings_out_of_order_or_repeated_do_not_enter_a_window() -> None:
    life = _lives().filter(unit=1).sort("cycle")
    disturbed = pl.concat([life[:40], life[10:20], life[39:40], life[40:]])
    frame, _ = replay(pipeline({}, SHIPPED), disturbed.to_arrow())
    calm, _ = replay(pipeline({}, SHIPPED), life.to_arrow())
    assert frame["cycle"].equals(calm["cycle"])
    np.testing.assert_allclose(frame["rul"], calm["rul"], atol=1e-3)


def test_eight_channels_of_a_pump_run_by_its_models_config_alone(tmp_path: Path) -> None:
    channels = tuple(f"vibration{i}" for i in range(8))
    config = RulConfig(key="pump", key_type="string", order="hour", features=channels, cap=50, warning=40, critical=10)
    RulModel(config, Parts(config), torch.device("cpu")).save(tmp_path)
    made = pipeline({"topic": "sensors.pumps", "name": "pumps"}, Model(tmp_path, "pumps/1", "cpu"))
    assert (made.name, made.topic, made.key, made.schema.names[:2]) == (
        "pumps",
        "sensors.pumps",
        "pump",
        ["pump", "hour"],
    )
    values = np.random.default_rng(0).normal(size=(20, 8))
    table = pa.table(
        {"pump": ["a", "b"] * 10, "hour": [i // 2 for i in range(20)]} | dict(zip(channels, values.T, strict=True))
    )
    frame, _ = replay(made, table)
    assert frame["pump"].to_list() == ["a", "b"] * 10
    assert frame["rul"].is_between(0, 50).all()


@pytest.mark.parametrize("format", ["json", "arrow"])
@pytest.mark.parametrize(("order_type", "hours"), [("int64", "{}.0"), ("int64", "{}"), ("float64", "{}.25")])
def test_what_trains_is_fed_and_judged_with_the_same_types(
    tmp_path: Path, format: str, order_type: str, hours: str
) -> None:
    config = RulConfig(key="pump", key_type="string", order="hour", order_type=order_type, features=("v1",))
    RulModel(config, Parts(config), torch.device("cpu")).save(tmp_path / "model")
    (tmp_path / "p.csv").write_text("pump,hour,v1\n" + "".join(f"7,{hours.format(h)},{h / 4}\n" for h in range(1, 9)))
    made = pipeline({"name": "pumps"}, Model(tmp_path / "model", "pumps/1", "cpu"))
    table = read_csv_directory(tmp_path, RulConfig.load(tmp_path / "model"))
    assert table.to_arrow().schema.types[1:] == made.schema.types[1:]
    batch = table.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks().to_batches()[0]
    encode = {"json": feeder._json, "arrow": feeder._arrow}[format]
    headers = [("content-type", feeder.CONTENT_TYPE[format])]
    records = [
        ConsumerRecord("t", 0, 0, i, 0, 0, key, value, headers, None, 0, 0, 0)
        for i, (key, value, *_) in enumerate(encode(batch, "pump", feeder._Route(1)))
    ]
    read, letters = Codec(topic="t", schema=made.schema).decode(records)
    assert letters == []
    frame, _ = replay(made, pa.Table.from_batches([read]))
    assert frame.select("pump", "hour").rows() == table.select("pump", "hour").rows()
    assert frame["rul"].is_finite().all()


def test_options_change_levels_and_steps() -> None:
    made = pipeline({"warning": 100, "critical": 99.5, "hysteresis": 1, "hold": 3}, SHIPPED)
    assert [r.hold for r in made.rules] == [3, 3, 5]
    _, alerts = replay(made, _lives().to_arrow())
    frame, _ = _judged()
    first = next(a for a in alerts if a.rule == "warning")
    low = frame.filter(unit=int(first.key))["rul"].to_numpy() < 100
    third = next(i for i in range(2, len(low)) if low[i - 2 : i + 1].all())
    assert first.data["cycle"] == 1 + third


def test_the_levels_may_apply_to_the_lower_end_of_the_interval() -> None:
    frame, alerts = replay(pipeline({"by": "rul_low"}, SHIPPED), _lives().to_arrow())
    _, usual = _judged()
    rang, later = (
        {(a.key, a.rule): a.data["cycle"] for a in reversed(each) if a.transition == "raised"}
        for each in (alerts, usual)
    )
    assert all(rang[place] <= cycle for place, cycle in later.items()) and rang != later
    first = frame.filter(unit=1).filter(pl.col("rul_low") < 50)["cycle"][0]
    assert rang["1", "warning"] == first
    foreign = _lives().filter(unit=1).with_columns(s2=pl.col("s2") - 90)
    _, alerts = replay(pipeline({"by": "rul_low"}, SHIPPED), foreign.to_arrow())
    assert {a.rule for a in alerts} == {"out_of_domain"}, "an interval that is everything is no warning"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": 3}, r"pipelines.rul: expected one of name, topic, .*, got levels; correct tocsin.toml"),
        ({"warning": 10, "critical": 20}, "expected critical <= warning, got 20 > 10"),
        ({"warning": "low"}, "rul.warning: expected a valid number, got 'low'"),
        ({"hysteresis": -5}, "rul.hysteresis: expected greater than or equal to 0, got -5"),
        ({"hold": "2 rows"}, "rul.hold: expected a valid integer, got '2 rows'"),
        ({"hold": 0}, "rul.hold: expected greater than or equal to 1, got 0"),
        ({"by": "rul_high"}, "rul.by: expected 'rul' or 'rul_low', got 'rul_high'"),
        ({"name": "rul/eu"}, "expected a name of letters"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        pipeline(options, SHIPPED)
    assert "\n" not in str(refused.value)


def _model(folder: Path, *, config: str | None = None, weights: bytes | None = None) -> Model:
    """The shipped model with one file replaced."""
    folder.joinpath("config.json").write_text(config or (FD001 / "config.json").read_text())
    folder.joinpath("model.safetensors").write_bytes(
        (FD001 / "model.safetensors").read_bytes() if weights is None else weights
    )
    return Model(folder, "rul/7", "cpu")


def test_a_model_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    wider = json.loads((FD001 / "config.json").read_text())
    wider["network"]["hidden"][0] *= 2
    broken: list[Model | None] = [None, Model(tmp_path / "nowhere", "rul/7", "cpu")]
    for i, files in enumerate([{"config": "{}"}, {"config": json.dumps(wider)}, {"weights": b"cut short"}]):
        (tmp_path / str(i)).mkdir()
        broken.append(_model(tmp_path / str(i), **files))  # type: ignore[arg-type]
    for model in broken:
        with pytest.raises(
            ModelError, match=r"expected (a model, got none|config.json and matching weights)"
        ) as refused:
            pipeline({}, model)
        assert "\n" not in str(refused.value)


def test_it_is_declared_without_looking_at_data() -> None:
    made = pipeline({}, SHIPPED)
    assert isinstance(made, Pipeline)
    assert all(not f.nullable for f in made.schema)
    assert made.schema.names[:2] == ["unit", "cycle"]


def test_rows_are_judged_by_the_adapter_of_their_site(tmp_path: Path) -> None:
    known = lives(fleet.run_to_failure(engines=1, seed=3).with_columns(pl.col("s4") + 25), load(FD001, "cpu").config)
    recipe = replace(RECIPE, epochs=2, steps=5, batch=128)
    adapt(load(FD001, "cpu"), "2", known, recipe=recipe).model.save(tmp_path)
    adapted = Model(tmp_path, "rul/2", "cpu")
    frame = replay(pipeline({}, adapted), _lives().to_arrow())[0].sort("unit", "cycle")
    plain = _judged()[0].sort("unit", "cycle")
    assert frame.filter(pl.col("unit") == 2)["adapter"].unique().to_list() == ["2"]
    assert frame.filter(pl.col("unit") != 2)["adapter"].null_count() == frame.filter(pl.col("unit") != 2).height
    off = (frame["rul"] - plain["rul"]).abs()
    assert off.filter(frame["unit"] != 2).max() < 1e-3 < off.filter(frame["unit"] == 2).max()  # type: ignore[operator]
    nothing = replay(pipeline({"site": "^(x)"}, adapted), _lives().to_arrow())[0]
    assert nothing["adapter"].null_count() == nothing.height
    with pytest.raises(ConfigError, match="expected one group"):
        pipeline({"site": "x"}, adapted)
    Machine(pipeline({}, SHIPPED)).check(pipeline({}, adapted))  # a running shard may take it up


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_context_judges_a_stream_as_it_judges_a_table(tmp_path: Path, kind: str) -> None:
    model = aware(kind)
    model.save(tmp_path)
    readings = timed().sort("cycle", "unit")
    known = Intervals(INTERVALS.select("asset", "kind", "from", "to", "power"))
    declared = pipeline({"period": "1min"}, Model(tmp_path, "rul/1", "cpu"))
    assert declared.context is not None
    assert [*declared.context.kinds] == ["maintenance", "wash", "load"] and [*declared.context.numbers] == ["power"]
    stamped = readings.with_columns(_timestamp=pl.from_epoch("time", "ms").dt.replace_time_zone("UTC")).drop("time")
    expected = model.predict(lives(timed(), model.config, intervals=INTERVALS))
    unaware = model.predict(lives(timed(), model.config))
    for intervals, told in ((known, expected), (Intervals(), unaware)):
        frame, _ = replay(replace(declared, intervals=intervals), stamped.to_arrow())
        for column in ("rul", "rul_low", "rul_high"):
            np.testing.assert_allclose(frame.sort("unit", "cycle")[column], told[column], atol=5e-2)
    assert (expected["rul"] - unaware["rul"]).abs().max() > 0.1


def test_no_level_rings_during_maintenance() -> None:
    frame, alerts = _judged()
    (first,) = [a for a in alerts if a.rule == "warning" and a.transition == "raised" and a.key == "1"]
    begin, end = first.time, first.time + timedelta(seconds=10)
    record = {"asset": "1", "kind": "maintenance", "from": begin, "to": end, "id": None}
    schema = {
        "asset": pl.String,
        "kind": pl.String,
        **dict.fromkeys(("from", "to"), pl.Datetime("us", "UTC")),
        "id": pl.String,
    }
    known = Intervals.of(pl.DataFrame([record], schema))
    rows, later = replay(replace(pipeline({}, SHIPPED), intervals=known), _lives().to_arrow())
    (moved,) = [a for a in later if a.rule == "warning" and a.transition == "raised" and a.key == "1"]
    assert moved.time >= end
    assert [a for a in later if a.key != "1"] == [a for a in alerts if a.key != "1"]
    assert rows.filter(pl.col("maintenance"))["unit"].unique().to_list() == [1]
    assert frame["maintenance"].null_count() == frame.height
