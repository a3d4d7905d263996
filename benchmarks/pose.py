"""Pose on the simulated test films: the network, the same without its anchor and without its memory, and odometries.

    python -m benchmarks.pose DIR [--seeds 0 1 2] [--forms whole,no-anchor,no-memory] [--steps N]

DIR keeps the trained models, so that an interrupted run can resume. Each form is trained on the training films; the tables show the
test films. Drift is that of 100 frames, as a share of the way, where each step has its true length.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.kept import load_or_fit
from benchmarks.spread import spread
from tocsin.models.pose import odometry
from tocsin.models.pose.config import PoseConfig
from tocsin.models.pose.domain import BASELINES, FILMS
from tocsin.models.pose.evaluate import compared
from tocsin.models.pose.model import PoseModel, load
from tocsin.models.pose.network import NetworkConfig
from tocsin.models.pose.simulation.film import TEST_SECONDS, TEST_SEEDS, TRAIN_SEEDS, Film
from tocsin.models.pose.train import Course, Recipe, course, courses, fit, judged

FORMS = {
    "whole": NetworkConfig(),
    "no-anchor": NetworkConfig(anchored=False),
    "no-memory": NetworkConfig(memory=0),
}
FIGURES = ("drift", "drift_own_length", "turn_error", "direction_error")


@cache
def known() -> list[Course]:
    """The training films."""
    return courses(TRAIN_SEEDS[:FILMS])


def main(folder: Path, forms: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> None:
    """Print a line for each form and world."""
    torch.set_num_threads(1)
    tests = [course(Film(seed, seconds=TEST_SECONDS)) for seed in TEST_SEEDS]
    print("| form | films | " + " | ".join(FIGURES) + " |\n|" + "---|" * (2 + len(FIGURES)), flush=True)
    for form in forms:
        config = PoseConfig(network=FORMS[form])
        found = []
        for seed in seeds:

            def trained(seed: int = seed, config: PoseConfig = config) -> PoseModel:
                return PoseModel(config, fit(known(), config.network, recipe, seed=seed))

            model = load_or_fit(folder / f"{form}-{seed}", trained, load)
            found.append([judged(model, [test]) for test in tests])
            print(f"<!-- {form}, seed {seed}: drift {np.mean([one['drift'] for one in found[-1]]):.4f} -->", flush=True)
        _rows(form, found)
    for name, function in BASELINES.items():
        figures = []
        for film in (Film(seed, seconds=TEST_SECONDS) for seed in TEST_SEEDS):
            greys = film.greys()
            figures.append(compared(getattr(odometry, function)(greys, film.lens), film.path).figures())
        _rows(name, [figures])


def _rows(form: str, found: Sequence[Sequence[Mapping[str, float]]]) -> None:
    """The mean over rooms, which have even seeds, over sea floors, and over all, with the spread over seeds."""
    worlds = {"rooms": slice(0, None, 2), "sea floors": slice(1, None, 2), "all": slice(None)}
    for world, which in worlds.items():
        means = {name: [float(np.mean([one[name] for one in films[which]])) for films in found] for name in FIGURES}
        print(f"| {form} | {world} | " + " | ".join(spread(values, 3) for values in means.values()) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    options = parser.parse_args()
    main(options.folder, options.forms.split(","), options.seeds, replace(Recipe(), steps=options.steps))
