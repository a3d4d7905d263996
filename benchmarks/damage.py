"""Damage across data sets: trained on some, judged on another that no training saw, beside baselines. Tables of docs/damage.md.

`python -m benchmarks.damage MASONRY SALT BRICK [--steps 250] [--seeds 0 1 2] [--drawn 3600] [--tables ...]`: three folders of
pictures, see `tocsin.models.damage.pictures`. On one core, a seed of a form takes a minute, and the pictures of a table three.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.damage.config import DamageConfig
from tocsin.models.damage.evaluate import figures, lines
from tocsin.models.damage.lessons import Collected, Lessons, augmented, drawn, fitted
from tocsin.models.damage.network import CLASSES, NetworkConfig
from tocsin.models.damage.pictures import Labelled, held_back, labelled
from tocsin.models.damage.train import Recipe, fit, judged_all
from tocsin.models.damage.trunk import Trunk
from tocsin.models.ranking import auroc

FORMS = {
    "multi-scale excitation": NetworkConfig(),
    "plain convolution": NetworkConfig(mechanism=False),
}
Judge = Callable[[Sequence[Lessons]], tuple[Tensor, Tensor]]
"""Lessons -> logits `[N, 4]` and classes `[N]`."""


def lessons(sets: Sequence[Sequence[Labelled]], drawings: int, recipe: Recipe, trunk: Trunk) -> list[Lessons]:
    """Augmented pictures of each set, and drawings, some of them over the sets' intact pictures, as the last source."""
    rng, collected = np.random.default_rng(1), Collected(trunk)
    for source, pictures in enumerate(sets):
        copies = min(recipe.copies, max(1, recipe.most // len(pictures)))
        for picture in pictures:
            image = picture.read()
            for number in range(copies):
                collected.add(augmented(rng, image), picture.number, source=source, copy=number > 0)
    real = [picture.read() for pictures in sets for picture in pictures if picture.kind == "intact"]
    for _ in range(drawings):
        picture, kind, mask = drawn(rng, real)
        collected.add(picture, kind, source=len(sets), mask=mask)
    return collected.lessons()


def clean(pictures: Sequence[Labelled], trunk: Trunk) -> list[Lessons]:
    """Pictures as they are."""
    collected = Collected(trunk)
    for picture in pictures:
        collected.add(fitted(picture.read()), picture.number, source=0)
    return collected.lessons()


def probe(training: Sequence[Lessons]) -> Judge:
    """A linear classifier of the mean, the maximum and the spread of the encoder's tokens."""

    def summed(of: Lessons) -> Tensor:
        maps = [of.seen.tokens.float().flatten(2), of.seen.wide.float().flatten(2)]
        return torch.cat([part for m in maps for part in (m.mean(2), m.amax(2), m.std(2))], 1)

    x, y = torch.cat([summed(of) for of in training]), torch.cat([of.kinds for of in training])
    mean, scale = x.mean(0), x.std(0) + 1e-3
    linear = torch.nn.Linear(x.shape[1], len(CLASSES))
    weights = 1 / torch.bincount(y, minlength=len(CLASSES)).clamp(min=1)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100)

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear((x - mean) / scale), y, weight=weights) + 1e-2 * linear.weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)

    def judge(unseen: Sequence[Lessons]) -> tuple[Tensor, Tensor]:
        logits = [linear((summed(of) - mean) / scale).detach() for of in unseen]
        return torch.cat(logits), torch.cat([of.kinds for of in unseen])

    return judge


def said(judge: Judge, unseen: Sequence[Lessons]) -> tuple[float, float]:
    """Macro-F1 and AUROC."""
    logits, kinds = judge(unseen)
    found = figures(logits.softmax(1).numpy(), kinds.numpy())
    return found["macro_f1"] or 0.0, found["auroc"] or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--drawn", type=int, default=Recipe().drawn, help="drawings to train on, where there are any")
    parser.add_argument("--tables", nargs="+", type=int, help="which of the tables, from 1 [all]")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=[*FORMS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe, trunk = replace(Recipe(), steps=options.steps, drawn=options.drawn), Trunk(torch.device("cpu"))
    masonry, salt, brick = (labelled(folder)[0] for folder in options.folders)
    (masonry_first, masonry_last), (brick_first, brick_last) = held_back(masonry), held_back(brick)
    cracks = [picture for picture in masonry if picture.kind in ("intact", "crack")]
    tables = {
        "masonry and salt -> brick": ([masonry, salt], recipe.drawn, brick),
        "salt -> masonry": ([salt], recipe.drawn, masonry),
        "masonry -> salt": ([masonry], recipe.drawn, salt),
        "within masonry": ([masonry_first, salt], recipe.drawn, masonry_last),
        "brick -> masonry": ([brick], 0, cracks),
        "within brick": ([brick_first], 0, brick_last),
    }
    for number, (name, (sets, drawings, test)) in enumerate(tables.items(), 1):
        if options.tables and number not in options.tables:
            continue
        training, unseen = lessons(sets, drawings, recipe, trunk), clean(test, trunk)
        weights = [recipe.real] * len(sets) + [1.0] * bool(drawings)
        print(f"{name}: {len(test)} pictures", flush=True)
        for form, config in ((form, FORMS[form]) for form in options.forms):
            found = []
            for seed in options.seeds:
                network = fit(training, weights, DamageConfig(network=config), recipe, seed=seed)
                found.append(said(lambda given, network=network: judged_all(network, given), unseen))
            mean, spread = np.mean(found, 0), np.std(found, 0)
            print(
                f"  {form}: macro-F1 {mean[0]:.2f} ± {spread[0]:.2f}, AUROC {mean[1]:.2f} ± {spread[1]:.2f}", flush=True
            )
        print("  linear probe: macro-F1 {:.2f}, AUROC {:.2f}".format(*said(probe(training), unseen)))
        dark = np.array([lines(picture.read()) for picture in test])
        print(f"  dark lines: AUROC {auroc(dark, np.array([picture.number > 0 for picture in test])):.2f}", flush=True)


if __name__ == "__main__":
    main()
