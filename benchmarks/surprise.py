"""Measure how well the model and its baselines find underwater events; `docs/surprise.md` shows the tables.

    python -m benchmarks.surprise [KEEP]

A run takes over an hour on one core. Models are stored in KEEP (default: build/surprise), and an interrupted run resumes with
those. `benchmarks.surprise_real` measures real pictures.

Each form's level is chosen on the validation dives, and then used unchanged on the test dives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.kept import load_or_fit
from benchmarks.spread import spread
from tocsin.models.surprise.baselines import bank, difference, nearest, uniform
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.domain import RATE, load_footage
from tocsin.models.surprise.evaluate import Counted, at_recall, best, counted, curve, levels
from tocsin.models.surprise.model import SurpriseModel
from tocsin.models.surprise.model import load as load_model
from tocsin.models.surprise.simulation.scene import LESSON_SEEDS, TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from tocsin.models.surprise.train import Footage, Recipe, fit, score_clip
from tocsin.models.vision.encoder import Encoder, load

SEEDS = range(3)
RECALL = 0.788
Score = Callable[[Footage], Tensor]


class Form(NamedTuple):
    """A way to score clips: one score function per seed, and the detectors that are tried on the scores."""

    scores: Sequence[Score]
    levels: Sequence[DetectorConfig]


def main(keep: Path) -> None:
    torch.set_num_threads(1)
    config = SurpriseConfig()
    encoder = load(size=(config.encoder.height, config.encoder.width), layer=config.encoder.layer)
    train, validation, test = (
        [load_footage(seed, encoder, covers=seed in LESSON_SEEDS) for seed in seeds]
        for seeds in (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS)
    )
    report(train, validation, {"test dives": test}, config, encoder, keep)


def report(
    train: Sequence[Footage],
    validation: Sequence[Footage],
    tests: dict[str, Sequence[Footage]],
    config: SurpriseConfig,
    encoder: Encoder,
    keep: Path,
    recipe: Recipe | None = None,
) -> None:
    """Print a table for each set of test clips."""

    def fitted(name: str, clips: Sequence[Footage], config: SurpriseConfig, seed: int) -> SurpriseModel:
        return load_or_fit(
            keep / name, partial(fit, clips, config, encoder, recipe, seed=seed), partial(load_model, device="cpu")
        )

    d, forms = config.detector, dict[str, Form]()
    for name, compensates in (("with ego-motion", True), ("uncompensated", False)):
        variant = replace(config, network=replace(config.network, compensates=compensates))
        models = [fitted(f"{name}-{seed}", train, variant, seed) for seed in SEEDS]
        forms[name] = Form([partial(score_clip, model) for model in models], levels(d, triaged=True))
    uncovered, name = [replace(clip, covered=None) for clip in train], "error alone, no triage"
    blind = [fitted(f"{name}-0", uncovered, config, 0)]
    forms[name] = Form([partial(score_clip, model) for model in blind], levels(d, triaged=False))
    known = bank(train)
    forms["kNN novelty"] = Form([lambda clip: nearest(clip, known)], levels(d, triaged=False))
    forms["frame difference"] = Form([difference], levels(d, triaged=False))
    chosen = dict[str, list[DetectorConfig]]()
    for title, clips in {"validation dives": validation, **tests}.items():
        print(f"\n### {title}: {sum(len(c.novelties) for c in clips)} novelties in {_minutes(clips):.0f} minutes\n")
        print(
            "| form | precision | recall | F1 | false an hour | frames saved | false at recall 0.788 | curve (recall/precision) |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for name, form in forms.items():
            found = [_curve(score, clips, form.levels) for score in form.scores]
            levelled = chosen.setdefault(name, [best(some) for some in found])  # validation dives come first
            _line(name, found, levelled)
        pace = [counted(uniform(len(c.tokens), 100), [False] * len(c.tokens), c.novelties, rate=RATE) for c in clips]
        print(f"| an alert every 10 s | {_figures([sum(pace, Counted())])} | | |", flush=True)


def _curve(score: Score, clips: Sequence[Footage], levels: Sequence[DetectorConfig]) -> dict[DetectorConfig, Counted]:
    return curve([score(clip) for clip in clips], [clip.novelties for clip in clips], levels, rate=RATE)


def _line(name: str, found: Sequence[dict[DetectorConfig, Counted]], chosen: Sequence[DetectorConfig]) -> None:
    """Print a form's line: figures at the chosen levels, false alerts at a given recall, and the curve of the first seed."""
    counts = [some[detector] for some, detector in zip(found, chosen, strict=True)]
    reached = [at_recall(some, RECALL) for some in found]
    falses = " ".join(str(count.false) if count else "-" for count in reached)
    traced = " ".join(
        f"{f['recall'] or 0:.2f}/{f['precision'] or 0:.2f}" for f in (c.figures() for c in found[0].values())
    )
    print(f"| {name} | {_figures(counts)} | {falses} | {traced} |", flush=True)


def _figures(counts: Sequence[Counted]) -> str:
    """Format the figures as mean and spread over seeds."""
    cells = []
    for figure, digits in (("precision", 2), ("recall", 2), ("f1", 2), ("false_per_hour", 0), ("saved", 3)):
        values = [value for count in counts if (value := count.figures()[figure]) is not None]
        cells.append(spread(values, digits) if values else "-")
    return " | ".join(cells)


def _minutes(clips: Sequence[Footage]) -> float:
    return sum(len(clip.tokens) for clip in clips) / RATE / 60


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/surprise"))
