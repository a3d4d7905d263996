"""Alignments by the shipped weights and by OpenCV's methods, as on the page "Alignment".

    python -m benchmarks.alignment                   simulated pairs, by gap and by size of motion, three seeds
    python -m benchmarks.alignment --pairs DIR       recorded pairs: the folders vis_nir and roadscene
    python -m benchmarks.alignment --hours 56        three rigs, day and night, whose second camera is pushed near the end
    python -m benchmarks.alignment --models DIR DIR  the same of other models, with the spread over the models beside

Of recorded pairs, every second one was used to choose the model; the others are reported. Pairs of roadscene lie over each other to
within 1 to 3 pixels, and are moved by known homographies besides.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from tocsin.models.alignment import evaluate, watch
from tocsin.models.alignment.baselines import BASELINES
from tocsin.models.alignment.domain import PUSHED, RIGS
from tocsin.models.alignment.evaluate import Case, Grey, Score
from tocsin.models.alignment.geometry import Matrix, distance, drawn, scaled
from tocsin.models.alignment.model import AlignmentModel, grey, load
from tocsin.models.alignment.simulation.rig import Move, Rig
from tocsin.models.vision.picture import decode

SEEDS, EACH = (1, 2, 3), 3
EVERY_S, PUSH_AT, LIMIT = 600.0, 0.9, 2.0
ROAD = {"as they are": 0.0, "medium": 0.3, "large": 1.0}
"""Motions of roadscene's pairs, see `drawn`."""


def recorded(folder: Path, size: tuple[int, int], *, half: int = 1) -> Iterator[Case]:
    """Every second recorded pair."""
    rng = np.random.default_rng(9 + half)
    with (folder / "vis_nir" / "affine_vis_to_nir.csv").open() as lines:
        rows = list(csv.DictReader(lines))[half::2]
    for row in rows:
        files = [folder / "vis_nir" / row["subset"] / f"{row['pair']}_{kind}.jpg" for kind in ("rgb", "nir")]
        pictures = [decode(file.read_bytes()) for file in files]
        affine = np.array([[float(row[f"a{r}{c}"]) for c in (1, 2, 3)] for r in (1, 2)])
        factors = [(size[1] / p.shape[1], size[0] / p.shape[0]) for p in pictures]
        truth = scaled(np.vstack([affine, [0, 0, 1]]), *factors)
        yield Case(grey(pictures[0], size), grey(pictures[1], size), truth, "visible and near infrared")
    for file in sorted((folder / "roadscene" / "visible").iterdir())[half::2]:
        paths = file, folder / "roadscene" / "infrared" / file.name
        first, second = (grey(decode(path.read_bytes()), size) for path in paths)
        for name, reach in ROAD.items():
            truth = drawn(rng, size, reach=reach) if reach else np.eye(3)
            moved = cv2.warpPerspective(second, truth, size[::-1], borderMode=cv2.BORDER_REFLECT) if reach else second
            yield Case(first, moved, truth, f"visible and thermal, {name}")


def compared(model: AlignmentModel, sets: Sequence[Sequence[Case]]) -> None:
    """Print the median error of each kind of pair, mean and spread over the sets."""
    methods: dict[str, Callable[[Grey, Grey], tuple[Matrix | None, float]]] = {"model": evaluate.by_model(model)}
    methods |= {name: lambda a, b, m=method: (m(a, b), 1.0) for name, method in BASELINES.items()}  # type: ignore[misc]
    scores = {name: [evaluate.scored(cases, align) for cases in sets] for name, align in methods.items()}
    print("| pairs |", " | ".join([*methods, "within 2 px", "by SIFT"]), "|")
    for kind in dict.fromkeys(part for cases in sets for case in cases for part in _parts(case.kind)):

        def of(found: Sequence[Score], kind: str = kind) -> list[float]:
            return [s.error for s in found if kind in _parts(s.kind)]

        errors = [[float(np.median(of(found))) for found in scores[name]] for name in methods]
        within = [[float(np.mean(np.array(of(found)) <= 2)) for found in scores[name]] for name in [*methods][:2]]
        print(f"| {kind} |", " | ".join(map(_spread, [*errors, *within])), "|")
    print(relied_on(model, [*chain(*scores["model"])], [*chain(*scores["SIFT + RANSAC"])]))


