"""The occupancy pipeline: one row per room and minute for any order and split; alerts for people, air and sensors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.models.adapters import Sites
from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.model import OFFICES, OccupancyModel, load
from tocsin.models.occupancy.simulation.sensors import Line, simulate
from tocsin.operators.lora import Adapters
from tocsin.pipelines.occupancy import READING, RELEASE, minutes, pipeline, readings
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay

SHIPPED = Model(OFFICES, "offices", "cpu")
MINUTE = 60_000
MONDAY = 1_767_571_200_000


@cache
def _readings() -> pl.DataFrame:
    """Readings of two rooms on a Monday from 6:00 to 12:00, in order; one a minute of each property."""
    events = simulate(rooms=2, days=1, seed=3, line=Line(repeated=0, delayed=0))[0]
    part = events.filter(pl.col("time").is_between(MONDAY + 6 * 60 * MINUTE, MONDAY + 12 * 60 * MINUTE)).sort("time")
    return part.select("room", "property", "time", "value")


def table(frame: pl.DataFrame) -> pa.Table:
    return frame.select("room", "property", pl.from_epoch("time", "ms"), "value").to_arrow().cast(READING)


def run(frame: pl.DataFrame, **options: Any) -> tuple[pl.DataFrame, list[Alert]]:
    splits = options.pop("splits", None)
    return replay(pipeline(options, SHIPPED), table(frame), splits=splits)


def sorted_rows(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col("silent")).drop("processed_at").sort("room", "event_time")


@cache
def _judged() -> pl.DataFrame:
    return sorted_rows(run(_readings())[0])


def constant(co2: list[float], room: str = "a", start: int = MONDAY) -> pl.DataFrame:
    """One reading of CO2 a minute, with a constant temperature beside it."""
    times = [start + n * MINUTE for n in range(len(co2))]
    parts = [pl.DataFrame({"room": room, "property": p, "time": times, "value": v})
             for p, v in (("co2", co2), ("temperature", [21.0] * len(co2)))]  # fmt: skip
    return pl.concat(parts).sort("time")


def test_a_row_a_room_and_minute_from_the_sixtieth_on() -> None:
    for _, room in _judged().partition_by("room", as_dict=True).items():
        times = room["event_time"].dt.epoch("ms")
        assert (times.diff().drop_nulls() == MINUTE).all()
        # Six hours, less one for the window and the minutes that may still get readings.
        assert 280 < len(room) < 300
    assert _judged()["probability"].is_between(0, 1).all()
    attention = np.array(_judged()["attention"].to_list())
    assert attention.sum(1) == pytest.approx(1, abs=1e-4)
    assert _judged()["co2"].is_between(350, 3000).all() and (_judged()["co2_age"] < 900).mean() > 0.95


def test_a_judgement_is_the_models_own_on_the_last_sixty_minutes() -> None:
    seen = minutes(recorded_of(_readings()))
    model = load(OFFICES, device="cpu")
    for room in ("room-000", "room-001"):
        features = seen.filter(room=room).sort("time")
        window = torch.tensor(features.select(model.config.features).to_numpy()[100 - 60 : 100], dtype=torch.float32)
        expected = model(window[None])["probability"].item()
        time = pl.from_epoch(pl.lit(features["time"][99]), "ms").dt.replace_time_zone("UTC")
        row = _judged().filter(pl.col("room") == room, pl.col("event_time") == time)
        assert row["probability"].item() == pytest.approx(expected, abs=1e-5)


def recorded_of(frame: pl.DataFrame) -> Any:
    from tocsin.models.occupancy.data import Recording

    return Recording(frame, pl.DataFrame(), "UTC")


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_any_split_and_any_order_within_the_lateness_give_the_same_table(data: st.DataObject) -> None:
    frame = _readings()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    moved = frame.with_columns(at=pl.col("time") + pl.Series(rng.integers(0, 4 * MINUTE, len(frame))))
    again = moved.filter(pl.Series(rng.random(len(frame)) < 0.1)).with_columns(pl.col("at") + 1000)
    shuffled = pl.concat([moved, again]).sort("at", maintain_order=True).drop("at")
    cuts = sorted(data.draw(st.lists(st.integers(1, len(shuffled) - 1), max_size=8, unique=True)))
    found = sorted_rows(run(shuffled, splits=np.diff([0, *cuts, len(shuffled)]).tolist())[0])
    wanted = _judged().join(found.select("room", "event_time"), on=["room", "event_time"], how="semi")
    assert len(found) >= len(_judged()) - 10  # the last minutes may still wait for the watermark
    values = ["probability", "co2", "temperature", "co2_usual", "still"]
    assert found.select("room", "event_time").equals(wanted.select("room", "event_time"))
    np.testing.assert_allclose(found.select(values).to_numpy(), wanted.select(values).to_numpy(), atol=1e-4, rtol=1e-4)


def test_a_room_stays_occupied_until_it_is_clearly_empty() -> None:
    threshold = load(OFFICES).config.threshold
    for _, room in _judged().partition_by("room", as_dict=True).items():
        state = False
        for p, told in zip(room["probability"], room["occupied"], strict=True):
            state = p >= threshold or (state and p >= RELEASE * threshold)
            assert told == state
    assert _judged()["occupied"].any() and not _judged()["occupied"].all()


def test_people_outside_the_schedule_ring_once_and_its_end_clears() -> None:
    first = _judged().filter("occupied")["room"][0]
    _, alerts = run(_readings(), hours="00:00-00:01")
    rung = [a for a in alerts if a.rule == "unexpected" and a.key == first]
    assert rung and [a.transition for a in rung] == (["raised", "cleared"] * len(rung))[: len(rung)]
    assert rung[0].data["probability"] >= load(OFFICES).config.threshold * RELEASE
    _, calm = run(_readings(), hours="00:00-24:00", days="mon-sun")
    assert not [a for a in calm if a.rule == "unexpected"]
    own = {"rooms": {first: {"hours": "00:00-24:00"}}}
    _, others = run(_readings(), hours="00:00-00:01", **own)
    assert first not in {a.key for a in others if a.rule == "unexpected"}


def test_the_schedule_is_in_the_rooms_time_zone() -> None:
    # The first row is one hour after the first reading.
    noon = constant([500.0 + n % 3 for n in range(90)], start=MONDAY + 18 * 60 * MINUTE)
    assert run(noon)[0].filter(~pl.col("silent"))["scheduled"].to_list()[0] is False  # 19:00 UTC
    early = constant([500.0 + n % 3 for n in range(90)], start=MONDAY + 5 * 60 * MINUTE)
    assert run(early)[0].filter(~pl.col("silent"))["scheduled"].to_list()[0] is False  # 6:00 UTC
    amsterdam = run(early, timezone="Europe/Amsterdam")[0].filter(~pl.col("silent"))
    assert amsterdam["scheduled"].to_list()[0] is True  # 7:00 in Amsterdam


def test_air_that_is_stale_rings_while_people_are_in_it() -> None:
    calm = [430.0 + n % 3 for n in range(9 * 60)]
    filled = [430 + 12.0 * n for n in range(80)]
    frame, alerts = run(constant(calm + filled))
    stale = [a for a in alerts if a.rule == "stale_air"]
    assert [a.transition for a in stale] == ["raised"]
    assert stale[0].data["co2"] > 1200
    assert frame.filter(pl.col("co2") < 1200)["occupied"].any()


def test_a_sensor_that_is_stuck_rings_once() -> None:
    _, alerts = run(constant([430.0] * 150), stuck=100)
    assert [(a.rule, a.transition) for a in alerts] == [("stuck_sensor", "raised")]
    _, alerts = run(constant([430.0 + n % 2 for n in range(150)]), stuck=100)
    assert alerts == []


@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (9 / 5, 32)])
def test_a_room_in_fahrenheit_is_out_of_domain_at_once_and_rings(factor: float, offset: float) -> None:
    room = constant([430.0 + n % 3 for n in range(90)])
    warm = pl.col("property") == "temperature"
    frame, alerts = run(
        room.with_columns(value=pl.when(warm).then(pl.col("value") * factor + offset).otherwise("value"))
    )
    rows = frame.filter(~pl.col("silent"))
    foreign = factor != 1
    assert rows["in_domain"].to_list() == [not foreign] * rows.height
    rung = [a for a in alerts if a.rule == "out_of_domain"]
    assert [a.transition for a in rung] == ["raised"] * foreign
    if foreign:
        assert rung[0].data["temperature"] > 60


def test_a_room_without_co2_is_out_of_domain() -> None:
    warm = constant([430.0] * 90).filter(pl.col("property") == "temperature")
    rows = run(warm)[0].filter(~pl.col("silent"))
    assert rows.height > 20 and not rows["in_domain"].any()


def test_a_room_whose_co2_sensor_stops_is_out_of_domain_an_hour_later() -> None:
    room, gone = constant([430.0 + n % 3 for n in range(200)]), pl.col("time") > MONDAY + 90 * MINUTE
    rows = run(room.filter(~gone | (pl.col("property") != "co2")))[0].filter(~pl.col("silent"))
    age = rows["co2_age"]
    assert rows["in_domain"].to_list() == (age <= 3600).to_list() and age.max() > 4000 > 3600 > age.min()


def test_a_room_has_its_own_threshold() -> None:
    def occupied(**options: Any) -> dict[str, float]:
        rows = sorted_rows(run(_readings(), **options)[0])
        return dict(rows.group_by("room").agg(pl.col("occupied").mean()).rows())

    usual, never = occupied(), occupied(threshold=0.999)
    first, second = sorted(usual)
    assert max(usual.values()) > 0 and never == {first: 0, second: 0}
    own = occupied(threshold=0.999, rooms={first: {"threshold": 0.001}})
    assert own == {first: 1, second: 0}


def test_a_silent_property_or_room_does_not_hold_the_others_and_a_silent_room_rings_once() -> None:
    a, b = constant([430.0 + n % 3 for n in range(180)]), constant([440.0 + n % 3 for n in range(70)], room="b")
    warm = pl.col("property") == "temperature"
    a = a.filter(~warm | (pl.col("time") < MONDAY + 80 * MINUTE))
    both = pl.concat([a, b]).sort("time")
    frame, alerts = run(both, splits=[10] * (len(both) // 10))
    rows = frame.filter(~pl.col("silent"))
    assert rows.filter(room="a").height == 179 - 5 - 59
    assert rows.filter(room="a")["temperature_age"][-1] > 90 * 60
    assert rows.filter(room="b").height == 70 - 59
    assert [(x.key, x.rule, x.transition) for x in alerts] == [("b", "silent_sensor", "raised")]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"level": 3}, "pipelines.occupancy: expected one of name, topic, "),
        (
            {"timezone": "Mars/Olympus"},
            "pipelines.occupancy.timezone: expected a time zone such as Europe/Amsterdam, got 'Mars/Olympus'",
        ),
        ({"days": "mon-fry"}, "expected days such as mon-fri, got 'mon-fry'"),
        (
            {"hours": "nine to five"},
            "pipelines.occupancy.hours: expected hours of one day such as 07:00-19:00, got 'nine to five'",
        ),
        ({"hours": "19:00-07:00"}, "expected hours of one day such as 07:00-19:00, got '19:00-07:00'"),
        (
            {"rooms": {"a": {"light": 3}}},
            "pipelines.occupancy.rooms.a: expected one of days, hours, threshold, got light",
        ),
        ({"rooms": {"a": {"threshold": 2}}}, "pipelines.occupancy.rooms.a.threshold: expected"),
        ({"co2": "high"}, "pipelines.occupancy.co2: expected a valid number, got 'high'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pipeline(options, SHIPPED)
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_a_model_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="got none"):
        pipeline({}, None)
    with pytest.raises(ModelError, match="tocsin train occupancy"):
        pipeline({}, Model(tmp_path, "x", "cpu"))


def test_days_are_read_as_people_write_them() -> None:
    from tocsin.pipelines.parts.schedules import days_of

    assert days_of("mon-fri") == {0, 1, 2, 3, 4}
    assert days_of("Sat, sun") == {5, 6}
    assert days_of("fri-mon") == {4, 5, 6, 0}


def test_a_simulated_building_is_a_recording_like_any_other() -> None:
    recording = recorded("sim", rooms=1, seed=0)
    assert recording.rooms == ["room-000"] and recording.events["time"].is_sorted()
    assert readings(recording).schema.equals(READING)


def test_rows_are_judged_by_the_adapter_of_their_room_or_of_its_building(tmp_path: Path) -> None:
    shared = load(OFFICES, "cpu")
    adapters = Adapters(shared.network, ["patches.bias", "head.1.bias"]).requires_grad_(False)
    adapters.values["head/1/bias|offset"].fill_(1.5)
    for site, pattern in (("room-001", ""), ("room", "^(.*)-001")):
        OccupancyModel(shared.config, shared.network, shared.device, Sites((site,), adapters)).save(tmp_path)
        adapted = Model(tmp_path, "occupancy/2", "cpu")
        made = pipeline({"site": pattern}, adapted)
        frame = sorted_rows(replay(made, table(_readings()))[0])
        own, other = frame.filter(room="room-001"), frame.filter(room="room-000")
        assert own["adapter"].unique().to_list() == [site] and other["adapter"].unique().to_list() == [None]
        plain = _judged().partition_by("room", as_dict=True)
        np.testing.assert_allclose(other["probability"], plain["room-000",]["probability"], atol=1e-5)
        logits = [
            np.log(p / (1 - p)) for p in (own["probability"].to_numpy(), plain["room-001",]["probability"].to_numpy())
        ]
        np.testing.assert_allclose(logits[0] - logits[1], 1.5, atol=1e-2)
    Machine(pipeline({}, SHIPPED)).check(made)  # a running shard may take it up
    with pytest.raises(ConfigError, match="expected one group"):
        pipeline({"site": "x"}, adapted)
