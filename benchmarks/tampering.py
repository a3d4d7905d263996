"""Tampering on recordings that no training saw: AUROC by kind of attack, by view and fusion, and false alerts.

`python -m benchmarks.tampering [attacks] [views] [quiet] --test FOLDER... --train FOLDER...` makes the tables of docs/tampering.md:

- `attacks`: the shipped model beside what needs no training, on the clips to test on and on fixed cameras at their scenes;
- `views`: each form of the network, trained with each seed; the last clip of each folder to train on is held back for the level;
- `quiet`: the shipped model's false alerts on simulated cameras that nobody touches, each for an hour, or for `--minutes`.

Without a name, all three. Measuring takes 10 ms a frame and training 20 s a form and seed: on the project's data `attacks` takes 6
minutes of one core, `views` 25, and `quiet` 10 s an hour of footage at a frame every two seconds, 4 minutes at `--rate 10`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.spread import spread
from tocsin.models.tampering.baselines import baselines
from tocsin.models.tampering.config import TamperingConfig
from tocsin.models.tampering.domain import RATE
from tocsin.models.tampering.evaluate import Scored, by_kind, figures
from tocsin.models.tampering.footage import LARGE, clips, sent, simulated
from tocsin.models.tampering.interval import Interval
from tocsin.models.tampering.measures import SIZE
from tocsin.models.tampering.memory import Evidence
from tocsin.models.tampering.model import TamperingModel, load
from tocsin.models.tampering.network import NetworkConfig
from tocsin.models.tampering.samples import CLEAN, WARM, Series, drawn, evidence, measure, resting, truth
from tocsin.models.tampering.simulation.attacks import KINDS, UNSEEN, attacked
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.tampering.train import Lessons, Recipe, judged, lessons, train
from tocsin.models.vision.picture import scaled
from tocsin.models.vision.video import read

PARTS = "attacks", "views", "quiet"
FORMS = {
    "both views, mean of two networks": NetworkConfig(fusion="mean"),
    "both views, fused by attention": NetworkConfig(fusion="attention"),
    "appearance alone": NetworkConfig(views=("appearance",)),
    "motion alone": NetworkConfig(views=("motion",)),
}
QUALITY = 90
PAIR = 2
"""Fixed cameras of one seed."""
Trial = tuple[str, str, list[np.ndarray], list]
"""Name, kind of attack, frames, and the share of the attack in each pixel of each frame, or None."""
Judged = Sequence[tuple[Evidence, Series]]


def trials(folders: Sequence[Path], *, rate: float = RATE, seed: int = 100) -> Iterator[Trial]:
    """Each clip as it is, and once with each kind of attack from its second half to its end: name, kind, frames and covers."""
    for number, path in enumerate(path for folder in folders for path in clips(folder)):
        rng = np.random.default_rng([51, seed + number])
        frames = [scaled(picture, SIZE) for picture in read(path, rate=rate, size=None)]
        if len(frames) < WARM + 25:
            continue
        yield path.name, CLEAN, frames, [None] * len(frames)
        other = simulated(rng, 2_000_000, frames[:1], "other", size=SIZE)
        for kind in (*KINDS, *UNSEEN):
            begin = int(rng.integers(max(WARM + 5, len(frames) // 2), len(frames) - 20))
            done = attacked(kind, rng, frames, begin, len(frames), other.frames)
            yield path.name, kind, done.frames, list(done.covers)


def fixed(folders: Sequence[Path], cameras: int, *, seed: int = 4) -> Iterator[Trial]:
    """As `trials`, of fixed simulated cameras whose scenes are the clips' first frames."""
    paths = [path for folder in folders for path in clips(folder)]
    scenes = [scaled(next(read(path, rate=None, size=None)), LARGE) for path in paths]
    for pair in range(seed, seed + cameras // PAIR):
        rng = np.random.default_rng([52, pair])
        for number in rng.permutation(len(scenes))[:PAIR].tolist():
            one = Camera.drawn(3_000_000 + 100 * pair + number, frames=100, still=scenes[number], size=SIZE)
            frames, name = [*replace(one, motion="still")], f"fixed {pair}, {number}"
            yield name, CLEAN, frames, [None] * len(frames)
            other = simulated(rng, 4_000_000 + number, (), "other", size=SIZE)
            for kind in (*KINDS, *UNSEEN):
                begin = int(rng.integers(WARM + 5, len(frames) - 20))
                done = attacked(kind, rng, frames, begin, len(frames), other.frames)
                yield name, kind, done.frames, list(done.covers)


def measured(some: Iterable[Trial]) -> Iterator[tuple[Series, dict[str, Scored]]]:
    """The trials measured, and scored by what the model is compared with."""
    for name, kind, frames, covers in some:
        arrived = [sent(picture, QUALITY) for picture in frames]
        marks = truth(np.array([cover is not None for cover in covers]))
        beside = {}
        for of, values in baselines(arrived).items():
            values[:WARM] = np.nan
            beside[of] = Scored(name, kind, values, marks)
        yield measure(name, kind, arrived, covers), beside


def quiet(
    hours: int, *, rate: float, minutes: float = 60, first: int = 500
) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """Fixed simulated cameras that nobody touches: name and frames.

    Every second one is dark, with much grain; every third one is coded with blocks that stay for up to 4 s; light changes slowly,
    and at every fourth one a lamp is switched on.
    """
    for number in range(hours):
        one = Camera.drawn(first + number, frames=round(60 * minutes * rate), size=SIZE)
        night = number % 2 == 1
        one = replace(
            one,
            motion="still",
            grain=8.0 if night else 2.0,
            gain=0.2 if night else 0.9,
            skips=2.5 if number % 3 == 2 else 0.0,
            refresh=max(1, round(4 * rate)),
            lamp=(round(30 * minutes * rate), 1.3) if number % 4 == 0 else None,
        )
        yield f"{'night' if night else 'day'} {number}", iter(one)


def watched(model: TamperingModel, frames: Iterable[np.ndarray]) -> Scored:
    """The scores of a quiet camera."""
    scores = model.watch(sent(picture, QUALITY) for picture in frames).score.numpy().astype(np.float64)
    scores[: model.config.warm] = np.nan
    return Scored("quiet", CLEAN, scores, np.zeros(len(scores), np.float32))


def lines(name: str, seeds: Sequence[Sequence[Scored]], levels: Sequence[float]) -> Iterator[str]:
    """Lines of the tables for one form, of each seed's scores and level: its figures over all kinds, and AUROC by kind."""
    totals = [figures(scored, Interval(level=level)) for scored, level in zip(seeds, levels, strict=True)]
    kinds = [by_kind(scored) for scored in seeds]
    for figure in ("auroc", "auroc_seen", "auroc_unseen", "found", "delay", "false_alerts", "clean_frames"):
        yield f"{name}: {figure} {spread([total[figure] or 0 for total in totals], 3)}"
    yield f"{name}: " + ", ".join(f"{kind} {spread([one[kind] for one in kinds], 2)}" for kind in kinds[0])


def attacks(model: TamperingModel, tests: Mapping[str, Sequence[tuple[Series, dict[str, Scored]]]]) -> None:
    """Print the figures of a model and of what it is compared with, on each test."""
    for test, both in tests.items():
        seen = [(evidence(some, model.config.memory), some) for some, _ in both]
        print(*lines(f"{test}, shipped", [judged(model, seen)], [model.config.level]), sep="\n")
        for name in both[0][1]:
            print(*lines(f"{test}, {name}", [[beside[name] for _, beside in both]], [2.0]), sep="\n", flush=True)


def views(taught: Lessons, unseen: Judged, tests: Mapping[str, Judged], recipe: Recipe, seeds: Sequence[int]) -> None:
    """Train each form with each seed, and print its figures on each test."""
    for form, network in FORMS.items():
        models = [train(taught, unseen, TamperingConfig(network=network), recipe, seed=seed).model for seed in seeds]
        levels = [model.config.level for model in models]
        print(f"{form}: {models[0].parameters} parameters, level {spread(levels, 3)}")
        for test, some in tests.items():
            print(*lines(f"{test}, {form}", [judged(model, some) for model in models], levels), sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; none: all")
    parser.add_argument("--test", nargs="+", type=Path, default=[], help="folders with clips to test on")
    parser.add_argument("--train", nargs="+", type=Path, default=[], help="folders with clips to train on")
    parser.add_argument("--cameras", type=int, default=4, help="fixed cameras to test on, an even number")
    parser.add_argument(
        "--draws", type=int, default=8, help="draws of series to train on, each of 6 a clip and 24 simulated"
    )
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--hours", type=int, default=10, help="quiet cameras, an hour each")
    parser.add_argument("--minutes", type=float, default=60, help="of each quiet camera")
    parser.add_argument("--rate", type=float, default=0.5, help="frames a second of quiet cameras")
    o = parser.parse_args()
    parts = o.parts or PARTS
    if wrong := {*parts} - {*PARTS}:
        parser.error(f"expected {', '.join(PARTS)}, got {', '.join(sorted(wrong))}")
    if (not o.test and {*parts} & {"attacks", "views"}) or (not o.train and "views" in parts):
        parser.error("attacks needs --test, views needs --test and --train")
    shipped, config = load(), TamperingConfig()
    if {*parts} & {"attacks", "views"}:
        tests = {"hand-held": [*measured(trials(o.test))], "fixed": [*measured(fixed(o.test, o.cameras))]}
        if short := [name for name, both in tests.items() if not both]:
            parser.error(
                f"--test: expected clips of at least {WARM + 25} frames at {RATE:g} a second, got none ({', '.join(short)})"
            )
    if "attacks" in parts:
        attacks(shipped, tests)
    if "views" in parts:
        held = [paths[-1] for folder in o.train if len(paths := clips(folder)) > 1]
        known = [path for folder in o.train for path in clips(folder) if path not in held]
        taught = lessons([*_known(known, o.draws)], config.memory, warm=config.warm)
        unseen = [(evidence(some, config.memory), some) for some in _held(held, o.draws)]
        each = {test: [(evidence(some, config.memory), some) for some, _ in both] for test, both in tests.items()}
        views(taught, unseen, each, replace(Recipe(), steps=o.steps), o.seeds)
    if "quiet" in parts:
        rang = 0
        for name, frames in quiet(o.hours, rate=o.rate, minutes=o.minutes):
            found = figures([watched(shipped, frames)], Interval(level=shipped.config.level))
            rang += round(found["false_alerts"] or 0)
            print(
                f"quiet camera, {name}: {found['false_alerts']:.0f} false alerts in {found['clean_frames']:.0f} frames",
                flush=True,
            )
        print(f"quiet cameras: {rang} false alerts in {o.hours * o.minutes / 60:g} hours at {o.rate:g} frames a second")


def _known(folders: Sequence[Path], draws: int) -> Iterator[Series]:
    """Series to train on. In several draws, each has its own choice of stills and scenes."""
    some = (drawn(folders, seed=draw, real=6, simulated_ones=24) for draw in range(1, draws + 1))
    return chain(*some, resting(folders, seed=4000, count=round(30 * draws / 8)))


def _held(folders: Sequence[Path], draws: int) -> Iterator[Series]:
    """Series to validate on."""
    return chain(
        *(drawn(folders, seed=draw, real=14, simulated_ones=30) for draw in range(1003, 1003 + max(1, draws // 2)))
    )


if __name__ == "__main__":
    main()
