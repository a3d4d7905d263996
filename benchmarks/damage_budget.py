"""Quality and time of a patch budget on frames of 1080p: by the model's confidence, by chance, and by an oracle.

`python -m benchmarks.damage_budget DIR ... [--frames 48] [--model DIR]`: frames are simulated over the intact pictures of folders,
see `tocsin.models.damage.pictures`, which the model must not have been trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from tocsin.models.damage.frames import batch, thin
from tocsin.models.damage.model import SHIPPED, DamageModel, load
from tocsin.models.damage.pictures import labelled
from tocsin.models.damage.simulation.frames import frame
from tocsin.models.ranking import auroc
from tocsin.models.vision.picture import scaled
from tocsin.operators.budget import least_sure, refine

BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
ORDERS = ("confidence", "chance", "oracle")
SEED = 9


class Curve:
    """Places' scores and truths, and pictures', for each order and budget."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, float], list[np.ndarray]] = {(o, b): [] for o in ORDERS for b in BUDGETS}
        self.pictures: dict[tuple[str, float], list[float]] = {key: [] for key in self.places}
        self.truths: list[np.ndarray] = []
        self.kinds: list[int] = []

    def add(
        self, model: DamageModel, picture: np.ndarray, kind: int, mask: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Look at a frame at each budget. Every patch is looked at once, and each budget takes its own."""
        plan = model.plan((picture.shape[0], picture.shape[1]))
        size = plan.size[0] * plan.finer, plan.size[1] * plan.finer
        fine, grid = scaled(picture, size), (plan.grid[0] * plan.finer, plan.grid[1] * plan.finer)
        _, judged = model.judge(batch([scaled(picture, plan.size)]))
        close = model.looks(fine, plan, torch.arange(len(plan.corners)))
        truth = cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA) > 0.1
        rows, columns = plan.side
        covered = torch.tensor([float(truth[y : y + rows, x : x + columns].sum()) for y, x in plan.corners.tolist()])
        orders: dict[str, Tensor] = {
            "confidence": model.confidence(judged, thin(fine, plan.grid), plan),
            "chance": torch.from_numpy(rng.random(len(covered))),
            "oracle": -covered,
        }
        coarse = model.enlarged(judged, plan)
        self.truths.append(truth.ravel())
        self.kinds.append(kind)
        for order, confidence in orders.items():
            for budget in BUDGETS:
                count = round(budget * len(covered))
                places = refine(coarse, confidence, plan.corners, lambda n: close.places[n], count=count)
                logits = torch.cat([judged.pictures, close.pictures[least_sure(confidence, count)]]).amax(0)
                self.places[order, budget].append(places.amax(0).sigmoid().numpy().ravel().astype(np.float16))
                self.pictures[order, budget].append(float(1 - logits.softmax(0)[0]))

    def line(self, order: str, budget: float) -> str:
        """Average precision of places, and AUROC of frames."""
        truth = np.concatenate(self.truths)
        scores = np.concatenate(self.places[order, budget]).astype(np.float32)
        damaged = auroc(np.array(self.pictures[order, budget]), np.array(self.kinds) > 0)
        return f"{average_precision(scores, truth):.3f} | {damaged:.3f}"


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of the precision at each true place, from the highest score down."""
    hits = truth[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model, rng, curve = load(options.model, "cpu"), np.random.default_rng(SEED), Curve()
    real = [one.read() for folder in options.folders for one in labelled(folder)[0] if one.kind == "intact"]
    spent: dict[float, list[float]] = {budget: [] for budget in BUDGETS}
    for number in range(options.frames):
        picture, kind, mask = frame(rng, real)
        curve.add(model, picture, kind, mask, rng)
        for budget in BUDGETS if number < 8 else ():
            begin = time.process_time()
            model(picture, budget=budget)
            spent[budget].append(time.process_time() - begin)
    print(
        f"{options.frames} frames, {sum(kind > 0 for kind in curve.kinds)} with damage; AP of places | AUROC of frames"
    )
    print("| budget | CPU ms | confidence | chance | oracle |")
    for budget in BUDGETS:
        parts = " | ".join(curve.line(order, budget).replace(" | ", ", ") for order in ORDERS)
        print(f"| {budget:.0%} | {1000 * np.median(spent[budget]):.0f} | {parts} |")


if __name__ == "__main__":
    main()
