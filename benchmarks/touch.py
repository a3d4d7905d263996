"""Measure how well the model and its baselines find touches; `docs/touch.md` shows the tables.

    python -m benchmarks.touch [--seeds 3] [--only forms,labels] [--keep build/touch]

- forms: the model with true but jittered hand boxes, with the finder's boxes, without hands in tests, and without hands in
  training; a classifier of single frames; the distance between the boxes of hands and things.
- labels: none, 20 % and 40 % of the touches of the training tables are moved elsewhere; focal loss against generalised
  cross-entropy, with half the steps.

Thresholds are chosen on the validation tables. A run takes hours on one core, most of it training. Encoded footage and trained
models are stored, and an interrupted run resumes with those.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.kept import load_or_fit
from benchmarks.spread import spread
from tocsin.models.touch.baselines import changes, near
from tocsin.models.touch.config import TouchConfig
from tocsin.models.touch.decode import Spot, softened, spots
from tocsin.models.touch.domain import RATE, load_footage
from tocsin.models.touch.evaluate import ClipResult, best_threshold, operating_figures, precision_figures
from tocsin.models.touch.finder import HandFinder
from tocsin.models.touch.finder import load as load_finder
from tocsin.models.touch.model import Eyes, TouchModel, load
from tocsin.models.touch.simulation.scene import TEST_SEEDS, TRAIN_SECONDS, TRAIN_SEEDS, VALIDATION_SEEDS, Scene
from tocsin.models.touch.train import Footage, Recipe, decoded, fit, footage, vectors
from tocsin.models.touch.truth import Touch
from tocsin.models.wrong_labels.labels import Robust

SETS = {"validation": VALIDATION_SEEDS, "test": TEST_SEEDS}
WRONG = (0.0, 0.2, 0.4)
"""Shares of touches that are moved elsewhere."""
NEAR = (-0.06, -0.03, 0.0, 0.02)
"""Distances between boxes that are tried, as shares of the frame's larger side."""


class Found(NamedTuple):
    """For each clip: the candidates for the benchmark's metric, and the alerts that a stream would raise."""

    soft: Sequence[ClipResult]
    hard: Sequence[ClipResult]


Form = Callable[[Sequence[Footage]], Found]


