"""Measure how well surprise finds what is new on pans over real stills and in real footage; `docs/surprise.md` has the tables.

    python -m benchmarks.surprise_real DATA [KEEP]

DATA must contain underwater_fish, underwater_subvo, underwater_mbari and underwater_tank. Clips, models and scores are kept in KEEP
(default: build/surprise_real), and an interrupted run resumes with those. A run takes about two hours on one core.

Each recording is left out in turn: triage learns from simulated dives, and from pans over textures and over the others. The
detector's level is chosen on validation dives and on further pans over the others, as `tocsin train surprise` does, and the figures
are those of the one left out. underwater_tank is never trained on. The predictor is the shipped one, which has seen simulated dives
only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kept import load_or_fit
from benchmarks.spread import spread
from benchmarks.surprise_scenes import RATE, RECORDINGS, footage_of, pans
from tocsin.models.surprise.baselines import bank, difference, nearest, uniform
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.domain import load_footage
from tocsin.models.surprise.evaluate import Counted, at_recall, best, counted, curve, levels
from tocsin.models.surprise.model import SurpriseModel, load
from tocsin.models.surprise.pans import (
    PANS,
    TEXTURES,
    TRAIN_SEED,
    VALIDATION,
    VALIDATION_SEED,
    lessons,
    over_textures,
    stills,
)
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.surprise.simulation.scene import LESSON_SEEDS, TEST_SEEDS, VALIDATION_SEEDS, Clip
from tocsin.models.surprise.train import ALLOWED, Footage, fit, footage, pieces, score_clip
from tocsin.models.vision.encoder import Encoder

SEEDS = range(3)
TRAINED = ("fish", "subvo", "mbari")
"""Recordings that weights which ship may learn from."""
PAN_SEEDS = (0, 1)
FOOTAGE_SEEDS = (-1, 0, 1)
OVER_TEXTURES = tuple(f"textures/{number}" for number in range(TEXTURES))


Scored = tuple[Tensor, tuple[Novelty, ...]]
"""A clip's scores and novelties."""


class Store:
    """Encoded clips, models and scores, kept in a folder. Clips are named by their file."""

    def __init__(self, keep: Path, data: Path, shipped: SurpriseModel) -> None:
        self.keep, self._data, self._shipped = keep, data, shipped

    def clip(self, name: str) -> Footage:
        """Read an encoded clip."""
        found: Footage = torch.load(self.keep / f"{name}.pt", weights_only=False)
        return found

    def scored(self, form: str, score: Callable[[Footage], Tensor], names: Sequence[str]) -> list[Scored]:
        """Score clips, or read their scores."""
        found = []
        for name in names:
            file = self.keep / "scores" / form / f"{Path(name).name}.pt"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                clip = self.clip(name)
                torch.save((score(clip), tuple(clip.novelties)), file)
            found.append(torch.load(file, weights_only=False))
        return found

    def model(self, out: str, seed: int) -> SurpriseModel:
        """A model that has not learned from recording `out`."""

        def train() -> SurpriseModel:
            names = [*(f"sim/{dive}" for dive in LESSON_SEEDS), *self.learned("pans", out), *OVER_TEXTURES]
            clips = [self.clip(name) for name in names]
            m = self._shipped
            return fit(clips, m.config, m.encoder, seed=seed, predictor=m.predictor)

        name = "all" if out not in TRAINED else out
        return load_or_fit(self.keep / "models" / f"f-{name}-{seed}", train, partial(load, device="cpu"))

    def encode(self) -> None:
        """Encode the clips that are not there yet."""
        encoder = self._shipped.encoder
        for dive in (*LESSON_SEEDS, *VALIDATION_SEEDS, *TEST_SEEDS):
            self._put(f"sim/{dive}", partial(load_footage, dive, encoder, covers=dive in LESSON_SEEDS))
        paths = [path for name in TRAINED for path in self._paths(name)]
        for folder, each, seed in (("pans", PANS, TRAIN_SEED), ("valpans", VALIDATION, VALIDATION_SEED)):
            names = [f"{folder}/{folder}-{name}-{pan}" for name, _ in paths for pan in range(each)]
            if not all((self.keep / f"{name}.pt").exists() for name in names):
                frames = [stills(path, PANS, rate=RATE) for _, path in paths]
                for name, lesson in zip(names, lessons(frames, each, encoder, rate=RATE, seed=seed), strict=True):
                    self._put(name, lambda lesson=lesson: lesson)  # type: ignore[misc]
        if not all((self.keep / f"{name}.pt").exists() for name in OVER_TEXTURES):
            for name, lesson in zip(OVER_TEXTURES, over_textures(encoder, rate=RATE), strict=True):
                self._put(name, lambda lesson=lesson: lesson)  # type: ignore[misc]
        for kind, make, seeds in (("pan", pans, PAN_SEEDS), ("foot", footage_of, FOOTAGE_SEEDS)):
            for name in RECORDINGS:
                for seed in seeds:
                    if not list((self.keep / "real").glob(f"{kind}-{name}-*-{seed}.pt")):
                        for number, clip in enumerate(make(self._data, name, [seed])):
                            self._put(f"real/{kind}-{name}-{number}-{seed}", partial(_encoded, clip, encoder))

    def names(self, kind: str, name: str) -> list[str]:
        """Clips of a recording: `pan`, or `foot` for footage."""
        return [f"real/{path.stem}" for path in sorted((self.keep / "real").glob(f"{kind}-{name}-*.pt"))]

    def learned(self, folder: str, out: str) -> list[str]:
        """Pans over the recordings that a model without `out` learns from: `pans`, or `valpans` for its level."""
        names = [name for recording in TRAINED if recording != out for name, _ in self._paths(recording)]
        return [
            f"{folder}/{path.stem}"
            for name in names
            for path in sorted((self.keep / folder).glob(f"{folder}-{name}-*.pt"))
        ]

    def _paths(self, recording: str) -> list[tuple[str, Path]]:
        """A name and the path of each clip of a recording."""
        paths = RECORDINGS[recording].paths
        return [(f"{recording}-{number}", self._data / path) for number, path in enumerate(paths)]

    def _put(self, name: str, make: Callable[[], Footage]) -> None:
        file = self.keep / f"{name}.pt"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(make(), file)


