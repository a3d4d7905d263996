"""Train with wrong labels, with and without the recipe against them, step by step; docs/wrong-labels.md shows the tables.

    python -m benchmarks.wrong_labels damage|occupancy|touch DATA [--keep build/wrong_labels] [--seeds 0 1 2] [--noise NAME]
        [--share 0.4] [--form NAME]

DATA must contain `damage/masonry4` and `damage/saltspot`, or `occupancy_uci`, `occupancy_windesheim` and `occupancy_sdu`. Touch
takes none: its tables are simulated. What networks see is computed once and stored in the folder `--keep`, and so is each figure:
an interrupted run resumes.

A share of the training labels is replaced. Test labels are right. Nothing is chosen by test or validation labels: no seed, no
threshold, no step. Where a label was replaced depends on the seed, which the weights depend on, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.spread import spread
from tocsin.models.wrong_labels.labels import Robust

if TYPE_CHECKING:
    from tocsin.models.damage.lessons import Lessons

PLAIN, CROSS_ENTROPY, TRANSPORT = "plain training", "cross-entropy alone", "generalised, split by transport"
FORMS: Mapping[str, Robust | None] = {
    PLAIN: None,
    CROSS_ENTROPY: Robust(loss="cross-entropy", split=None),
    "generalised alone": Robust(split=None),
    "symmetric alone": Robust(loss="symmetric", split=None),
    TRANSPORT: Robust(split="transport", rest="robust"),
    "generalised, split by mixture": Robust(rest="robust"),
    "the same, own predictions for the rest": Robust(rest="own"),
}
SKIPPED = {("occupancy", CROSS_ENTROPY), ("touch", TRANSPORT)}
"""The first is plain training; the labels of the second are of one class, which takes everything."""
SHARES = (0.0, 0.2, 0.4, 0.6)
"""Shares of labels that are wrong."""
COPIES, DRAWINGS = 6, 600
"""Augmented copies of each picture, and simulated pictures."""
Figures = Mapping[str, float]
Learn = Callable[[Robust | None, str, float, int], Figures]
"""A form, the kind of noise, the share of wrong labels, and a seed -> figures on the test set. The first one is the main figure."""


def flipped(rng: np.random.Generator, labels: torch.Tensor, share: float, classes: int) -> torch.Tensor:
    """Replace a share of labels `[N] int64` by another class, each as likely."""
    wrong = torch.from_numpy(rng.random(len(labels)) < share)
    other = (labels + torch.from_numpy(rng.integers(1, classes, len(labels)))) % classes
    return torch.where(wrong, other, labels)


def occupancy(data: Path, keep: Path) -> tuple[Sequence[str], Learn]:
    """An office of UCI, one of Windesheim and a room of SDU to train on; other rooms of the same buildings to test on.

    Noise: `uniform` replaces minutes by themselves; `half hours` all minutes of a half hour; `missed` only occupied half hours,
    as where a motion sensor does not see people who sit still.
    """
    from tocsin.models.occupancy.config import OccupancyConfig
    from tocsin.models.occupancy.data import read
    from tocsin.models.occupancy.train import Recipe, Room, fit, labelled, rooms, score
    from tocsin.pipelines.occupancy import minutes

    config, file = OccupancyConfig(), keep / "occupancy.pt"
    if not file.exists():
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in ("uci", "windesheim", "sdu"):
            recording = read(data / f"occupancy_{name}")
            table = labelled(minutes(recording), recording.truth)
            names = table["room"].unique().sort().to_list()
            parts = rooms(table, config.features)
            found |= {f"{name} {room}": (part.features, part.occupied) for room, part in zip(names, parts, strict=True)}
        torch.save(found, file)
    known = {name: Room(*part) for name, part in torch.load(file).items()}
    train = [known[name] for name in ("uci datatraining", "windesheim 917810", "sdu room_3")]
    test = [known[name] for name in ("uci datatest", "windesheim 999169", "sdu room_1")]

    def learn(robust: Robust | None, noise: str, share: float, seed: int) -> Figures:
        rng = np.random.default_rng((seed, 1))
        sources = [[replace(room, occupied=_wrong_minutes(rng, room.occupied, noise, share))] for room in train]
        model = fit(sources, config, Recipe(steps=300, robust=robust), seed=seed)
        figures = [score(model, [room]) for room in test]
        return {name: float(np.mean([of[name] for of in figures])) for name in ("f1", "auroc", "accuracy")}

    return ("uniform", "half hours", "missed"), learn


def damage(data: Path, keep: Path) -> tuple[Sequence[str], Learn]:
    """Pictures of masonry and of salt, without the last fifth of each folder, which is the test.

    Noise: `uniform` replaces labels of pictures by any other class, and there are no drawings; `drawings` the same beside drawings,
    whose labels are known; `missed` calls damaged pictures intact.
    """
    from tocsin.models.damage.config import DamageConfig
    from tocsin.models.damage.evaluate import figures
    from tocsin.models.damage.lessons import UNKNOWN, Collected, Lessons, augmented, drawn, fitted
    from tocsin.models.damage.network import CLASSES, NetworkConfig
    from tocsin.models.damage.pictures import held_back, labelled
    from tocsin.models.damage.train import Recipe, fit, judged_all
    from tocsin.models.damage.trunk import Trunk

    recipe, file = Recipe(steps=400, pictures=16), keep / "damage.pt"
    config = DamageConfig(network=NetworkConfig(relief=0, width=32))
    if not file.exists():
        trunk = Trunk(torch.device("cpu"))
        rng, collected, unseen = np.random.default_rng(1), Collected(trunk), Collected(trunk)
        for source, folder in enumerate((data / "damage/masonry4", data / "damage/saltspot")):
            first, last = held_back(labelled(folder)[0])
            for picture in first:
                image = picture.read()
                for number in range(COPIES):
                    collected.add(augmented(rng, image), picture.number, source=source, copy=number > 0)
            for picture in last:
                unseen.add(fitted(picture.read()), picture.number, source=source)
        for _ in range(DRAWINGS):
            image, kind, mask = drawn(rng)
            collected.add(image, kind, source=2, mask=mask)
        torch.save([[vars(of) for of in part.lessons()] for part in (collected, unseen)], file)
    stored = torch.load(file, weights_only=False)
    train, test = ([_coarse(Lessons(**of)) for of in part] for part in stored)
    labels = 1 + max(int(of.label.max()) for of in train)

    def learn(robust: Robust | None, noise: str, share: float, seed: int) -> Figures:
        given, known = torch.zeros(labels, dtype=torch.int64), torch.zeros(labels, dtype=torch.bool)
        for of in train:
            given[of.label], known[of.label] = of.kinds, of.shares[:, 0, 0] != UNKNOWN
        wrong = flipped(np.random.default_rng((seed, 1)), given, share, len(CLASSES))
        if noise == "missed":
            wrong = torch.where(wrong != given, 0, given)
        wrong = torch.where(known, given, wrong)
        lessons = [replace(of, kinds=wrong[of.label]) for of in train]
        weights = [recipe.real, recipe.real, float(noise != "uniform")]
        if noise == "uniform":
            lessons = [_real(of) for of in lessons if bool((of.source < 2).any())]
        network = fit(lessons, weights, config, replace(recipe, robust=robust), seed=seed)
        logits, kinds = judged_all(network, test)
        found = figures(logits.softmax(1).numpy(), kinds.numpy())
        return {name: found[name] or 0.0 for name in ("macro_f1", "auroc")}

    return ("uniform", "drawings", "missed"), learn


def _coarse(of: Lessons) -> Lessons:
    """Lessons with tokens at half the resolution, so that a training takes seconds."""
    rows, columns = (-(-n // 2) for n in of.seen.wide.shape[2:])
    wide = F.adaptive_avg_pool2d(of.seen.wide.float(), (rows, columns)).half()
    tokens = F.adaptive_avg_pool2d(of.seen.tokens.float(), (2 * rows, 2 * columns)).half()
    shares = F.adaptive_avg_pool2d(of.shares[:, None], (2 * rows, 2 * columns))[:, 0]
    return replace(of, seen=of.seen._replace(tokens=tokens, wide=wide), shares=shares)


def _real(of: Lessons) -> Lessons:
    """The lessons of pictures that are no drawings."""
    mine = of.source < 2
    parts = {name: part[mine] for name, part in vars(of).items() if name != "seen"}
    return replace(of, seen=type(of.seen)(*(maps[mine] for maps in of.seen)), **parts)


def _wrong_minutes(rng: np.random.Generator, occupied: torch.Tensor, noise: str, share: float) -> torch.Tensor:
    block = 1 if noise == "uniform" else 30
    drawn = rng.random(-(-len(occupied) // block)) < share
    wrong = torch.from_numpy(np.repeat(drawn, block)[: len(occupied)])
    return torch.where(wrong & (occupied > 0.5) if noise == "missed" else wrong, 1 - occupied, occupied)


def touch(data: Path, keep: Path) -> tuple[Sequence[str], Learn]:
    """Small clips of two squares as hands that take and let go, those of the tests; real clips and tables need half an hour each.

    Noise: `moved` moves touches to another time and a random hand; `other hand` to the other hand; `missed` removes them.
    """
    from benchmarks.touch import mislabelled
    from tests.support.touches import CONFIG, RECIPE, eyes, seen
    from tocsin.models.touch.evaluate import precision_figures
    from tocsin.models.touch.train import Footage, detect, fit

    train, test = (seen(seeds, eyes(), frames=160) for seeds in (range(6), range(100, 110)))

    def wrong(clip: Footage, noise: str, share: float, seed: int) -> Footage:
        if noise == "moved":
            return mislabelled(clip, share, seed)
        rng, found = np.random.default_rng((seed, 5)), []
        for one in clip.touches:
            if rng.random() >= share:
                found.append(one)
            elif noise == "other hand":
                found.append(replace(one, hand=1 - one.hand))
        return replace(clip, touches=found)

    def learn(robust: Robust | None, noise: str, share: float, seed: int) -> Figures:
        clips = [wrong(clip, noise, share, 100 * seed + number) for number, clip in enumerate(train)]
        if robust and robust.split:
            robust = replace(robust, start="own")
        model = fit(clips, CONFIG, eyes(), replace(RECIPE, steps=800, robust=robust), seed=seed)
        figures = precision_figures([detect(model, clip, soft=True) for clip in test])
        return {name: figures[name] for name in ("map", "map_2")}

    return ("moved", "other hand", "missed"), learn


DOMAINS: Mapping[str, Callable[[Path, Path], tuple[Sequence[str], Learn]]] = {
    "occupancy": occupancy,
    "damage": damage,
    "touch": touch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=DOMAINS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("build/wrong_labels"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", default=None)
    parser.add_argument("--share", nargs="+", type=float, default=SHARES)
    parser.add_argument("--form", nargs="+", default=[*FORMS], choices=FORMS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.keep.mkdir(parents=True, exist_ok=True)
    kinds, learn = DOMAINS[options.domain](options.data, options.keep)
    for noise in options.noise or kinds:
        for form in options.form:
            if (options.domain, form) in SKIPPED:
                continue
            for share in options.share:
                found = [
                    _kept(options.keep / f"{options.domain}.json", learn, form, noise, share, seed)
                    for seed in options.seeds
                ]
                cells = ", ".join(f"{name} {spread([of[name] for of in found], 3)}" for name in found[0])
                print(f"{options.domain}, {noise}, {share:.0%} wrong, {form}: {cells}", flush=True)


def _kept(file: Path, learn: Learn, form: str, noise: str, share: float, seed: int) -> Figures:
    """The figures of a training, from the file if they are there."""
    known: dict[str, Figures] = json.loads(file.read_text()) if file.exists() else {}
    key = f"{noise if share else 'none'} | {share} | {seed} | {FORMS[form]}"
    if key not in known:
        started = time.monotonic()
        known[key] = learn(FORMS[form], noise, share, seed)
        file.write_text(json.dumps(known, indent=1))
        print(
            f"{form}, {noise}, {share:.0%}, seed {seed}: {time.monotonic() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return known[key]


if __name__ == "__main__":
    main()