def main(seeds: int, only: Sequence[str], keep: Path) -> None:
    torch.set_num_threads(1)
    config = TouchConfig()
    eyes = Eyes(config.eye)
    train = [kept_footage(seed, eyes, keep) for seed in TRAIN_SEEDS]
    sets = {name: [kept_footage(seed, eyes, keep) for seed in some] for name, some in SETS.items()}

    def fitted(name: str, clips: Sequence[Footage], seed: int = 0, **recipe: Any) -> TouchModel:
        """Return the model of this name; train it if it is not stored yet."""
        fresh = partial(fit, clips, config, eyes, replace(Recipe(), **recipe), seed=seed)
        return load_or_fit(keep / name, fresh, partial(load, device="cpu"))

    print(f"{len(train)} training tables, {sum(len(clip.touches) for clip in train)} touches\n")
    if "forms" in only:
        _head("form")
        blind = [_without_boxes(clip) for clip in train]
        models = [fitted(f"hands-{seed}", train, seed) for seed in range(seeds)]
        without = [fitted(f"blind-{seed}", blind, seed, blind=0.0) for seed in range(seeds)]
        _line("with hands", [partial(detect, model) for model in models], sets)
        finder = load_finder(device="cpu")
        found = {name: [kept_footage(seed, eyes, keep, finder) for seed in some] for name, some in SETS.items()}
        _line("the same, hands found", [partial(detect, model) for model in models], found)
        _line("the same, no hands", [partial(detect, m, blind=True) for m in models], sets)
        _line("trained without hands", [partial(detect, m, blind=True) for m in without], sets)
        _line("each frame by itself", [partial(alone, m) for m in models], sets)
        for name, some in SETS.items():
            _boxes(name, some)
    if "labels" in only:
        print()
        _head("wrong labels, loss")
        for share in WRONG:
            wrong = [mislabelled(clip, share, seed) for seed, clip in enumerate(train)]
            for name, robust in (("focal", None), ("generalised cross-entropy", Robust(split=None))):
                model = fitted(f"wrong-{share:.0%}-{name}", wrong, robust=robust, steps=Recipe().steps // 2)
                _line(f"{share:.0%}, {name}", [partial(detect, model)], sets)


def kept_footage(seed: int, eyes: Eyes, keep: Path, finder: HandFinder | None = None) -> Footage:
    """Return the footage of `load_footage`, stored for later runs; with `finder`, the boxes are those it finds."""
    file = keep / (f"{seed}-found.safetensors" if finder else f"{seed}.safetensors")
    truth = Scene(seed, seconds=TRAIN_SECONDS if seed in TRAIN_SEEDS else 30, rate=RATE)
    if not file.exists():
        clip = footage(finder.boxed(shot.picture for shot in truth), eyes) if finder else load_footage(seed, eyes)
        keep.mkdir(parents=True, exist_ok=True)
        save_file({"scene": clip.scene, "hands": clip.hands, "boxes": clip.boxes}, file)
    return Footage(**load_file(file), touches=truth.touches, misses=truth.misses)


def detect(model: TouchModel, clips: Sequence[Footage], *, blind: bool = False) -> Found:
    """Return what the model finds."""
    return _found(model, [_without_boxes(clip) for clip in clips] if blind else clips, partial(decoded, model))


def alone(model: TouchModel, clips: Sequence[Footage]) -> Found:
    """Return what a classifier of single frames finds: an event where its prediction of what is held changes."""
    return _found(model, clips, lambda clip: changes(model.net.holding(vectors(model, clip)).sigmoid()))


def _found(model: TouchModel, clips: Sequence[Footage], scores: Callable[[Footage], Tensor]) -> Found:
    found = Found([], [])
    for clip in clips:
        each = scores(clip)
        for kind, part in zip((softened(each), spots(each, apart=model.config.decode.apart)), found, strict=True):
            part.append(ClipResult(kind, clip.touches, clip.misses, len(clip)))
    return found


def _head(first: str) -> None:
    print(
        f"| {first} | tables | mAP at 0 | at 1 | at 2 | contact F1 | release F1 | contact error | "
        "near misses that rang, a minute | false contacts a minute |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")


def _line(name: str, forms: Sequence[Form], sets: dict[str, Sequence[Footage]]) -> None:
    """Print a form's line for each set; its thresholds are chosen on the first set."""
    chosen = list[tuple[float, float]]()
    for where, clips in sets.items():
        found = [form(clips) for form in forms]
        chosen = chosen or [(best_threshold(f.hard, 0), best_threshold(f.hard, 1)) for f in found]
        figures = [
            precision_figures(f.soft) | operating_figures(f.hard, thresholds, rate=RATE)
            for f, thresholds in zip(found, chosen, strict=True)
        ]
        _print_line(name, where, figures)


def _boxes(where: str, seeds: Iterable[int]) -> None:
    """Print the line of the best distance between boxes."""
    clips, scenes = list[list[ClipResult]](), [Scene(seed, rate=RATE) for seed in seeds]
    nothing = np.empty((*scenes[0].size, 0), np.uint8)  # only the size of a picture is used
    shots = [[shot._replace(picture=nothing) for shot in scene] for scene in scenes]
    for distance in NEAR:
        clips.append([])
        for scene, some in zip(scenes, shots, strict=True):
            events = [Spot(hand, kind, frame, sure) for frame, hand, kind, sure in near(some, distance)]
            clips[-1].append(ClipResult(events, scene.touches, scene.misses, len(scene)))
    best = max(clips, key=lambda some: precision_figures(some)["map_2"])
    thresholds = best_threshold(best, 0), best_threshold(best, 1)
    _print_line(
        "boxes that are near", where, [precision_figures(best) | operating_figures(best, thresholds, rate=RATE)]
    )


def _print_line(name: str, where: str, figures: Sequence[dict[str, float]]) -> None:
    """Print a line of figures as mean and spread over seeds."""
    cells = []
    for figure, digits in (
        ("map_0", 3),
        ("map_1", 3),
        ("map_2", 3),
        ("contact_f1", 2),
        ("release_f1", 2),
        ("contact_error", 1),
        ("missed_rings_per_minute", 1),
        ("false_rings_per_minute", 1),
    ):
        cells.append(spread([f[figure] for f in figures], digits))
    print(f"| {name} | {where} | {' | '.join(cells)} |", flush=True)


def _without_boxes(clip: Footage) -> Footage:
    """Return the clip without hand boxes."""
    return replace(clip, boxes=torch.full_like(clip.boxes, torch.nan))


def mislabelled(clip: Footage, share: float, seed: int) -> Footage:
    """Return the clip with a share of its touches mislabelled: same length, random time, random hand."""
    rng, touches = np.random.default_rng((seed, 5)), list[Touch]()
    for touch in clip.touches:
        if rng.random() < share:
            duration = None if touch.release is None else touch.release - touch.contact
            contact = int(rng.integers(len(clip)))
            release = None if duration is None or contact + duration >= len(clip) else contact + duration
            touch = Touch(int(rng.integers(2)), contact, release)
        touches.append(touch)
    return replace(clip, touches=touches)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["forms", "labels"])
    parser.add_argument("--keep", type=Path, default=Path("build/touch"))
    args = parser.parse_args()
    main(args.seeds, args.only, args.keep)
