"""Bookings and holidays in the occupancy pipeline: what they change, and that nothing else does."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipelines.test_occupancy_pipeline import MINUTE, MONDAY, SHIPPED, _readings, table
from tocsin.models.occupancy.domain import Occupancy
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.occupancy.simulation import bookings
from tocsin.pipelines.occupancy import domain, pipeline
from tocsin.pipelines.parts.bookings import shifted
from tocsin.pipelines.runtime import Intervals
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.replay import replay

NINE, HOUR = MONDAY + 9 * 60 * MINUTE, 60 * MINUTE


@cache
def run(*known: tuple[str, str, int, int], **options: Any) -> tuple[pl.DataFrame, list[Alert]]:
    """The pipeline's rows and alerts for two rooms on a Monday morning, with some intervals."""
    schema = {"asset": pl.String, "kind": pl.String, "from": pl.Int64, "to": pl.Int64}
    declared = pipeline(options, SHIPPED)
    frame, alerts = replay(
        replace(declared, intervals=Intervals(pl.DataFrame(known, schema, orient="row"))), table(_readings())
    )
    return frame.filter(~pl.col("silent")).sort("room", "event_time"), alerts


def logit(p: pl.Series) -> np.ndarray:
    numbers = p.cast(pl.Float64).to_numpy()
    return np.log(numbers / (1 - numbers))


def test_a_booking_moves_its_own_room_alone_and_only_while_it_lasts() -> None:
    room = _readings()["room"].min()
    plain, _ = run()
    moved, _ = run((room, "booked", NINE, NINE + HOUR))
    at = moved["event_time"].dt.epoch("ms")
    inside = (moved["room"] == room) & (at >= NINE) & (at < NINE + HOUR)
    assert moved["booked"].to_list() == inside.to_list()
    shift = logit(moved["probability"]) - logit(plain["probability"])
    np.testing.assert_allclose(shift[inside.to_numpy()], 1.5, atol=1e-3)
    np.testing.assert_allclose(shift[((moved["room"] == room) & ~inside).to_numpy()], -0.8, atol=1e-3)
    others = moved["room"] != room
    assert moved.filter(others)["probability"].equals(plain.filter(others)["probability"]), "it has no bookings"
    assert plain["booked"].null_count() == len(plain) and moved["context"].n_unique() == 1


def test_on_a_holiday_nobody_is_expected_in_any_room_booked_or_not() -> None:
    room = _readings()["room"].min()
    day = ("*", "holiday", MONDAY, MONDAY + 24 * HOUR)
    plain, moved = run()[0], run(day, (room, "booked", NINE, NINE + HOUR))[0]
    np.testing.assert_allclose(logit(moved["probability"]) - logit(plain["probability"]), -3.4, atol=1e-3)
    assert moved["holiday"].all()
    _, calm = run(hours="00:00-24:00")
    _, rung = run(day, hours="00:00-24:00", holiday=0.0)
    assert not [a for a in calm if a.rule == "unexpected"]
    assert [a for a in rung if a.rule == "unexpected"], "the schedule does not hold on a holiday"


def test_people_in_a_booking_are_expected() -> None:
    rooms = _readings()["room"].unique().to_list()
    _, rung = run(hours="00:00-00:01", booked=0.0, free=0.0)
    assert [a for a in rung if a.rule == "unexpected"]
    all_day = [(room, "booked", MONDAY, MONDAY + 24 * HOUR) for room in rooms]
    _, calm = run(*all_day, hours="00:00-00:01", booked=0.0, free=0.0)
    assert not [a for a in calm if a.rule == "unexpected"]


@given(p=st.floats(0, 1), shift=st.floats(-8, 8))
def test_a_shift_of_the_log_odds_keeps_certainty_and_the_unknown(p: float, shift: float) -> None:
    (moved, unknown) = shifted(np.array([p, math.nan]), np.array([shift, shift]))
    assert 0 <= moved <= 1 + 1e-12 and math.isnan(unknown)
    assert (moved >= p - 1e-12) if shift > 0 else (moved <= p + 1e-12)
    np.testing.assert_allclose(shifted(np.array([0.0, 1.0]), np.array([shift, shift])), [0, 1], atol=1e-9)


def test_simulated_bookings_say_much_but_not_all() -> None:
    events, truth, intervals = bookings.simulate(rooms=4, days=7, seed=1)
    assert events.equals(bookings.simulate(rooms=4, days=7, seed=1)[0])
    assert {*intervals["kind"]} == {*bookings.KINDS}
    (holiday,) = intervals.filter(kind="holiday")["from"].to_list()
    day = truth.filter(pl.col("time").is_between(holiday, holiday + 24 * HOUR, closed="left"))
    assert day["people"].max() == 0
    taken = np.zeros(len(truth), bool)
    for asset, kind, begin, end in intervals.iter_rows():
        if kind == "booked":
            taken |= ((truth["room"] == asset) & (truth["time"] >= begin) & (truth["time"] < end)).to_numpy()
    occupied = (truth["people"] > 0).to_numpy()
    assert 0.5 < occupied[taken].mean() < 0.85
    assert 0.005 < occupied[~taken].mean() < 0.08


def test_evaluate_shows_the_figures_without_intervals_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.models.occupancy.domain.DAYS", 2)
    monkeypatch.setattr("tocsin.models.occupancy.domain.BOOKED_ROOMS", 2)
    assert isinstance(domain, Occupancy)
    found = domain.evaluate(OFFICES, "shipped", "sim")
    assert found.figures["f1"] > found.baselines["without intervals"]["f1"] + 0.02
