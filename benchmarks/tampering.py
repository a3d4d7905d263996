"""Tampering on recordings that no training saw: AUROC by kind of attack, by view and fusion, and false alerts.

`python -m benchmarks.tampering --test FOLDER... [--train FOLDER...] [--series 24] [--steps 1500] [--seeds 0 1 2] [--hours 6]`
makes the tables of docs/tampering.md. The last clip of each folder to train on is held back for the level. Measuring takes 10 ms
a frame, and a seed of a form some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.spread import spread
from tocsin.models.tampering.baselines import baselines
from tocsin.models.tampering.config import TamperingConfig
from tocsin.models.tampering.domain import RATE
from tocsin.models.tampering.evaluate import Scored, by_kind, figures
from tocsin.models.tampering.footage import LARGE, clips, sent, simulated
from tocsin.models.tampering.measures import SIZE, grey
from tocsin.models.tampering.memory import Evidence
from tocsin.models.tampering.model import TamperingModel, load
from tocsin.models.tampering.network import NetworkConfig
from tocsin.models.tampering.samples import CLEAN, WARM, Series, drawn, evidence, measure, truth
from tocsin.models.tampering.simulation.attacks import KINDS, UNSEEN, attacked
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.tampering.train import HOLD, Lessons, Recipe, judged, lessons, train
from tocsin.models.vision.picture import scaled
from tocsin.models.vision.video import read

FORMS = {
    "both views, fused by attention": NetworkConfig(),
    "both views, mean of two networks": NetworkConfig(fusion="mean"),
    "appearance alone": NetworkConfig(views=("appearance",)),
    "motion alone": NetworkConfig(views=("motion",)),
}
QUALITY = 90
Trial = tuple[str, str, list[np.ndarray], list]
"""Name, kind of attack, frames, and the share of the attack in each pixel of each frame, or None."""
Judged = Sequence[tuple[Evidence, Series]]


def trials(folders: Sequence[Path], *, rate: float = RATE, seed: int = 3) -> Iterator[Trial]:
    """Each clip as it is, and once with each kind of attack from its second half to its end: name, kind, frames and covers."""
    rng = np.random.default_rng([51, seed])
    for number, path in enumerate(path for folder in folders for path in clips(folder)):
        frames = [scaled(picture, SIZE) for picture in read(path, rate=rate, size=None)]
        if len(frames) < WARM + 25:
            continue
        yield path.name, CLEAN, frames, [None] * len(frames)
        other = simulated(rng, 2_000_000 + number, frames[:1], "other", size=SIZE)
        for kind in (*KINDS, *UNSEEN):
            begin = int(rng.integers(max(WARM + 5, len(frames) // 2), len(frames) - 20))
            done = attacked(kind, rng, frames, begin, len(frames), other.frames)
            yield path.name, kind, done.frames, list(done.covers)


def fixed(folders: Sequence[Path], cameras: int, *, seed: int = 4) -> Iterator[Trial]:
    """As `trials`, of fixed simulated cameras whose scenes are the clips' first frames."""
    rng = np.random.default_rng([52, seed])
    paths = [path for folder in folders for path in clips(folder)]
    scenes = [scaled(next(read(path, rate=None, size=None)), LARGE) for path in paths]
    for number in rng.permutation(len(scenes))[:cameras].tolist():
        one = Camera.drawn(3_000_000 + 100 * seed + number, frames=100, still=scenes[number], size=SIZE)
        frames = [*replace(one, motion="still")]
        yield f"fixed {number}", CLEAN, frames, [None] * len(frames)
        other = simulated(rng, 4_000_000 + number, (), "other", size=SIZE)
        for kind in (*KINDS, *UNSEEN):
            begin = int(rng.integers(WARM + 5, len(frames) - 20))
            done = attacked(kind, rng, frames, begin, len(frames), other.frames)
            yield f"fixed {number}", kind, done.frames, list(done.covers)


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