def main(data: Path, keep: Path) -> None:
    torch.set_num_threads(1)
    shipped = load(device="cpu")
    store = Store(keep, data, shipped)
    store.encode()
    d = shipped.config.detector
    tried, dives = levels(d, triaged=True), [f"sim/{dive}" for dive in VALIDATION_SEEDS]
    print("\n### Pans over stills of the recording left out\n")
    print("| left out | form | recall, began | covered | precision | F1 | false a minute | false at the same recall |")
    print("|---|---|---|---|---|---|---|---|")
    chosen = dict[tuple[str, int], DetectorConfig]()
    for out in RECORDINGS:
        own = store.names("pan", out)
        settled = [*dives, *store.learned("valpans", out)]
        counts, beside = list[Counted](), list[Counted]()
        same = list[tuple[Counted, Counted]]()
        for seed in SEEDS:
            model = store.model(out, seed)
            form = f"f-{out if out in TRAINED else 'all'}-{seed}"
            score = partial(score_clip, model)
            level = chosen[out, seed] = best(_curve(store.scored(form, score, settled), tried), most=ALLOWED)
            found = _curve(store.scored(form, score, own), [level, *tried])
            blind = _curve(store.scored(f"{form}-un", partial(score_clip, model.uncompensated()), own), [level, *tried])
            counts.append(found[level])
            beside.append(blind[level])
            same.append(_at_the_same_recall(found, blind, found[level]))
        _line(out, "with ego-motion", counts, " ".join(f"{one.false}" for one, _ in same))
        _line(out, "the same, uncompensated", beside, " ".join(f"{other.false}" for _, other in same))
        memory = bank([store.clip(f"sim/{dive}") for dive in LESSON_SEEDS[::5]])
        untriaged = levels(replace(d, least=0.0), triaged=False)
        for name, baseline in (("kNN novelty", partial(nearest, memory=memory)), ("frame difference", difference)):
            found = _curve(store.scored(name.replace(" ", "-"), baseline, own), untriaged)
            _line(out, f"{name}, at its best level", [found[best(found)]], "")
        pace = Counted()
        for clip in map(store.clip, own):
            pace += counted(uniform(len(clip.tokens), 100), [False] * len(clip.tokens), clip.novelties, rate=RATE)
        _line(out, "an alert every ten seconds", [pace], "")
    print("\n### Footage of the recording left out\n")
    print("| left out | clips | recall, began | covered | precision | F1 | false a minute | |")
    print("|---|---|---|---|---|---|---|---|")
    for out in RECORDINGS:
        every = store.names("foot", out)
        quiet = [name for name in every if name.endswith("--1")]
        for title, names in (("as it is", quiet), ("something new in it", [n for n in every if n not in quiet])):
            counts = []
            for seed in SEEDS:
                form = f"f-{out if out in TRAINED else 'all'}-{seed}"
                clips = store.scored(form, partial(score_clip, store.model(out, seed)), names)
                counts += _curve(clips, [chosen[out, seed]]).values()
            _line(out, title, counts, "")
    print("\n### Simulated test dives\n")
    tests, counts = [f"sim/{dive}" for dive in TEST_SEEDS], []
    for seed in SEEDS:
        clips = store.scored(f"f-all-{seed}", partial(score_clip, store.model("", seed)), tests)
        counts += _curve(clips, [chosen["tank", seed]]).values()
    _line("", "with ego-motion", counts, "")


def _encoded(clip: Clip, encoder: Encoder) -> Footage:
    return footage(pieces(clip.frames, encoder.size), encoder, clip.novelties)


def _curve(clips: Sequence[Scored], detectors: Sequence[DetectorConfig]) -> dict[DetectorConfig, Counted]:
    return curve([scores for scores, _ in clips], [truth for _, truth in clips], detectors, rate=RATE)


def _at_the_same_recall(
    one: dict[DetectorConfig, Counted], other: dict[DetectorConfig, Counted], at: Counted
) -> tuple[Counted, Counted]:
    """The counts of two forms with the fewest false alerts at the recall of `at`, or at the highest that both reach."""
    highest = min(max(count.found for count in found.values()) for found in (one, other))
    recall = min(at.found, highest) / max(at.novelties, 1)
    first, second = at_recall(one, recall), at_recall(other, recall)
    assert first and second
    return first, second


def _line(out: str, form: str, counts: Sequence[Counted], same: str) -> None:
    cells = []
    for name in ("recall", "recall_covered", "precision", "f1"):
        values = [value for count in counts if (value := count.figures()[name]) is not None]
        cells.append(spread(values, 2) if values else "-")
    cells.append(spread([60 * count.false / count.seconds for count in counts], 2))
    print(f"| {out} | {form} | {' | '.join(cells)} | {same} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "build/surprise_real"))
