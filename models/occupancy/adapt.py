"""Adaptation of an occupancy model to one site, a room or a building, by a few of its labelled days."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tocsin.models.adaptation import FOLDS, Adapted, Report, by_the_others, own_or_shared
from tocsin.models.adapters import OneSite
from tocsin.models.gate import Candidate
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.model import OccupancyModel, load
from tocsin.models.occupancy.train import Recipe, Room, learn, rooms
from tocsin.models.training import begin

RECIPE = Recipe(steps=100, learning_rate=1e-2, weight_decay=0.0, averaging=0.9, balance=1.0)
"""Occupied and empty minutes weigh the same, since the share of a few days says little about other days."""
GAIN = 0.02
"""F1 that an adapter must gain over the shared network, on days that it was not fitted to, to become champion."""
Day = Sequence[tuple[Room, Tensor]]
"""A labelled day of a site: its rooms, and their rows `[N] int64` that end windows and whose truth is known."""


def days(table: pl.DataFrame, config: OccupancyConfig, *, most: int | None = None) -> list[Day]:
    """The labelled days of a site's rooms, in order.

    Args:
        table: labelled minutes of rooms, with the local `day`.
        most: number of days, the first ones; None: all.

    Raises:
        ValueError: there is none, or people are always or never there.
    """
    found = defaultdict[int, list[tuple[Room, Tensor]]](list)
    table = table.sort("room", "time")
    parts = table.partition_by("room", maintain_order=True)
    for part, room in zip(parts, rooms(table, config.features), strict=True):
        ends = room.known(config.window)
        day = part["day"].to_physical().cast(pl.Int64).to_torch()[ends]
        for each in day.unique().tolist():
            found[each].append((room, ends[day == each]))
    made: list[Day] = [found[day] for day in sorted(found)[:most]]
    occupied = _truth(made)
    if not 0 < occupied.sum() < len(occupied):
        what = f"only {'occupied' if occupied.any() else 'empty'} ones" if len(occupied) else "none with a truth"
        raise ValueError(f"expected minutes with people and minutes without any, got {what}; label other days, too")
    return made


def adapt(
    model: OccupancyModel,
    site: str,
    known: Sequence[Day],
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    folds: int = FOLDS,
    progress: Report = lambda done, total: None,
) -> Adapted[OccupancyModel]:
    """Fit a site's adapter; the network and the other sites' adapters stay as they are.

    Args:
        known: the site's labelled days.
        folds: parts of the days, at most; each part is judged by an adapter of the others.
        progress: called with the number of adapters that are fitted and with their total.

    Returns:
        The model, and its metrics; `f1_shared`: of the network alone.
    """

    def fitted(numbers: list[int]) -> tuple[OccupancyModel, list[float]]:
        return _fitted(model, site, [known[number] for number in numbers], recipe, seed)

    apart, (adapted, curve) = by_the_others(len(known), fitted, folds=folds, progress=progress)
    judged = [known[number] for part, _ in apart for number in part]
    found = [predict(one.at(site), [known[number] for number in part]) for part, (one, _) in apart]
    own = figures(judged, torch.cat(found), model.config) if found else {}
    shared = figures(known, predict(model, known), model.config)
    return Adapted(adapted, {**own, "f1_shared": shared["f1"]}, curve)


def candidate(folder: Path, site: str, known: Sequence[Day], f1: float, shared: float) -> Candidate:
    """A model with a site's adapter, saved in `folder`, as a candidate for champion.

    Args:
        known: the site's labelled days.
        f1: over these days, each judged by an adapter of the others; NaN if nothing judged it.
        shared: F1 of the network alone.
    """

    def against(other: Path) -> tuple[float, float]:
        champion = load(other, "cpu")
        return f1, figures(known, predict(own_or_shared(champion, site), known), champion.config)["f1"]

    return Candidate(
        measure="F1 of the site's days",
        lower=False,
        score=None if math.isnan(f1) else f1,
        outputs=lambda: [predict(load(folder, "cpu").at(site), known)],
        against=against,
        floor=(f"{GAIN} above that of the shared network", shared + GAIN),
    )


def predict(model: OccupancyModel, known: Sequence[Day]) -> Tensor:
    """The probability of each row of some days `[N]`, without adapters."""
    windows = (
        room.windows(part, model.config.window) for day in known for room, rows in day for part in rows.split(4096)
    )
    return torch.cat([model(each)["probability"] for each in windows])


def by_room(known: Sequence[Day]) -> list[tuple[Room, Tensor]]:
    """The rows of some days, by room."""
    found = dict[int, tuple[Room, list[Tensor]]]()
    for day in known:
        for room, rows in day:
            found.setdefault(id(room), (room, []))[1].append(rows)
    return [(room, torch.cat(parts)) for room, parts in found.values()]


def figures(known: Sequence[Day], probability: Tensor, config: OccupancyConfig) -> dict[str, float]:
    """The metrics of predictions `[N]`; see `predict`."""
    p = probability.numpy()
    found = metrics(_truth(known), p >= config.threshold, p)
    return {name: found[name] for name in ("f1", "precision", "recall", "accuracy")}


def _fitted(
    model: OccupancyModel, site: str, known: Sequence[Day], recipe: Recipe, seed: int
) -> tuple[OccupancyModel, list[float]]:
    """The model with an adapter of some days, and the loss of each step."""
    begin(seed, threads=1)
    curve = list[float]()
    network = learn(
        OneSite(model.network.cpu()),
        [by_room(known)],
        model.config,
        recipe,
        progress=lambda _, loss: curve.append(loss),
    )
    sites = network.added(model.sites, site, {})
    return OccupancyModel(model.config, model.network, torch.device("cpu"), sites), curve


def _truth(known: Sequence[Day]) -> np.ndarray:
    parts = [room.occupied[rows] > 0.5 for day in known for room, rows in day]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *parts]).numpy()