def relied_on(model: AlignmentModel, ours: Sequence[Score], theirs: Sequence[Score]) -> str:
    """How a model does where SIFT fails, and how far its confidence can be trusted."""
    failed = np.array([s.error for s, other in zip(ours, theirs, strict=True) if other.error > evaluate.RIGHT])
    sure = [s.error <= evaluate.RIGHT for s in ours if s.confidence >= model.config.watch.confident]
    return (
        f"where SIFT fails ({len(failed)} of {len(ours)}): median {np.median(failed):.2f}, within 2 px "
        f"{np.mean(failed <= 2):.2f}; confident {len(sure) / len(ours):.2f}, of these within 3 px {np.mean(sure):.2f}"
    )


def over_models(models: Sequence[AlignmentModel], cases: Sequence[Case]) -> None:
    """Print the median error and the share within 2 pixels of each kind of pair, mean and spread over models."""
    scores = [evaluate.scored(cases, evaluate.by_model(model)) for model in models]
    by_sift = evaluate.scored(cases, lambda a, b: (BASELINES["SIFT + RANSAC"](a, b), 1.0))
    print("| pairs | error | within 2 px |")
    for kind in dict.fromkeys(part for case in cases for part in _parts(case.kind)):
        errors = [np.array([s.error for s in found if kind in _parts(s.kind)]) for found in scores]
        medians, within = [float(np.median(e)) for e in errors], [float(np.mean(e <= 2)) for e in errors]
        print(f"| {kind} | {_spread(medians)} | {_spread(within)} |")
    for number, (model, found) in enumerate(zip(models, scores, strict=True)):
        print(f"model {number}: {relied_on(model, found, by_sift)}")


def watched(model: AlignmentModel, hours: float) -> None:
    """Print how the watch fares over rigs, day and night."""
    for seed in RIGS:
        pairs = int(hours * 3600 / EVERY_S)
        push, state, rings, standing, sure = int(PUSH_AT * pairs), watch.blank(model.config.watch), [], False, 0
        wrong = 0  # of the confident pairs
        for number, sight in enumerate(Rig(seed, pairs=pairs, every=EVERY_S, moves=[Move(push, PUSHED)])):
            found = model.align(sight.first, sight.second)
            if found.confidence < model.config.watch.confident:
                continue
            sure += 1
            wrong += distance(found.homography, sight.homography, model.size) > evaluate.RIGHT
            verdict, state = watch.step(state, found.homography, model.size, model.config.watch)
            if verdict.moved is not None:
                if verdict.moved > LIMIT and not standing:
                    rings.append(number)
                standing = verdict.moved > (0.6 if standing else 1) * LIMIT
        late = next((ring - push for ring in rings if ring >= push), None)
        print(
            f"rig {seed}: {sum(r < push for r in rings)} false, found after {late} pairs, confident {sure / pairs:.2f}, "
            f"of these wrong {wrong / max(sure, 1):.3f}"
        )


def _parts(kind: str) -> tuple[str, ...]:
    """A kind of pair, its gap and its motion, and all."""
    return kind, *kind.split(", "), "all"


def _spread(values: Sequence[float]) -> str:
    mean = "none" if np.mean(values) >= evaluate.LOST / 2 else f"{np.mean(values):.2f}"
    return mean if len(values) == 1 or mean == "none" else f"{mean} ± {np.std(values):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--hours", type=float, default=0)
    parser.add_argument("--models", type=Path, nargs="+", default=[])
    chosen = parser.parse_args()
    models = [load(folder) for folder in chosen.models] or [load()]
    if chosen.hours:
        for model in models:
            watched(model, chosen.hours)
        raise SystemExit
    size = models[0].size
    sets = (
        [list(recorded(chosen.pairs, size))]
        if chosen.pairs
        else [list(evaluate.simulated(evaluate.TEST_SEEDS, size, each=EACH, seed=s)) for s in SEEDS]
    )
    if chosen.models:
        over_models(models, [case for cases in sets for case in cases])
    else:
        compared(models[0], sets)
