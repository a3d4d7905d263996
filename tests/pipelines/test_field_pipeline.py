"""The field pipeline: its rows and maps, any split, unknown sensors, missing ones, levels, pictures, wrong plans."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tocsin.models.field.hall import COLUMNS, ROWS, Hall
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import HALLS, load
from tocsin.models.field.simulation.feed import MINUTE_MS, simulate, usual_halls
from tocsin.models.vision.picture import decode
from tocsin.pipelines.field import READING, domain, pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay

SHIPPED = Model(HALLS, "halls", "cpu")
STORE = {
    "kind": "temperature",
    "outline": [[0, 0], [20, 0], [20, 10], [0, 10]],
    "walls": [[10, 0, 10, 7, 0.3]],
    "sensors": {"a": [2, 2], "b": [2, 8], "c": [8, 5], "d": [18, 2], "e": [18, 8]},
    "above": 30.0,
    "below": 10.0,
}


@cache
def readings(minutes: int = 4) -> pl.DataFrame:
    """Two simulated halls in the order of time."""
    return pl.concat([simulate(hall, minutes=minutes, seed=1) for hall in usual_halls()[:2]]).sort(
        "time", "hall", "sensor"
    )


def table(frame: pl.DataFrame) -> pa.Table:
    return frame.select(READING.names).with_columns(pl.from_epoch("time", "ms")).to_arrow().cast(READING)


def run(frame: pl.DataFrame, **options: Any) -> tuple[pl.DataFrame, list[Alert]]:
    splits, after = options.pop("splits", None), options.pop("after", "3min")
    return replay(pipeline(options, SHIPPED), table(frame), splits=splits, after=after)


def refused(frame: pl.DataFrame, **options: Any) -> list[tuple[str, str]]:
    """Kind and reason of the dead letters."""
    machine, given = Machine(pipeline(options, SHIPPED)), table(frame)
    identity = [
        pa.array([0] * len(given), pa.int32()),
        pa.array(range(len(given)), pa.int64()),
        pa.array([0] * len(given), pa.int32()),
        given["time"],
    ]
    made = (
        pa.table([*identity, *given.columns], schema=pa.schema([*IDENTITY, *READING])).combine_chunks().to_batches()[0]
    )
    letters = machine.step(made, frame["time"].max()).refused  # type: ignore[arg-type]
    return [(letter.error, letter.message) for letter in letters]


def steady(values: dict[str, float], minutes: int = 3, hall: str = "store") -> pl.DataFrame:
    """Sensors that read the same all the time."""
    return pl.DataFrame(
        [
            {"hall": hall, "sensor": name, "time": minute * MINUTE_MS + 5_000, "value": value}
            for minute in range(minutes)
            for name, value in values.items()
        ]
    )


def test_a_row_a_hall_and_minute_with_the_map_of_the_same_readings() -> None:
    rows, _ = run(readings())
    assert rows.select("hall", "event_time").rows() and not rows.select("hall", "event_time").is_duplicated().any()
    assert rows.group_by("hall").len().sort("hall").rows() == [(hall.name, 4) for hall in usual_halls()[:2]]
    model = load(HALLS, "cpu")
    for hall in usual_halls()[:2]:
        row = rows.filter(hall=hall.name).row(1, named=True)
        begin = row["event_time"].timestamp() * 1000 - MINUTE_MS
        part = readings().filter(pl.col("time").is_between(begin, begin + MINUTE_MS - 1), hall=hall.name)
        means = dict(part.group_by("sensor").agg(pl.col("value").mean()).rows())
        given = np.array([means[sensor] for sensor in hall.sensors])
        inside = hall.holds(hall.cells)
        estimate, spread = model(Inputs.of([hall], [hall.sensor_places], [given], [hall.cells[inside]]))
        for name, expected in (("map", estimate), ("spread", spread)):
            got = np.array(row[name], np.float32)
            assert got.shape == (ROWS * COLUMNS,) and (np.isnan(got) == ~inside).all()
            assert np.allclose(got[inside], expected[0].numpy(), atol=1e-3)
        assert (
            row["extent"] == [*hall.corner, *(hall.corner + hall.size)] and row["sensors"] == 12 and not row["missing"]
        )
        far = np.linalg.norm(hall.cells[:, None] - hall.sensor_places, axis=-1).min(1) > 1.5
        values = np.where(inside & far, row["map"], -np.inf)
        assert row["highest"] == pytest.approx(values.max())
        assert [row["highest_x"], row["highest_y"]] == hall.cells[values.argmax()].tolist()
        assert row["above"] == pytest.approx(row["highest"] - hall.above) and row["below"] is None
        picture = decode(row["png"])
        assert max(picture.shape) > 250 and picture.std() > 10


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_any_split_into_steps_gives_the_same_rows_to_the_last_bit(data: st.DataObject) -> None:
    frame = readings(3)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(frame) - 1), max_size=5)))
    whole, alerts = run(frame)
    parts, rang = run(frame, splits=np.diff([0, *cuts, len(frame)]).tolist())
    order = ["hall", "event_time"]
    assert_frame_equal(whole.drop("processed_at").sort(order), parts.drop("processed_at").sort(order), check_exact=True)
    assert sorted((a.rule, a.key, a.transition, a.time) for a in rang) == sorted(
        (a.rule, a.key, a.transition, a.time) for a in alerts
    )


def test_readings_may_come_in_any_order_within_lateness_and_twice() -> None:
    frame = readings(3)
    near = frame.with_columns(turn=pl.col("time") // 20_000).sample(fraction=1, shuffle=True, seed=0)
    near = near.sort("turn", maintain_order=True).drop("turn")
    order = ["hall", "event_time"]
    twice, _ = run(pl.concat([near, near.tail(3)]))
    whole, _ = run(frame)
    columns = [*order, "map", "sensors", "png"]
    assert_frame_equal(twice.select(columns).sort(order), whole.select(columns).sort(order), check_exact=True)


def test_what_is_of_no_known_sensor_or_no_temperature_is_a_dead_letter_that_stops_nobody() -> None:
    frame = readings(2)
    odd = frame.head(3).with_columns(
        hall=pl.Series(["attic", "sim-000", "sim-000"]), sensor=pl.Series(["s00", "s99", "s00"]), value=pl.lit(1e300)
    )
    letters = refused(pl.concat([odd, frame]))
    assert [error for error, _ in letters] == ["UnknownSensor", "UnknownSensor", "BadValue"]
    reasons = [reason for _, reason in letters]
    assert reasons[0].startswith(
        "expected a hall among sim-000, sim-001, sim-002, sim-003, got 'attic'; set [pipelines.field"
    )
    assert reasons[1].startswith(
        "expected a sensor of hall 'sim-000', such as s00, s01, s02, got 's99'; set its place in"
    )
    assert reasons[2] == "expected a value below 1e+06 in size, got 1e+300"
    order = ["hall", "event_time"]
    assert_frame_equal(
        run(pl.concat([odd, frame]))[0].select(*order, "map").sort(order),
        run(frame)[0].select(*order, "map").sort(order),
    )


def test_a_late_reading_is_a_dead_letter() -> None:
    frame = readings(3)
    late = frame.head(1).with_columns(value=pl.lit(3.0), time=pl.col("time") + 1)
    ((error, _),) = refused(pl.concat([frame, late]))
    assert error == "TooLate"


def test_a_sensor_that_is_gone_is_left_out_once_its_last_reading_is_old_and_rings() -> None:
    frame = readings(4).filter(hall="sim-001")
    gone = frame.filter((pl.col("sensor") != "s03") | (pl.col("time") < frame["time"].min() + MINUTE_MS))  # type: ignore[operator]
    rows, alerts = run(gone, fresh="90s")
    assert rows["sensors"].to_list() == [12, 12, 11, 11]
    assert rows["missing"].to_list() == [[], [], ["s03"], ["s03"]]
    (alert,) = (each for each in alerts if each.rule == "missing_sensor")
    assert alert.key == "sim-001" and alert.data["missing"] == ["s03"]
    assert rows["map"].list.len().to_list() == [ROWS * COLUMNS] * 4


def test_with_two_sensors_there_is_a_row_without_a_map() -> None:
    frame = readings(2).filter(pl.col("sensor").is_in(["s00", "s01"]), hall="sim-001")
    rows, alerts = run(frame)
    assert rows["highest"].null_count() == 2 and np.isnan(np.array(rows["map"].to_list(), float)).all()
    assert rows["png"].null_count() == 0 and not [a for a in alerts if a.rule == "above"]


def test_a_level_that_is_passed_between_sensors_rings_until_the_field_is_back() -> None:
    hot, mild = {"a": 36.0, "b": 34.0, "c": 33.0, "d": 21.0, "e": 20.0}, dict.fromkeys("abcde", 20.0)
    course = pl.concat([steady(mild), steady(hot, 4), steady(mild)])
    course = course.with_columns(time=pl.int_range(len(course)) // 5 * MINUTE_MS + 5_000)
    rows, alerts = run(course, halls={"store": STORE})
    assert [(a.rule, a.transition) for a in alerts] == [("above", "raised"), ("above", "cleared")]
    raised = alerts[0]
    assert raised.data["above"] >= 0 and raised.data["highest_x"] < 10 and raised.data["highest"] > 30
    where = np.array([raised.data["highest_x"], raised.data["highest_y"]])
    assert min(np.linalg.norm(where - at) for at in STORE["sensors"].values()) > 1.5  # type: ignore[attr-defined]
    over = rows.sort("event_time")["above"].to_list()
    assert [value >= 0 for value in over] == [False] * 3 + [True] * 4 + [False] * 3
    cold, rang = run(steady(dict.fromkeys("abcde", 5.0)), halls={"store": STORE})
    assert [(a.rule, a.transition) for a in rang] == [("below", "raised")] and (cold["below"] > 0).all()


def test_places_near_a_sensor_are_left_to_it() -> None:
    rows, _ = run(steady(dict.fromkeys("abcde", 20.0), 1), halls={"store": STORE}, near=50.0)
    assert rows["highest"].null_count() == rows["above"].null_count() == len(rows) == 1


def test_the_feed_rings_in_each_hall_where_no_sensor_is() -> None:
    hall = usual_halls()[1]
    rows, alerts = run(simulate(hall, minutes=60, seed=0), silent="9999d")
    assert [(a.rule, a.transition) for a in alerts] == [("above", "raised")]
    calm, none = run(simulate(hall, minutes=20, seed=0, spot=False), silent="9999d")
    assert not none and calm["highest"].max() < rows["highest"].max()  # type: ignore[operator]


def test_a_silent_hall_rings() -> None:
    _, alerts = run(readings(2), after="20min")
    assert {(a.key, a.rule) for a in alerts} == {("sim-000", "silent_sensor"), ("sim-001", "silent_sensor")}


def test_without_pictures_there_is_no_column_for_them() -> None:
    rows, _ = run(readings(1), pictures=False)
    assert "png" not in rows.columns and rows["map"].null_count() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"halls": {"b": STORE | {"kind": "noise"}}}, "pipelines.field.halls: hall b, kind: expected one of"),
        (
            {"halls": {"b": STORE | {"sensors": {"a": [1, 1]}}}},
            "halls.b.sensors: expected the x, y of 3 sensors at least",
        ),
        ({"halls": {"b": STORE | {"height": 3}}}, "pipelines.field.halls.b: expected one of kind, outline"),
        ({"halls": {"b": {"kind": "signal"}}}, "pipelines.field.halls.b.outline: expected"),
        ({"near": -1}, "pipelines.field.near: expected"),
        ({"fresh": "soon"}, "pipelines.field.fresh: expected a duration"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=r"pipelines\.field") as said:
        pipeline(options, SHIPPED)
    assert reason in str(said.value)


def test_without_a_model_it_is_refused() -> None:
    with pytest.raises(ModelError, match="expected a model, got none"):
        pipeline({}, None)


def test_a_feed_is_in_the_order_of_time_and_fits_the_topic() -> None:
    fed = pl.concat(domain.feed("sim", seed=0, rate=None, model=None, minutes=2).tables)
    assert fed.height == 2 * 3 * 12 * len(usual_halls()) and fed["time"].is_sorted()
    assert pa.schema(fed.to_arrow().cast(READING).schema) == READING
    assert fed["hall"].unique().sort().to_list() == [hall.name for hall in usual_halls()]


def test_a_folder_is_fed_and_judged_by_hidden_sensors(tmp_path: Path) -> None:
    import tomllib

    hall = usual_halls()[1]
    assert Hall.of("x", hall.plan()).plan() == hall.plan()
    lines = [f'[{hall.name}]\nkind = "{hall.kind}"\noutline = {hall.outline.tolist()}\nwalls = {hall.walls.tolist()}']
    lines += [f"[{hall.name}.sensors]", *(f"{name} = {[*at]}" for name, at in hall.sensors.items())]
    (tmp_path / "halls.toml").write_text("\n".join(lines))
    assert tomllib.loads((tmp_path / "halls.toml").read_text())
    frame = simulate(hall, minutes=3, seed=2)
    frame.with_columns(pl.from_epoch("time", "ms").dt.to_string("iso:strict") + "Z").write_csv(
        tmp_path / "readings.csv"
    )
    fed = pl.concat(domain.feed(str(tmp_path), seed=0, rate=None, model=None).tables)
    assert fed.select("sensor", "value").rows() == frame.select("sensor", "value").rows()
    said = domain.evaluate(HALLS, "shipped", str(tmp_path))
    assert said.counted["fields"] == 3 and said.counted["places"] == 9
    assert 0 < said.figures["rmse_temperature"] < 20 and np.isnan(said.figures["rmse_signal"])
    (tmp_path / "more.csv").write_text(f"hall,sensor,time,value\n{hall.name},nobody,2026-01-01T00:00:00Z,3\n")
    with pytest.raises(
        ValueError, match=r"more.csv, line 2, column 'sensor': expected a sensor of halls.toml, got 'nobody'"
    ):
        domain.evaluate(HALLS, "shipped", str(tmp_path))
