"""Training of the closer looks, on simulated frames whose damage is at known places; the network stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.damage.closer import Closer
from tocsin.models.damage.frames import CELL, batch, lost
from tocsin.models.damage.lessons import targets
from tocsin.models.damage.model import DamageModel
from tocsin.models.damage.simulation.frames import frame
from tocsin.models.damage.train import Recipe
from tocsin.models.training import Optimization, begin
from tocsin.models.vision.picture import scaled

LOOKS = 6
"""Patches of a frame that are looked at closely in training, half of them damaged ones if there are."""
SIZES = ((1080, 1920), (720, 1280))


@dataclass(frozen=True)
class Glance:
    """A frame as the closer looks see it.

    Args:
        features, places, lost: of the coarse look, `[C, h, w]`, `[3, h, w]` and `[2, h, w]`.
        wrong: `[h, w]`, how wrong the coarse look is, 0 to 1.
        context: `[P, C]`, its patches.
        looks: `[K, C, a, b]`, features of close looks, without context.
        wanted: `[K, 3, a, b]`, what their places should say.
    """

    features: Tensor
    places: Tensor
    lost: Tensor
    wrong: Tensor
    context: Tensor
    looks: Tensor
    wanted: Tensor


def glance(
    model: DamageModel, picture: NDArray[np.uint8], kind: int, mask: NDArray[np.float32], rng: np.random.Generator
) -> Glance:
    """Look at a frame, and at some of its patches closely."""
    plan = model.plan((picture.shape[0], picture.shape[1]))
    _, judged = model.judge(batch([scaled(picture, plan.size)]))
    size = plan.size[0] * plan.finer, plan.size[1] * plan.finer
    fine, grid = scaled(picture, size), (plan.grid[0] * plan.finer, plan.grid[1] * plan.finer)
    share = torch.from_numpy(cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA))
    wanted = targets(torch.tensor([kind]), share[None])  # [1, 3, *grid]
    here = F.max_pool2d(wanted, plan.finer)[0]
    rows, columns = plan.side
    cut = torch.stack([wanted[0, :, y : y + rows, x : x + columns] for y, x in plan.corners.tolist()])
    damaged = cut.flatten(1).amax(1) > 0.3
    order = torch.from_numpy(rng.permutation(len(cut)))
    first = torch.cat([order[damaged[order]][: LOOKS // 2], order])
    chosen = torch.from_numpy(np.unique(first[: LOOKS + 1].numpy())[:LOOKS])
    corners = (CELL * plan.corners[chosen]).tolist()
    _, close = model.judge(batch([fine[y : y + CELL * rows, x : x + CELL * columns] for y, x in corners]))
    return Glance(
        judged.features[0].clone(),
        judged.places[0].clone(),
        lost(fine, plan.grid),
        (judged.places[0].sigmoid() - here).abs().amax(0),
        model.context(judged, plan).clone(),
        close.features.clone(),
        cut[chosen],
    )


def glances(
    model: DamageModel,
    real: Sequence[NDArray[np.uint8]],
    count: int,
    *,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Glance]:
    """Simulated frames, as `glance` sees them."""
    rng, found = np.random.default_rng([5, seed]), []
    for number in range(count):
        found.append(glance(model, *frame(rng, real, SIZES[number % len(SIZES)], share=0.8), rng))
        progress()
    return found


def fit_closer(model: DamageModel, lessons: Sequence[Glance], recipe: Recipe, *, seed: int) -> Closer:
    """Train the closer looks of a model: how sure the coarse look is, and what close ones make of their context."""
    begin(seed, threads=1)
    closer, rng = Closer(model.config.network.width), np.random.default_rng(seed)
    optimization = Optimization(closer.train(), steps=recipe.closer_steps, learning_rate=2e-3, weight_decay=1e-2)
    for _ in range(recipe.closer_steps):
        losses = []
        for number in rng.integers(0, len(lessons), 3):
            of = lessons[number]
            unsure = closer.unsure(of.features[None], of.places[None], of.lost[None])[0]
            doubt = F.binary_cross_entropy_with_logits(unsure, of.wrong, reduction="none")
            losses.append((doubt * (1 + 4 * of.wrong)).mean())
            places = model.network.place(closer.context(of.looks, of.context))
            each = F.binary_cross_entropy_with_logits(places, of.wanted, reduction="none")
            losses.append((each * (1 + 3 * of.wanted)).mean())
        optimization.step(torch.stack(losses).sum() / 3)
    return closer.eval()
