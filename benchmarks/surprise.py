"""Measure how well the model and its baselines find underwater events; `docs/surprise.md` shows the tables.

    python -m benchmarks.surprise DATA [KEEP]

DATA must contain underwater_fish and underwater_subvo. A run takes about an hour and a half on one core. Models are stored in KEEP
(default: build/surprise), and an interrupted run resumes with those.

Each form's level is chosen on the validation dives, and then used unchanged on the test dives and on real footage.
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
from tocsin.models.surprise.composites import injected, panned
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.domain import RATE, load_footage
from tocsin.models.surprise.evaluate import Counted, at_recall, best, counted, curve, levels
from tocsin.models.surprise.model import SurpriseModel
from tocsin.models.surprise.model import load as load_model
from tocsin.models.surprise.simulation.novelties import SIZES
from tocsin.models.surprise.simulation.scene import LESSON_SEEDS, TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, Clip
from tocsin.models.surprise.train import Footage, Recipe, fit, footage, pieces, score_clip
from tocsin.models.vision.encoder import Encoder, load
from tocsin.models.vision.video import read

SEEDS = range(3)
REAL_SEEDS = range(4)
"""Seeds of the novelties that are drawn into real footage."""
NOT_NEW = ("fish", "school", "eel", "reef fish", "ray", "squid")
"""Kinds that are not novel in the footage of a tank, since they live there."""
RECALL = 0.788
Score = Callable[[Footage], Tensor]


class Form(NamedTuple):
    """A way to score clips: one score function per seed, and the detectors that are tried on the scores."""

    scores: Sequence[Score]
    levels: Sequence[DetectorConfig]


def main(data: Path, keep: Path) -> None:
    torch.set_num_threads(1)
    config = SurpriseConfig()
    encoder = load(size=(config.encoder.height, config.encoder.width), layer=config.encoder.layer)
    train, validation, test = (
        [load_footage(seed, encoder, covers=seed in LESSON_SEEDS) for seed in seeds]
        for seeds in (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS)
    )
    report(train, validation, {"test dives": test, **real(data, encoder)}, config, encoder, keep)


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
    traced = " ".join(f"{f['recall']:.2f}/{f['precision']:.2f}" for f in (c.figures() for c in found[0].values()))
    print(f"| {name} | {_figures(counts)} | {falses} | {traced} |", flush=True)


def _figures(counts: Sequence[Counted]) -> str:
    """Format the figures as mean and spread over seeds."""
    cells = []
    for figure, digits in (("precision", 2), ("recall", 2), ("f1", 2), ("false_per_hour", 0), ("saved", 3)):
        cells.append(spread([count.figures()[figure] for count in counts], digits))
    return " | ".join(cells)


def _minutes(clips: Sequence[Footage]) -> float:
    return sum(len(clip.tokens) for clip in clips) / RATE / 60


def real(data: Path, encoder: Encoder) -> dict[str, Sequence[Footage]]:
    """Return real footage with novelties drawn into it, and pans over stills of that footage, where every alert is false."""
    drawn, pans = [], []
    for name, path in (
        ("fish", data / "underwater_fish" / "fish.mp4"),
        ("subvo", data / "underwater_subvo" / "frames_640x360"),
    ):
        frames = list(read(path, rate=RATE))
        kinds = tuple(kind for kind in SIZES if name != "fish" or kind not in NOT_NEW)
        for seed in REAL_SEEDS:
            drawn.append(encode_clip(injected(iter(frames), seed, rate=RATE, kinds=kinds), encoder))
        for at in (0, len(frames) // 2):
            pans.append(encode_clip(panned(frames[at], at, rate=RATE), encoder))
    return {"real footage, novelties drawn into it": drawn, "pans over stills of real footage": pans}


def encode_clip(clip: Clip, encoder: Encoder) -> Footage:
    """Encode a clip that is in memory, as `load_footage` does for a simulated one."""
    return footage(pieces(clip.frames, encoder.size), encoder, clip.novelties)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "build/surprise"))
