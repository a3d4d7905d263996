"""RUL networks and recipes compared in folds by engine, on the training engines of C-MAPSS alone.

    python -m benchmarks.rul --data DIR [--subset FD001] [--seeds 3] [--only fading,recurrent]

Each engine is judged by a network that has not seen it. A row is printed for each variant: mean and spread over the seeds of RMSE
and NASA score (of 100 rows) over the rows with a true RUL of at most 150, labels capped at 125; the RMSE of the first 29 rows; and
that of lives that are known only from a random row on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import cmapss, lives, read_cmapss
from tocsin.models.rul.evaluate import metrics
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.split import deal
from tocsin.models.rul.train import RECIPES, Recipe, epochs, predict, shown
from tocsin.models.training import begin

BEYOND, SHORT, FOLDS = 150, 29, 5

Variant = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What a variant changes in the config, and in the recipe."""
VARIANTS: dict[str, Variant] = {
    "fading": ({}, {}),
    "bands of 10 and 50": ({"spans": (10.0, 50.0)}, {}),
    "bands of 30": ({"spans": (30.0,)}, {}),
    "noise 0.1": ({}, {"noise": 0.1}),
    "noise 0.3": ({}, {"noise": 0.3}),
    "no shift": ({}, {"shift": 0.0}),
    "shift 0.6": ({}, {"shift": 0.6}),
    "squared error alone": ({}, {"asymmetry": 0.0}),
    "gradients clipped to 1": ({}, {"clip": 1.0}),
    "whole lives alone": ({}, {"only_whole": True}),
    "two layers": ({"hidden": (64, 64)}, {}),
    "width 128": ({"hidden": (128, 128, 128)}, {}),
    "60 epochs": ({}, {"epochs": 60}),
    "one regime": ({"regimes": 1}, {}),
    "recurrent": ({"model": "recurrent"}, {}),
    "fusion": ({"model": "fusion"}, {}),
}


def crossed(
    data: Path, subset: str, config: RulConfig, recipe: Recipe, seed: int, *, only_whole: bool = False
) -> dict[str, float]:
    """Train a network for each fold, and judge each engine by the one that has not seen it."""
    begin(100, threads=1)  # the same late starts and folds for all
    known = shown(lives(read_cmapss(data, subset), config))
    first = known.of(torch.arange(len(known.keys) // 2))
    folds = [*deal(known, FOLDS)]
    scaling = Scaling.fit(known, settings=len(config.settings), regimes=config.regimes)
    samples, rows = Samples(known, config, scaling), torch.arange(len(known))
    shares, whole = torch.empty(len(known), 3), rows < len(first)
    begin(seed)
    for inside in folds:
        training = rows[~inside & whole] if only_whole else rows[~inside]
        network = [each for each, _ in epochs(samples, training, config, recipe)][-1]
        shares[inside] = predict(network, samples, rows[inside])
    rul, near = (shares[:, 0] * config.cap).clamp(0, config.cap), known.rul <= BEYOND

    def figures(chosen: Tensor) -> dict[str, float]:
        return metrics(rul[chosen], known.rul[chosen].clamp(max=config.cap), cap=config.cap)

    old = near & whole & (known.place >= SHORT)
    found = figures(old)
    return {
        "rmse": found["rmse"],
        "score": 100 * found["score"] / int(old.sum()),
        "short": figures(near & whole & (known.place < SHORT))["rmse"],
        "late": figures(near & ~whole)["rmse"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subset", default="FD001")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="variants, separated by commas")
    args = parser.parse_args()
    for name in args.only.split(",") if args.only else VARIANTS:
        settings, changes = (dict(part) for part in VARIANTS[name])
        only_whole = bool(changes.pop("only_whole", False))
        hidden = settings.pop("hidden", None)
        config = replace(cmapss(args.subset), **settings)
        if hidden:
            config = replace(config, network=replace(config.network, hidden=hidden))
        recipe = replace(RECIPES[config.model], **changes)
        found = [
            crossed(args.data, args.subset, config, recipe, seed, only_whole=only_whole) for seed in range(args.seeds)
        ]
        columns = {figure: np.array([each[figure] for each in found]) for figure in found[0]}
        text = ", ".join(f"{figure} {values.mean():.2f} ± {values.std():.2f}" for figure, values in columns.items())
        print(f"{args.subset} {name}: {text}", flush=True)


if __name__ == "__main__":
    main()
