"""Adapt the occupancy model of other buildings to a room by a few of its labelled days, beside the shared network, fine-tuning and
training anew; a table of `benchmarks.adapters`.

Each room's days are split once: a third of them judges, and the labelled days are drawn from the rest, other ones for each seed.
ROBOD's terms do not allow shipping, so no base network learns from it.
"""

from __future__ import annotations

import copy
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from tocsin.models.adaptation import Adapted
from tocsin.models.occupancy.adapt import GAIN, RECIPE, Day, adapt, by_room, days, figures, predict
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.data import read
from tocsin.models.occupancy.model import OccupancyModel
from tocsin.models.occupancy.train import Recipe, Room, fit, labelled, learn, rooms
from tocsin.models.training import begin
from tocsin.pipelines.occupancy import minutes

SEEDS, DAYS = range(3), (1, 3, 10)
TRAINING, JUDGING = ("uci", "sdu", "windesheim"), ("sdu", "windesheim", "robod")
WHOLE, LEAST = 600, 5
"""Labelled minutes of a day that is used, and days that judge at least."""
EVERY = 3
"""Of each third minute's answer the figures are made, since adjacent minutes are alike."""
CONFIG = OccupancyConfig()
ANEW = Recipe(batch=128)
FINE_TUNING = 1e-3
"""Learning rate of fine-tuning all weights with the adapter's other settings: the best of 1e-3 and 3e-4 on other days."""
METHODS = ("shared network", "adapter", "adapter if the command accepts it", "fine-tuning", "training anew")


def quality(directory: Path) -> None:
    """Print F1 on days that nothing was trained on, by the number of labelled days: the mean over rooms, and each room's."""
    tables = {name: _minutes(directory / f"occupancy_{name}") for name in {*TRAINING, *JUDGING}}
    found = defaultdict[tuple[int, str, str], list[float]](list)
    names = list[str]()
    for building in JUDGING:
        others = [rooms(tables[name], CONFIG.features) for name in TRAINING if name != building]
        bases = [fit(others, CONFIG, seed=seed) for seed in SEEDS]
        for (room,), table in tables[building].partition_by("room", as_dict=True, maintain_order=True).items():
            names.append(name := f"{building} {room}")
            pool, test = _split(days(table, CONFIG))
            for seed, base in zip(SEEDS, bases, strict=True):
                for count in DAYS:
                    for method, f1 in _each(base, _drawn(pool, count, seed), test, seed).items():
                        found[count, name, method].append(f1)
            print(name, *(f"{count}: {_row(found, count, [name])}" for count in DAYS), flush=True)
    print(f"\n| days | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
    for count in DAYS:
        print(f"| {count} | {_row(found, count, names)} |")


def _each(base: OccupancyModel, known: Sequence[Day], test: Sequence[Day], seed: int) -> dict[str, float]:
    """F1 of each method."""
    adapted = adapt(base, "room", known, seed=seed, folds=5)
    shared, own = _f1(base, test), _f1(adapted.model.at("room"), test)
    return dict(
        zip(
            METHODS,
            (
                shared,
                own,
                own if _accepted(adapted) else shared,
                _f1(_fine_tuned(base, known, seed), test),
                _f1(_anew(known, seed), test),
            ),
            strict=True,
        )
    )


def _accepted(adapted: Adapted[OccupancyModel]) -> bool:
    return adapted.figures.get("f1", 0.0) >= adapted.figures["f1_shared"] + GAIN


def _fine_tuned(base: OccupancyModel, known: Sequence[Day], seed: int) -> OccupancyModel:
    begin(seed, threads=1)
    network = copy.deepcopy(base.network).requires_grad_(True)
    learned = learn(network, [by_room(known)], base.config, replace(RECIPE, learning_rate=FINE_TUNING))
    return OccupancyModel(base.config, learned, torch.device("cpu"))


def _anew(known: Sequence[Day], seed: int) -> OccupancyModel:
    """A network that learns from these days alone."""
    only = []
    for room, rows in by_room(known):
        occupied = torch.full_like(room.occupied, torch.nan)
        occupied[rows] = room.occupied[rows]
        only.append(Room(room.features, occupied))
    return fit([only], CONFIG, ANEW, seed=seed)


def _minutes(directory: Path) -> pl.DataFrame:
    recording = read(directory)
    return labelled(minutes(recording), recording.truth)


def _split(known: Sequence[Day]) -> tuple[list[Day], list[Day]]:
    """The days to draw from, ten at least, and those that judge: a third of those with people and a third of those without."""
    whole = [day for day in known if sum(len(rows) for _, rows in day) >= WHOLE]
    draw = torch.Generator().manual_seed(7)
    by_kind = [[day for day in whole if (0 < _share(day) < 1) == kind] for kind in (True, False)]
    mixed, other = ([part[n] for n in torch.randperm(len(part), generator=draw).tolist()] for part in by_kind)
    judging = min(max(LEAST, len(whole) // 3), len(whole) - max(DAYS))
    at = round(judging * len(mixed) / len(whole))
    test = [*mixed[:at], *other[: judging - at]]
    return [*mixed[at:], *other[judging - at :]], [[(room, rows[::EVERY]) for room, rows in day] for day in test]


def _drawn(pool: Sequence[Day], count: int, seed: int) -> list[Day]:
    """Some days, of which the first has minutes with people and minutes without."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    first = next(number for number in order if 0 < _share(pool[number]) < 1)
    return [pool[number] for number in [first, *(number for number in order if number != first)][:count]]


def _share(day: Day) -> float:
    """The share of a day's minutes with people."""
    return float(torch.cat([room.occupied[rows] for room, rows in day]).mean())


def _f1(model: OccupancyModel, test: Sequence[Day]) -> float:
    return figures(test, predict(model, test), model.config)["f1"]


def _row(found: dict[tuple[int, str, str], list[float]], count: int, names: Sequence[str]) -> str:
    """The mean over rooms with each method, and the spread of the seeds."""
    cells = []
    for method in METHODS:
        means = [
            statistics.mean(by_seed) for by_seed in zip(*(found[count, name, method] for name in names), strict=True)
        ]
        cells.append(f"{statistics.mean(means):.3f} ± {statistics.pstdev(means):.3f}")
    return " | ".join(cells)
