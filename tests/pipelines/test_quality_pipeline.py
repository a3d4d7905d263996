"""The quality pipeline: each fault is found, clean readings are trusted, any topic by settings alone; the option of others."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.model import PLANTS
from tocsin.models.quality.simulation.faulty import CHANNELS, Fault, readings
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation import fleet
from tocsin.pipelines import occupancy, rul
from tocsin.pipelines.quality import pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay

SHIPPED = Model(PLANTS, "plants", "cpu")
ENGINES, ROOMS = Model(FD001, "fd001", "cpu"), Model(OFFICES, "offices", "cpu")
SEED, ROWS = 17, 1200


@cache
def plant(*, faults: bool = True) -> tuple[pl.DataFrame, list[Fault]]:
    return readings(8, ROWS, seed=SEED, faults=faults)


def run(frame: pl.DataFrame, made: Pipeline, splits: list[int] | None = None) -> tuple[pl.DataFrame, list[Alert]]:
    return replay(made, frame.select(made.schema.names).to_arrow().cast(made.schema), splits=splits)


@cache
def judged(*, faults: bool = True) -> tuple[pl.DataFrame, list[Alert]]:
    return run(plant(faults=faults)[0], pipeline({"silent": "9999d"}, SHIPPED))


def _while(frame: pl.DataFrame, fault: Fault) -> pl.DataFrame:
    """The verdicts on windows that hold a fault."""
    own = frame.filter(pl.col("asset") == fault.asset)
    # A verdict every eight readings, from reading 72 on.
    return own.with_columns(at=71 + 8 * pl.int_range(pl.len())).filter(
        pl.col("at").is_between(fault.first + 8, fault.last + 8)
    )


def _before(frame: pl.DataFrame, fault: Fault) -> pl.DataFrame:
    """The verdicts on the 300 readings before a fault."""
    own = frame.filter(pl.col("asset") == fault.asset).with_columns(at=71 + 8 * pl.int_range(pl.len()))
    return own.filter(pl.col("at").is_between(fault.first - 300, fault.first - 1))


def test_each_fault_is_found_and_most_by_their_reason_and_channel() -> None:
    frame, faults = judged()[0], plant()[1]
    assert [fault.reason for fault in faults] == list(REASONS)
    named, right = 0, 0
    for fault in faults:
        part = _while(frame, fault)
        worst = part.sort("quality").row(0, named=True)
        usual = _before(frame, fault)["quality"].median()
        assert worst["quality"] < 0.05 and usual > 0.5, fault  # type: ignore[operator]
        named += worst["reason"] == fault.reason
        right += worst["channel"] in (fault.channels or (None,))
    assert named >= 6 and right >= 6


def test_clean_readings_are_trusted_and_nothing_is_judged_before_a_key_is_known() -> None:
    frame, _ = judged(faults=False)
    assert frame.group_by("asset").len()["len"].to_list() == [(ROWS - 64) // 8] * 8
    assert frame["quality"].median() > 0.8 and (frame["quality"] < 0.05).mean() < 0.05  # type: ignore[operator]
    bad = frame["reason"].is_not_null()
    assert frame.filter(~bad)["channel"].is_null().all()


def test_an_alert_says_which_channel_and_why_and_ends_when_the_sensor_is_good_again() -> None:
    frame, alerts = judged()
    assert {alert.rule for alert in alerts} == {"bad_sensor"}
    (dropped,) = [fault for fault in plant()[1] if fault.reason == "drop-out"]
    mine = [alert for alert in alerts if alert.key == dropped.asset]
    said = [alert for alert in mine if alert.transition == "raised" and alert.data["reason"] == "drop-out"]
    assert said and said[0].data["channel"] in dropped.channels and said[0].data["quality"] < 0.2
    assert any(alert.transition == "cleared" and alert.time >= said[0].time for alert in mine)
    assert frame["silent"].not_().all()


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_any_split_into_steps_gives_the_same_rows_and_alerts(data: st.DataObject) -> None:
    frame = plant()[0].head(4000)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(frame) - 1), max_size=6)))
    made = pipeline({"silent": "9999d"}, SHIPPED)
    whole, alerts = run(frame, made, [len(frame)])
    parts, rang = run(frame, made, np.diff([0, *cuts, len(frame)]).tolist())
    order = ["asset", "offset"]
    both = (f.drop("processed_at").sort(order) for f in (whole, parts))
    assert_frame_equal(*both, abs_tol=1e-3)
    assert sorted((a.key, a.transition, str(a.data["time"])) for a in rang) == sorted(
        (a.key, a.transition, str(a.data["time"])) for a in alerts
    )


def test_another_topic_is_watched_by_settings_alone() -> None:
    lives = fleet.run_to_failure(engines=3, seed=5).drop("rul").sort("cycle", "unit")
    names = ("s2", "s3", "s4", "s7", "s11")
    stuck = pl.col("cycle").is_between(100, 140) & (pl.col("unit") == 2)
    lives = lives.with_columns(pl.when(stuck).then(553.9).otherwise("s7").alias("s7"))
    options = {
        "name": "engines",
        "topic": "sensors.industrial",
        "key": "unit",
        "key_type": "int64",
        "time": "cycle",
        "time_type": "number",
        "columns": list(names),
        "silent": "9999d",
    }
    made = pipeline(options, SHIPPED)
    assert (made.topic, made.key, made.event_time) == ("sensors.industrial", "unit", None)
    frame, _ = run(lives.select("unit", pl.col("cycle").cast(pl.Float64), *names), made)
    found = frame.filter((pl.col("unit") == 2) & pl.col("cycle").is_between(112, 140))
    worst = found.sort("quality").row(0, named=True)
    assert worst["quality"] < 0.2 and (worst["reason"], worst["channel"]) == ("stuck", "s7")


def test_readings_without_a_time_are_judged_and_a_silent_asset_rings() -> None:
    made = pipeline({"time": "", "columns": ["s1", "s2"], "silent": "1h"}, SHIPPED)
    table = plant(faults=False)[0].filter(pl.col("asset").is_in(["plant-00", "plant-01"]))
    gone = table.filter((pl.col("asset") == "plant-00") | (pl.int_range(pl.len()) < 600))
    arrived = gone["time"].to_arrow().cast(pa.timestamp("ms", tz="UTC"))
    rows = gone.select("asset", "s1", "s2").to_arrow().cast(made.schema).append_column("_timestamp", arrived)
    frame, alerts = replay(made, rows)
    assert "time" not in frame.columns and frame["quality"].is_not_null().any()
    assert [a.key for a in alerts if a.rule == "silent_sensor" and a.transition == "raised"] == ["plant-01"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"columns": ["s1", "s1"]}, "expected fields with names of their own, .* got 's1' twice"),
        ({"columns": ["quality"]}, "got 'quality' twice"),
        ({"columns": []}, "pipelines.quality.columns: expected"),
        ({"stride": 5}, "pipelines.quality.stride: expected"),
        ({"relearn": 8}, "pipelines.quality.relearn: expected"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        pipeline(options, SHIPPED)


def test_without_a_model_there_is_no_pipeline() -> None:
    with pytest.raises(ModelError, match=r"pipelines.quality: expected a model, got none"):
        pipeline({}, None)


@cache
def lives(*, noisy: bool) -> pl.DataFrame:
    """Two engines to failure; `noisy`: a sensor of unit 1 drops out and another one is stuck for the last 60 cycles."""
    table = fleet.run_to_failure(engines=2, seed=5).drop("rul").sort("cycle", "unit")
    if not noisy:
        return table
    last = table.filter(pl.col("unit") == 1)["cycle"].max()
    off = (pl.col("unit") == 1) & (pl.col("cycle") > last - 60)
    return table.with_columns(pl.when(off).then(641.0).otherwise("s2").alias("s2"))


def test_rul_rows_say_whether_their_sensors_can_be_trusted_and_a_level_holds_alerts_back() -> None:
    plain, _ = run(lives(noisy=False), rul.pipeline({}, ENGINES))
    frame, alerts = run(lives(noisy=False), rul.pipeline({"quality": True, "hold_below": 0.05}, ENGINES))
    assert_frame_equal(frame.select(plain.drop("processed_at").columns), plain.drop("processed_at"), abs_tol=1e-3)
    early = frame["cycle"] < 72
    assert frame.filter(early)["quality"].is_null().all() and frame.filter(~early)["quality"].is_not_null().all()
    assert {a.rule for a in alerts if a.key == "1"} >= {"warning", "critical"}
    bad, rang = run(lives(noisy=True), rul.pipeline({"quality": True, "hold_below": 0.5}, ENGINES))
    late = bad.filter((pl.col("unit") == 1) & (pl.col("cycle") > pl.col("cycle").max().over("unit") - 40))
    assert (late["quality"] < 0.5).mean() > 0.9 and (late["channel"] == "s2").mean() > 0.8  # type: ignore[operator]
    held = [a for a in rang if a.key == "1" and a.transition == "raised" and a.rule in ("warning", "critical")]
    first = late["cycle"].min()
    assert not [a for a in held if a.data["cycle"] > first]  # type: ignore[operator]


def test_occupancy_rows_say_it_too() -> None:
    table = occupancy.readings(recorded("sim", rooms=2, days=1, seed=1))
    plain, _ = replay(occupancy.pipeline({}, ROOMS), table)
    frame, _ = replay(occupancy.pipeline({"quality": True, "hold_below": 0.1}, ROOMS), table)
    assert_frame_equal(frame.select(plain.drop("processed_at").columns), plain.drop("processed_at"), abs_tol=1e-3)
    assert frame["quality"].is_not_null().mean() > 0.9 and (frame["quality"] > 0.5).mean() > 0.7  # type: ignore[operator]


@pytest.mark.parametrize(("module", "model"), [(rul, ENGINES), (occupancy, ROOMS)])
def test_alerts_cannot_wait_for_a_quality_that_is_not_judged(module: Any, model: Model) -> None:
    with pytest.raises(ConfigError, match=r"hold_below: expected quality = true beside it, got false"):
        module.pipeline({"hold_below": 0.2}, model)


def test_an_option_of_a_running_pipeline_may_add_the_stage() -> None:
    from tocsin.pipelines.runtime.declare.stage import state_names
    from tocsin.pipelines.runtime.engine.machine import Machine

    without, with_ = (rul.pipeline(options, ENGINES) for options in ({}, {"quality": True}))
    added = [name for name in state_names(with_.stages) if name not in state_names(without.stages)]
    assert added == ["Quality-32x17"]
    assert Machine(without).signature == Machine(with_).signature
    assert len(CHANNELS) == 8
