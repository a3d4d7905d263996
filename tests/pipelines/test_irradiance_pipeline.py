"""The irradiance pipeline: its rows and windows, any split, wrong places, clocks and units, alerts, unknown readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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

from tocsin.models.irradiance.data import COLUMNS
from tocsin.models.irradiance.features import HOUR_MS
from tocsin.models.irradiance.model import SITES, load
from tocsin.models.irradiance.samples import Samples
from tocsin.models.irradiance.simulation.weather import Dirt, Obstacle, Site, simulate
from tocsin.models.irradiance.train import judge
from tocsin.pipelines.irradiance import READING, domain, judged, pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay

SHIPPED = Model(SITES, "sites", "cpu")
A = Site("a", latitude=40, longitude=-3, elevation=600, dry=0.7, aerosol=0.1)
B = Site("b", latitude=-34, longitude=151, elevation=20, dry=0.4, aerosol=0.1)
SPAN = 9999
FORECASTS = ("forecast", "forecast_low", "forecast_high", "persistence", "clear_ahead", "ramp")


@cache
def readings(days: int = 5) -> pl.DataFrame:
    """Two sites in the order of time: an hourly one, and one with instants every half hour."""
    both = [simulate(A, days=days, seed=1), simulate(B, days=days, seed=1, minutes=30, averaged=False)]
    return pl.concat(both).sort("time", "site")


def table(frame: pl.DataFrame) -> pa.Table:
    return frame.select(COLUMNS).with_columns(pl.from_epoch("time", "ms")).to_arrow().cast(READING)


def run(frame: pl.DataFrame, **options: Any) -> tuple[pl.DataFrame, list[Alert]]:
    splits = options.pop("splits", None)
    return replay(pipeline({"silent": f"{SPAN}d", **options}, SHIPPED), table(frame), splits=splits)


def refused(frame: pl.DataFrame, **options: Any) -> list[str]:
    """The reasons of the dead letters."""
    machine = Machine(pipeline({"silent": f"{SPAN}d", **options}, SHIPPED))
    given = table(frame)
    identity = {
        "_partition": pa.array([0] * len(given), pa.int32()),
        "_offset": pa.array(range(len(given)), pa.int64()),
        "_row": pa.array([0] * len(given), pa.int32()),
        "_timestamp": given["time"],
    }
    columns = [*identity.values(), *given.columns]
    made = pa.table(columns, schema=pa.schema([*IDENTITY, *READING])).combine_chunks().to_batches()[0]
    return [letter.message for letter in machine.step(made, frame["time"].max()).refused]  # type: ignore[arg-type]


def test_a_row_a_reading_with_the_forecast_of_the_same_window() -> None:
    rows, _ = run(readings())
    samples = Samples.of(readings())
    expected = judge(load(SITES, "cpu"), samples)
    assert len(rows) == len(samples)
    made = pl.DataFrame({"site": samples.site.astype(str), "time": samples.time})
    made = made.with_columns(pl.Series(name, expected[name].numpy()) for name in FORECASTS)
    made = made.with_columns(pl.col(*FORECASTS).fill_nan(None))
    got = rows.select("site", pl.col("event_time").dt.epoch("ms").alias("time"), *FORECASTS).sort("site", "time")
    assert_frame_equal(got, made.sort("site", "time"), abs_tol=1e-2, check_dtypes=False)
    assert rows["in_domain"].all() and rows["forecast"].null_count() == 0


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_any_split_into_steps_gives_the_same_rows_and_alerts(data: st.DataObject) -> None:
    frame = readings(3)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(frame) - 1), max_size=6)))
    splits = np.diff([0, *cuts, len(frame)]).tolist()
    whole, alerts = run(frame, ramp=0.02)
    parts, rang = run(frame, ramp=0.02, splits=splits)
    assert_frame_equal(whole.drop("processed_at"), parts.drop("processed_at"), abs_tol=1e-2, check_dtypes=False)
    assert [(a.rule, a.key, a.transition, a.time) for a in rang] == [
        (a.rule, a.key, a.transition, a.time) for a in alerts
    ]


def test_a_late_reading_is_sorted_in_and_a_repeated_one_is_dropped() -> None:
    frame = readings(2)
    shuffled = frame.sort("time").sample(fraction=1, shuffle=True, seed=0)
    near = shuffled.with_columns(turn=pl.col("time") // (3 * HOUR_MS)).sort("turn", maintain_order=True).drop("turn")
    rows, _ = run(pl.concat([near, near.tail(3)]), late="4h")
    whole = run(frame)[0].join(rows.select("site", "event_time"), on=["site", "event_time"], how="semi")
    order = ["site", "event_time"]
    assert rows.select(order).is_unique().all() and len(rows) > len(frame) - 16
    assert_frame_equal(
        rows.select(*order, *FORECASTS).sort(order), whole.select(*order, *FORECASTS).sort(order), abs_tol=1e-2
    )


NOWHERE = {"latitude": None, "longitude": None, "elevation": None}


def _placed(frame: pl.DataFrame, **place: float | None) -> pl.DataFrame:
    return frame.with_columns(pl.lit(value, pl.Float64).alias(name) for name, value in place.items())


def test_a_place_may_come_from_the_options_and_an_unknown_one_is_a_dead_letter_that_stops_nobody() -> None:
    frame = readings(2)
    nowhere = pl.concat(
        [frame.filter(site="a"), _placed(frame.filter(site="b"), **NOWHERE)], how="vertical_relaxed"
    ).sort("time", "site")
    rows, _ = run(nowhere)
    assert rows["site"].unique().to_list() == ["a"]
    (reason,) = set(refused(nowhere))
    assert reason.startswith(
        "expected the latitude (-90 to 90) and longitude (-180 to 360) of site 'b', got none; send them"
    )
    assert '[pipelines.irradiance.sites."b"]' in reason
    rows, _ = run(nowhere, sites={"b": {"latitude": -34, "longitude": 151, "elevation": 20}})
    assert_frame_equal(rows.drop("processed_at", "offset"), run(frame)[0].drop("processed_at", "offset"))


def test_a_recording_that_does_not_say_where_it_is_is_not_judged(tmp_path: Path) -> None:
    frame = readings(2).filter(site="a").select("time", "ghi", "longitude").with_columns(pl.from_epoch("time", "ms"))
    frame.write_csv(tmp_path / "roof.csv")
    with pytest.raises(
        ValueError, match="expected the latitude and longitude of each site, got none for roof; add columns"
    ):
        domain.evaluate(SITES, "shipped", str(tmp_path))


def test_a_recording_in_another_unit_is_doubted_not_scored(tmp_path: Path) -> None:
    frame = readings(3).filter(site="a").with_columns(pl.col("ghi") / 1000, pl.from_epoch("time", "ms"))
    frame.write_csv(tmp_path / "roof.csv")
    said = domain.evaluate(SITES, "shipped", str(tmp_path))
    assert said.doubt.startswith("irradiance: expected readings that follow the sun at their site, got others in")
    assert said.in_domain is not None and said.in_domain < 0.5 and np.isnan(said.figures["rmse"])


def test_a_place_outside_the_earth_is_a_dead_letter() -> None:
    (reason,) = set(refused(_placed(readings(1).filter(site="a"), latitude=140)))
    assert "got latitude 140, longitude -3, elevation 600" in reason


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.with_columns(pl.col("time") + 2 * HOUR_MS),
        lambda t: t.with_columns(pl.col("time") - 2 * HOUR_MS),
        lambda t: t.with_columns(pl.col("ghi") / 1000),
        lambda t: t.with_columns(pl.col("ghi") * 3600),
        lambda t: (
            t.with_columns(-pl.col("longitude")) if t["site"][0] == "b" else t.with_columns(longitude=pl.lit(97.0))
        ),
    ],
    ids=["clock ahead", "clock behind", "kW", "J", "longitude"],
)
def test_readings_of_another_clock_unit_or_place_are_out_of_domain_and_ring_once(
    change: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    frame = change(readings().filter(site="a"))
    rows, alerts = run(frame)
    later = rows.filter(pl.col("event_time") > rows["event_time"][0] + pl.duration(days=2))
    assert later["in_domain"].mean() < 0.5  # type: ignore[operator]
    assert {a.rule for a in alerts if a.transition == "raised"} >= {"out_of_domain"}
    strange = rows.filter(~pl.col("in_domain"))
    assert (strange["forecast_low"] == 0).all()
    assert np.allclose(strange["forecast_high"], 1.5 * strange["clear_ahead"])


def test_unknown_readings_give_rows_without_a_forecast_until_one_is_known() -> None:
    frame = readings().filter(site="a").with_row_index()
    gone = frame.with_columns(ghi=pl.when(pl.col("index") >= 30).then("ghi")).drop("index")
    rows, _ = run(gone)
    assert rows["forecast"][:30].null_count() == 30 and not rows["in_domain"][:30].any()
    assert rows["forecast"][30:].null_count() == 0 and rows["in_domain"][30:].all()


def test_numbers_that_are_none_or_huge_spoil_nothing() -> None:
    frame = readings(3).filter(site="a").with_row_index()
    at = pl.col("index") == 30
    wild = frame.with_columns(
        ghi=pl.when(at).then(1e300).otherwise("ghi"),
        temperature=pl.when(at).then(float("inf")).otherwise("temperature"),
        averaged=pl.when(at).then(-1e300).otherwise("averaged"),
    ).drop("index")
    rows, _ = run(wild)
    assert rows["forecast"].null_count() == 0 and not rows["in_domain"][30] and rows["in_domain"][31:].all()


def test_a_dirty_or_shaded_sensor_rings_once_and_a_clean_one_does_not() -> None:
    dirty = replace(A, name="dirty", dirt=Dirt(0.008, 30, 70))
    shaded = replace(A, name="shaded", obstacle=Obstacle(195, 225, 90, 1.0, 20))
    frame = pl.concat([simulate(site, days=95, seed=2) for site in (A, dirty, shaded)]).sort("time", "site")
    rows, alerts = run(frame, ramp=0.99)
    rang = [(a.key, a.rule, a.transition) for a in alerts if a.rule in ("soiling", "shading")]
    assert sorted(rang) == [
        ("dirty", "soiling", "cleared"),
        ("dirty", "soiling", "raised"),
        ("shaded", "shading", "raised"),
    ]
    assert rows["in_domain"].all()
    (shade,) = (alert for alert in alerts if alert.rule == "shading")
    assert 180 <= shade.data["shading_azimuth"] <= 240


def test_a_ramp_rings_while_it_is_expected() -> None:
    rows, alerts = run(readings(), ramp=0.05)
    expected = rows.filter(pl.col("ramp") >= 0.05)
    assert len(expected) and {a.rule for a in alerts} == {"ramp"}
    raised = {(a.key, a.time) for a in alerts if a.transition == "raised"}
    assert raised <= set(expected.select("site", "event_time").rows())
    assert not [a for a in run(readings(), ramp=0.99)[1] if a.rule == "ramp"]


def test_a_silent_site_rings() -> None:
    frame = readings(1).filter(site="a")
    _, alerts = replay(pipeline({}, SHIPPED), table(frame), after="4h")
    assert [a.rule for a in alerts if a.rule == "silent_sensor"] == ["silent_sensor"]


def test_polar_night_and_day_are_forecast() -> None:
    north = Site("n", latitude=78.2, longitude=15.6, elevation=0, dry=0.5, aerosol=0.1)
    rows, _ = run(simulate(north, days=4, seed=0))
    assert (rows["forecast"] == 0).all() and (rows["clear_sky"] == 0).all() and rows["in_domain"].all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"sites": {"b": {"latitude": 99, "longitude": 1}}},
            "pipelines.irradiance.sites.b.latitude: expected less than",
        ),
        ({"sites": {"b": {"longitude": 1}}}, "pipelines.irradiance.sites.b.latitude: expected"),
        (
            {"sites": {"b": {"latitude": 1, "longitude": 1, "height": 2}}},
            "expected one of latitude, longitude, elevation",
        ),
        ({"soiling": 3}, "pipelines.irradiance.soiling: expected less than 1, got 3"),
        ({"dust": 1}, "expected one of name, topic, sites, ramp, soiling, shading, silent, late, got dust"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=r"pipelines\.irradiance") as refused:
        pipeline(options, SHIPPED)
    assert reason in str(refused.value)


def test_without_a_model_it_is_refused() -> None:
    with pytest.raises(ModelError, match="expected a model, got none"):
        pipeline({}, None)


def test_the_recordings_are_judged_as_they_are(data: Any) -> None:
    from tocsin.models.irradiance.data import read

    table = read(data / "solar").filter(pl.col("time") % (365 * 86_400_000) < 20 * 86_400_000)
    rows = judged(table, SITES, "shipped")
    assert len(rows) == len(table) and rows["in_domain"].mean() > 0.99  # type: ignore[operator]


def test_a_feed_is_in_the_order_of_time_and_fits_the_topic() -> None:
    fed = pl.concat(domain.feed("sim", seed=0, rate=None, model=None, sites=3, days=40).tables)
    assert fed.height == 40 * (24 + 48 + 24) and fed["time"].is_sorted()
    assert pa.schema(fed.to_arrow().cast(READING).schema) == READING
    assert fed["site"].unique().sort().to_list() == ["sim-000", "sim-001", "sim-002"]
