"""Bookings and holidays in occupancy: a prior by kind of interval beside a network that reads the intervals, and neither.

Run `python -m benchmarks.bookings [SEED ...]`. All networks are trained on the same simulated meeting rooms, the shifts
of the prior are fitted to the rooms of a second building, and all are judged on a third. The last rows are the shipped network, and
the same with the shipped shifts.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tocsin.models.occupancy import config as configs
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.model import OccupancyModel, load
from tocsin.models.occupancy.simulation.bookings import booked
from tocsin.models.occupancy.simulation.sensors import TEST_SEEDS
from tocsin.models.occupancy.train import fit, labelled, probabilities, rooms, truth
from tocsin.models.timetable import EVERY
from tocsin.models.training import begin
from tocsin.pipelines.occupancy import OccupancyOptions, minutes
from tocsin.pipelines.parts.bookings import BOOKED, HOLIDAY, shifted

DAYS = 14
FREE_STATE, BOOKED_STATE, HOLIDAY_STATE = range(3)
FIGURES = ("f1", "precision", "recall", "auroc")


def main(seeds: Sequence[int]) -> None:
    """Print the figures of each variant by seed, and their mean and spread."""
    begin(0, threads=1)
    training, choosing, unseen = (_building(n, seed) for n, seed in ((10, 1), (6, 2), (10, TEST_SEEDS[0])))
    usual = configs.OccupancyConfig()
    configs.FEATURES = (*configs.FEATURES, BOOKED, HOLIDAY)
    aware = configs.OccupancyConfig(features=(*usual.features, BOOKED, HOLIDAY))
    found, states = defaultdict[str, list[list[float]]](list), _states(unseen, usual.window)
    for seed in seeds:
        plain = fit([rooms(training, usual.features)], usual, seed=seed)
        shifts = _fitted(*_judged(plain, choosing), _states(choosing, usual.window))
        p, occupied = _judged(plain, unseen)
        network, _ = _judged(fit([rooms(training, aware.features)], aware, seed=seed), unseen)
        found["the bookings alone"].append(_figures(occupied, np.where(states == BOOKED_STATE, 0.9, 0.1)))
        found["network without context"].append(_figures(occupied, p))
        found["and a prior by kind of interval"].append(_figures(occupied, shifted(p, shifts[states])))
        found["network that reads the intervals"].append(_figures(occupied, network))
        print(
            f"seed {seed}: shifts {np.round(shifts, 2)}", *(f"{name} {rows[-1][0]:.3f}" for name, rows in found.items())
        )
    p, occupied = _judged(load(), unseen)
    options = OccupancyOptions()
    shifts = np.array([options.free, options.booked, options.holiday])
    found["shipped network"].append(_figures(occupied, p))
    found["and the shipped prior"].append(_figures(occupied, shifted(p, shifts[states])))
    print(f"| | {' | '.join(FIGURES)} |")
    for name, rows in found.items():
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(np.mean(rows, 0), np.std(rows, 0), strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


def _building(count: int, seed: int) -> pl.DataFrame:
    """The labelled minutes of meeting rooms, with `booked` and `holiday`."""
    recording, intervals = booked(rooms=count, days=DAYS, seed=seed)
    table = labelled(minutes(recording), recording.truth).sort("room", "time")
    room, time, known = table["room"].to_numpy(), table["time"].to_numpy(), np.zeros((2, len(table)))
    for asset, kind, start, end in intervals.iter_rows():
        inside = (start <= time) & (time < end) & ((room == asset) | (asset == EVERY))
        known[int(kind == HOLIDAY), inside] = 1
    return table.with_columns(pl.Series(BOOKED, known[0]), pl.Series(HOLIDAY, known[1]))


def _judged(model: OccupancyModel, table: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    parts = rooms(table, model.config.features)
    return probabilities(model, parts).astype(np.float64), truth(parts, model.config.window)


def _states(table: pl.DataFrame, window: int) -> NDArray[np.int64]:
    """What is known of the minutes of `_judged`."""
    found = []
    for room in table.sort("room", "time").partition_by("room", maintain_order=True):
        judged = np.flatnonzero(room["occupied"].is_not_null().to_numpy())
        state = np.where(room[HOLIDAY].to_numpy() > 0, HOLIDAY_STATE, room[BOOKED].to_numpy() > 0)
        found.append(state[judged[judged >= window - 1]])
    return np.concatenate(found).astype(np.int64)


def _fitted(p: NDArray[np.float64], occupied: NDArray[np.bool_], states: NDArray[np.int64]) -> NDArray[np.float64]:
    """The shift of each state with the greatest likelihood, among tenths; in doubt the smallest."""
    grid = sorted(np.arange(-60, 61) / 10, key=abs)
    shifts = np.zeros(3)
    for state in range(3):
        own, is_true = p[states == state].clip(1e-6, 1 - 1e-6), occupied[states == state]
        losses = [
            -np.log(np.where(is_true, q, 1 - q)).sum() + b * b / 2 for b in grid for q in [shifted(own, np.array(b))]
        ]
        shifts[state] = grid[int(np.argmin(losses))]
    return shifts


def _figures(occupied: NDArray[np.bool_], p: NDArray[np.float64]) -> list[float]:
    found = metrics(occupied, p >= 0.5, p)
    return [found[name] for name in FIGURES]


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
