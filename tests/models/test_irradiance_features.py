"""Windows of hours: clearness, smart persistence, gaps, and readings that come more or less often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.irradiance.data import COLUMNS
from tocsin.models.irradiance.features import HOUR_MS, RAW, STEPS
from tocsin.models.irradiance.inputs import column
from tocsin.models.irradiance.readings import Moments
from tocsin.models.irradiance.samples import Samples, coarsened, following
from tocsin.models.irradiance.simulation.weather import Site, simulate

SITE = Site("a", latitude=40, longitude=-3, elevation=600, dry=0.5, aerosol=0.1)
NOON = 12  # the site's solar noon, UTC


def readings(days: int = 3, minutes: int = 60, share: float = 0.8) -> pl.DataFrame:
    """Readings of a sky with one clearness, of instants."""
    table = simulate(SITE, days=days, seed=0, minutes=minutes, averaged=False)
    numbers = {name: table[name].cast(pl.Float64).to_numpy() for name in COLUMNS[1:]}
    return table.with_columns(ghi=pl.Series(share * Moments.of(numbers).now.ghi))


def at(samples: Samples, name: str) -> np.ndarray:
    return column(samples.windows, name)[:, -1].numpy()


@pytest.mark.parametrize("minutes", [10, 30, 60])
def test_under_a_steady_sky_smart_persistence_is_the_truth(minutes: int) -> None:
    """Its air changes within an hour, and so does the cloudless sky, a little."""
    samples = Samples.of(readings(minutes=minutes))
    day = samples.by_day & (at(samples, "clear") > 100)
    assert day.sum() > 20
    assert np.allclose(at(samples, "clearness")[day], 0.8, atol=1e-5)
    assert (samples.persistence - samples.target).abs().numpy()[day].max() < 12


def test_the_clearness_of_the_evening_stays_until_the_morning() -> None:
    samples = Samples.of(readings())
    night = (at(samples, "clear") == 0) & (samples.time > samples.time[0] + 24 * HOUR_MS)
    assert night.sum() > 20 and np.allclose(at(samples, "clearness")[night], 0.8, atol=1e-5)
    assert (at(samples, "ghi")[night] == 0).all()


def test_a_window_holds_the_hours_before_oldest_first() -> None:
    samples = Samples.of(readings(days=3))
    ghi = column(samples.windows, "ghi").numpy()
    last = len(samples) - 1
    assert ghi.shape[1] == STEPS
    assert np.allclose(ghi[last], ghi[last - STEPS + 1 :, -1], equal_nan=True)
    assert np.isnan(ghi[0, :-1]).all() and not np.isnan(ghi[0, -1])


def test_a_gap_leaves_unknown_hours_and_no_truth() -> None:
    table = readings(days=3).with_row_index()
    cut = table.filter(~pl.col("index").is_between(40, 44)).drop("index")
    samples = Samples.of(cut)
    window = column(samples.windows, "ghi")[40]
    assert window[-6:-1].isnan().all() and not window[-1].isnan() and not window[:-6].isnan().any()
    assert samples.target[39].isnan() and not samples.target[38].isnan()
    none = Samples.of(readings(days=3).with_columns(ghi=pl.lit(None, pl.Float64)))
    assert column(none.windows, "ghi").isnan().all() and none.target.isnan().all()


def test_an_unknown_reading_counts_as_little_as_one_that_was_not_sent() -> None:
    table = readings(days=2, minutes=30).with_row_index()
    lost = pl.col("index") == 27
    unknown = Samples.of(table.with_columns(ghi=pl.when(~lost).then("ghi")).drop("index"))
    not_sent = Samples.of(table.filter(~lost).drop("index"))
    last = [int(np.flatnonzero(each.time == table["time"][28])[0]) for each in (unknown, not_sent)]
    for name in ("ghi", "clearness"):
        assert unknown.windows[last[0], -1, RAW.index(name)] == not_sent.windows[last[1], -1, RAW.index(name)]


def test_sites_do_not_mix_whatever_their_lengths() -> None:
    a = readings(days=3)
    b = readings(days=1, share=0.4).with_columns(site=pl.lit("b"))
    both, alone = Samples.of(pl.concat([b, a])), Samples.of(a)
    assert torch.equal(both.windows[: len(a)].nan_to_num(-9), alone.windows.nan_to_num(-9))


def test_the_hour_that_follows_needs_as_many_readings_as_the_one_before() -> None:
    time = 1_800_000.0 * np.arange(8)
    ghi = np.array([0.0, 10, 20, 30, 40, 50, np.nan, 70])
    found = following(time, ghi)
    assert found[1] == 25 and found[2] == 35 and np.isnan(found[[4, 5, 6, 7]]).all()


def test_a_finer_site_is_also_an_hourly_one() -> None:
    table = coarsened(readings(days=2, minutes=30))
    counts = dict(table.group_by("site").len().rows())
    assert counts == {"a": 96, "a@hour": 48, "a@mean": 48}
    hour = table.filter(pl.col("site") == "a@mean").row(11, named=True)
    parts = table.filter(pl.col("site") == "a", pl.col("time").is_between(hour["time"] - 1_800_000, hour["time"]))
    assert hour["averaged"] == 60 and hour["ghi"] == pytest.approx(parts["ghi"].mean())
    assert coarsened(readings(days=2)).equals(readings(days=2))


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        (lambda t: t, 0),
        (lambda t: t.with_columns(pl.col("ghi") / 1000), 18),  # kW/m2
        (lambda t: t.with_columns(pl.col("ghi") * 3600), 20),  # J/m2
        (lambda t: t.with_columns(pl.col("time") + 3 * HOUR_MS), 6),  # a wrong time zone
        (lambda t: t.with_columns(pl.col("longitude") + 90), 6),
        (lambda t: t.with_columns(ghi=pl.lit(0.0)), 18),  # a dead sensor
        (lambda t: t.with_columns(ghi=pl.lit(-9.0)), 18),
    ],
)
def test_readings_that_cannot_be_at_the_site_are_impossible(change: object, odd: int) -> None:
    assert callable(change)
    table = change(simulate(SITE, days=3, seed=4))
    numbers = {name: table[name].cast(pl.Float64).to_numpy() for name in COLUMNS[1:]}
    found = int(Moments.of(numbers).impossible.sum())
    assert found == 0 if odd == 0 else found >= odd


@pytest.mark.parametrize("hours", [0, -1])
def test_a_mean_whose_interval_nobody_says_may_begin_or_end_at_its_time(hours: int) -> None:
    site = replace(SITE, latitude=10, longitude=3)  # the sun sets in the middle of an hour of the clock
    table = simulate(site, days=20, seed=4).with_columns(pl.col("time") + hours * HOUR_MS)
    said, unsaid = table.with_columns(averaged=pl.lit(0.0)), table.with_columns(averaged=pl.lit(None, pl.Float64))
    found = [
        int(
            Moments.of(
                {name: each[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in COLUMNS[1:]}
            ).impossible.sum()
        )
        for each in (said, unsaid)
    ]
    assert found[0] > 5 and found[1] == 0
