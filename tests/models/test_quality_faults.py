"""Faults change what they say and nothing else; cases keep their history apart from the window; recordings are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.quality.cases import drawn
from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.data import read
from tocsin.models.quality.faults import REASONS, Faults, Place, Window, inject
from tocsin.models.quality.series import Series
from tocsin.models.quality.simulation.faulty import CHANNELS, readings
from tocsin.models.quality.simulation.plant import plants
from tocsin.models.quality.train import batches

CONFIG = QualityConfig()
ROWS, WIDTH = 600, 3


def series() -> Series:
    """Three waves with noise, once a minute."""
    at = np.arange(ROWS)
    noise = np.random.default_rng(0).normal(size=(ROWS, WIDTH)) * 0.05
    values = np.stack([np.sin(at / 9), 20 + 5 * np.cos(at / 9), 400 + 100 * np.sin(at / 25)], 1) + noise
    return Series.of("a", 60.0 * at, values.astype(np.float32), ("x", "y", "z"))


def faulty(reason: str, seed: int = 0) -> tuple[Place, Window]:
    """A window with a fault, and its place."""
    draw, given = np.random.default_rng(seed), series()
    past = given.values[:400].astype(float)
    centre = np.median(past, 0)
    place = Place(given, 450, 417, np.arange(WIDTH), centre, 1.25 * np.abs(past - centre).mean(0))
    window = next(w for w in (inject(draw, reason, Faults(), place) for _ in range(200)) if w is not None)
    return place, window


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reason", REASONS)
def test_a_fault_changes_the_channels_that_it_names_and_no_other(reason: str, seed: int) -> None:
    place, window = faulty(reason, seed)
    clean = place.clean
    changed = ~((window.values == clean.values) | (np.isnan(window.values) & np.isnan(clean.values))).all(0)
    if reason == "clock":
        assert not changed.any() and not window.bad.any() and (window.times != clean.times).any()
    elif reason == "drop-out" and not window.bad.any():  # whole rows
        assert np.diff(window.times).max() >= 60 * Faults().gap[0]
    else:
        assert (changed == window.bad).all() and window.bad.any()
        assert (window.times == clean.times).all()


def test_each_fault_is_what_its_name_says() -> None:
    sizes = Faults()
    place, window = faulty("stuck")
    held = window.values[:, window.bad][:, 0]
    assert max(len(run) for run in np.split(held, np.flatnonzero(np.diff(held)) + 1)) >= sizes.stuck
    place, window = faulty("spike")
    away = np.abs(window.values - place.clean.values)[:, window.bad] / place.scale[window.bad]
    assert 1 <= (away > 0).sum() <= 3 and sizes.spike[0] * 0.99 <= away.max() <= sizes.spike[1] * 1.01
    place, window = faulty("drift")
    moved = (np.abs(window.values - place.clean.values)[:, window.bad] / place.scale[window.bad])[:, 0]
    assert (np.diff(moved) >= -1e-3).all() and sizes.drift[0] * 0.9 <= moved[-1] <= sizes.drift[1] * 1.01
    place, window = faulty("clipped")
    limited = window.values[:, window.bad][:, 0]
    assert max((limited == limited.max()).sum(), (limited == limited.min()).sum()) > 3
    place, window = faulty("swapped")
    i, j = np.flatnonzero(window.bad)
    assert (window.values[-1, [i, j]] == place.clean.values[-1, [j, i]]).all()
    _, window = faulty("drop-out", 1)
    assert np.isnan(window.values[:, window.bad]).any()


def test_cases_have_all_reasons_the_memory_ends_before_the_window_and_a_seed_repeats_itself() -> None:
    (cases,) = batches([series()], CONFIG, count=1, batch=256, whole=True, seed=3)
    assert torch.bincount(cases.reason, minlength=9).min() > 5
    assert cases.windows.shape == (256, 33, WIDTH) and cases.history.memory.shape == (256, 64, 2 * WIDTH + 1)
    (again,) = batches([series()], CONFIG, count=1, batch=256, whole=True, seed=3)
    assert torch.equal(cases.reason, again.reason)
    clean = cases.reason == 0
    rows = torch.from_numpy(series().values)
    first = [int((rows == window[0]).all(1).nonzero()[0, 0]) for window in cases.windows[clean]]
    remembered = [
        max(int((rows == row[:WIDTH]).all(1).nonzero()[0, 0]) for row in memory if not row.isnan().any())
        for memory in cases.history.memory[clean]
    ]
    assert all(last < start for last, start in zip(remembered, first, strict=True))


def test_series_without_a_place_for_a_window_are_refused() -> None:
    short = Series.of("a", np.arange(40.0), np.zeros((40, 1), np.float32))
    with pytest.raises(ValueError, match="expected a key with at least 100 readings, got none"):
        batches([short], CONFIG, count=1)
    flat = Series.of("a", np.arange(300.0), np.zeros((300, 1), np.float32))
    with pytest.raises(ValueError, match="with channels that change, found places for 0 of 8 windows"):
        drawn(np.random.default_rng(0), [flat], CONFIG, count=8, reason="swapped")


def test_a_series_begins_anew_after_a_pause_and_where_time_goes_back() -> None:
    times = np.concatenate([np.arange(50.0), 200 + np.arange(50.0), 100 + np.arange(20.0)])
    made = Series.of("a", times, np.zeros((120, 2), np.float32))
    assert made.begins.tolist() == [0, 50, 100] and made.begin(99) == 50 and made.channels == ("s1", "s2")


@pytest.mark.parametrize("time", ["time", "Timestamp", "cycle"])
def test_a_table_is_read_by_key_with_its_gaps_and_without_its_text(tmp_path: Path, time: str) -> None:
    (tmp_path / "a.csv").write_text(
        f"{time},asset,flow,state,heat\n2,p,1.5,on,\n1,p,1.0,on,7\n1,q,,off,8\n2,q,,off,9\n", encoding="utf-8"
    )
    p, q = read(tmp_path)
    assert (p.key, p.times.tolist(), p.channels) == ("p", [1, 2], ("flow", "heat"))
    np.testing.assert_array_equal(p.values, np.array([[1.0, 7.0], [1.5, np.nan]], np.float32))
    assert (q.key, q.channels) == ("q", ("heat",)), "a channel that the key never has is none of its"


def test_a_date_is_a_time_and_a_file_without_a_key_is_one(tmp_path: Path) -> None:
    (tmp_path / "pump.csv").write_text("date;flow\n2024-05-01 12:00:00;1,5\n2024-05-01T14:01:00+02:00;2,5\n")
    (pump,) = read(tmp_path, decimal_comma=True)
    assert pump.key == "pump" and np.diff(pump.times).tolist() == [60] and pump.values[:, 0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "expected a column 'time', got a, b"),
        ("time,b\n1,x\n", "expected columns of numbers beside the time, got none"),
        ("time,b\nnoon,1\n", "line 2, column 'time': expected a number, or a time such as"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected CSV files with a time"):
        read(tmp_path / "nothing")


def test_plants_differ_and_a_seed_repeats_itself() -> None:
    once, again = plants(6, seed=2), plants(6, seed=2)
    assert all((a.values == b.values).all() and (a.times == b.times).all() for a, b in zip(once, again, strict=True))
    assert len({each.values.shape for each in once}) == 6
    assert all(np.isfinite(each.values).all() and (np.diff(each.times) > 0).all() for each in once)


def test_the_simulated_stream_has_one_fault_of_each_kind_in_its_last_third() -> None:
    table, faults = readings(8, 600, seed=0)
    assert [fault.reason for fault in faults] == list(REASONS) and table.columns == ["asset", "time", *CHANNELS]
    clean, none = readings(8, 600, seed=0, faults=False)
    assert not none and len(clean) == len(table) == 8 * 600
    for fault in faults:
        own, before = (frame.filter(pl.col("asset") == fault.asset) for frame in (table, clean))
        differ = [a != b for a, b in zip(own.rows(), before.rows(), strict=True)]
        at = np.flatnonzero(differ)
        assert 400 <= fault.first <= at[0] + 1 and at[-1] <= fault.last