def quiet(hours: float, *, rate: float, first: int = 500) -> Iterator[tuple[str, Iterator[np.ndarray], float]]:
    """Fixed simulated cameras that nobody touches, an hour each: name, frames, and hours.

    Every second one is dark, with much grain; every third one is coded with blocks that stay for up to 4 s; light changes slowly,
    and at every fourth one a lamp is switched on.
    """
    for number in range(int(hours)):
        one = Camera.drawn(first + number, frames=round(3600 * rate), size=SIZE)
        night = number % 2 == 1
        one = replace(
            one,
            motion="still",
            grain=8.0 if night else 2.0,
            gain=0.2 if night else 0.9,
            skips=2.5 if number % 3 == 2 else 0.0,
            refresh=max(1, round(4 * rate)),
            lamp=(round(1800 * rate), 1.3) if number % 4 == 0 else None,
        )
        yield f"{'night' if night else 'day'} {number}", iter(one), 1.0


def watched(model: TamperingModel, frames: Iterator[np.ndarray]) -> Scored:
    """The scores of a quiet camera, a hundred frames at a time."""
    memory, before, scores = model.blank(1), None, list[float]()
    while some := list(islice(frames, 100)):
        found = []
        for picture in some:
            arrived = sent(picture, QUALITY)
            seen, memory = model.compare(memory, *(torch.from_numpy(p)[None] for p in model.measure(arrived, before)))
            before = grey(arrived)
            found.append(seen)
        features, counts = zip(*found, strict=True)
        scores += model(Evidence(torch.cat(features), torch.cat(counts))).score.tolist()
    values = np.array(scores)
    values[: model.config.warm] = np.nan
    return Scored("quiet", CLEAN, values, np.zeros(len(values), np.float32))


def lines(found: Mapping[str, Sequence[Sequence[Scored]]], levels: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """A line of the table for each form: its AUROC together, and by kind."""
    for form, seeds in found.items():
        totals = [figures(scored, level=level, hold=HOLD) for scored, level in zip(seeds, levels[form], strict=True)]
        kinds = [by_kind(scored) for scored in seeds]
        for name in ("auroc", "auroc_seen", "auroc_unseen", "found", "delay", "false_alerts", "clean_frames"):
            yield f"{form}: {name} {spread([total[name] or 0 for total in totals], 3)}"
        yield f"{form}: " + ", ".join(f"{kind} {spread([one[kind] for one in kinds], 2)}" for kind in kinds[0])


def compared(
    taught: Lessons, unseen: Judged, test: Judged, *, steps: int, seeds: Sequence[int], forms: Sequence[str]
) -> None:
    """Train each form with each seed, and print its figures on the test series."""
    for form in forms:
        scored, levels = list[list[Scored]](), list[float]()
        for seed in seeds:
            config = TamperingConfig(network=FORMS[form])
            model = train(taught, unseen, config, replace(Recipe(), steps=steps), seed=seed).model
            scored.append(judged(model, test))
            levels.append(model.config.level)
        print(*lines({form: scored}, {form: levels}), sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="*", type=Path, default=[])
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--series", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--hours", type=float, default=6)
    options = parser.parse_args()
    config = TamperingConfig()
    both = [*measured(trials(options.test)), *measured(fixed(options.test, options.cameras))]
    test = [(evidence(some, config.memory), some) for some, _ in both]
    shipped = load()
    print(*lines({"shipped": [judged(shipped, test)]}, {"shipped": [shipped.config.level]}), sep="\n")
    for name in both[0][1]:
        print(*lines({name: [[beside[name] for _, beside in both]]}, {name: [4.0]}), sep="\n")
    for name, frames, hours in quiet(options.hours, rate=1.0):
        found = figures([watched(shipped, frames)], level=shipped.config.level, hold=HOLD)
        print(f"quiet camera, {name}: {found['false_alerts']:.0f} false alerts in {hours:g} h", flush=True)
    if options.train:
        held = [paths[-1] for folder in options.train if len(paths := clips(folder)) > 1]
        known = [path for folder in options.train for path in clips(folder) if path not in held]
        count = {"real": options.series, "simulated_ones": 4 * options.series}
        taught = lessons([*drawn(known, seed=1, **count)], config.memory, warm=config.warm)
        unseen = [(evidence(some, config.memory), some) for some in drawn(held, seed=2, **count)]
        compared(taught, unseen, test, steps=options.steps, seeds=options.seeds, forms=[*FORMS])


if __name__ == "__main__":
    main()
