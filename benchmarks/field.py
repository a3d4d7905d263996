"""Field networks compared in simulated halls that no network has seen, beside interpolations.

    python -m benchmarks.field [--seeds 3] [--only geometric,plain] [--steps N] [--halls N] [--save DIR]

Each network is trained on the training halls, and calibrated and judged on the validation halls; the table shows the test halls.
The power of inverse-distance weighting is the best on the validation halls, for each kind of field.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.spread import spread
from tocsin.models.field.config import FieldConfig
from tocsin.models.field.domain import HALLS, JUDGED, TEST, TRAINING, VALIDATION
from tocsin.models.field.evaluate import IDW, coverage, ratio, rmse
from tocsin.models.field.hall import KINDS
from tocsin.models.field.network import NetworkSize
from tocsin.models.field.scenes import SENSORS, Drawn, simulated
from tocsin.models.field.train import Outcome, Recipe, together, train, trials

VARIANTS = {
    "geometric": FieldConfig(),
    "plain": FieldConfig(network="plain", size=NetworkSize(scalars=52)),
}
"""Both networks have about as many parameters."""


def main(seeds: int, only: Sequence[str], recipe: Recipe, halls: int, save: Path | None) -> None:
    """Print a row for each estimate, kind of field and number of sensors."""
    scenes = simulated(halls, TRAINING, fields=2)
    held, tests = (trials(simulated(JUDGED, seed), seed=seed) for seed in (VALIDATION, TEST))
    print("| estimate | kind | sensors | RMSE | of inverse distance's | in the interval |\n|" + "---|" * 6)
    done = False
    for name in only:
        outcomes = []
        for seed in range(seeds):
            begin = time.monotonic()
            outcomes.append(train(scenes, held, VARIANTS[name], recipe, seed=seed))
            if save:
                outcomes[-1].model.save(save / f"{name}-{seed}")
            print(
                f"<!-- {name}, seed {seed}: {time.monotonic() - begin:.0f} s, {dict(outcomes[-1].figures)} -->",
                flush=True,
            )
        print(f"<!-- {name}: {outcomes[0].model.parameters} parameters -->")
        if not done:
            _plain(outcomes[0], tests)
            done = True
        _rows(name, outcomes, tests)


def _plain(outcome: Outcome, tests: Mapping[int, Drawn]) -> None:
    """The rows of the interpolations."""
    for count, (found, truth, kind) in _parts(outcome, tests).items():
        reference = rmse(found[IDW], truth, kind)
        for name, estimate in found.items():
            if name not in ("model", "spread"):
                figures = rmse(estimate, truth, kind)
                for each in KINDS:
                    of = f"rmse_{each}"
                    print(f"| {name} | {each} | {count} | {figures[of]:.2f} | {figures[of] / reference[of]:.3f} | |")
                print(f"| {name} | both | {count} | | {ratio(figures, reference):.3f} | |", flush=True)


def _rows(name: str, outcomes: Sequence[Outcome], tests: Mapping[int, Drawn]) -> None:
    """The rows of a network over its seeds."""
    parts = [_parts(outcome, tests) for outcome in outcomes]
    for count in parts[0]:
        figures, shares, held = list[dict[str, float]](), list[dict[str, float]](), list[dict[str, float]]()
        for part in parts:
            found, truth, kind = part[count]
            reference = rmse(found[IDW], truth, kind)
            figures.append(rmse(found["model"], truth, kind))
            shares.append(
                {each: figures[-1][f"rmse_{each}"] / reference[f"rmse_{each}"] for each in KINDS}
                | {"both": ratio(figures[-1], reference)}
            )
            held.append(
                {
                    each: coverage(*(values[kind == number] for values in (found["model"], found["spread"], truth)))
                    for number, each in enumerate(KINDS)
                }
            )
        for each in KINDS:
            cells = spread([one[f"rmse_{each}"] for one in figures], 2), spread([one[each] for one in shares], 3)
            print(f"| {name} | {each} | {count} | {cells[0]} | {cells[1]} | {spread([one[each] for one in held], 2)} |")
        print(f"| {name} | both | {count} | | {spread([one['both'] for one in shares], 3)} | |", flush=True)


def _parts(outcome: Outcome, tests: Mapping[int, Drawn]) -> dict[int | str, tuple]:
    """Estimates, truth and kinds for each number of sensors, and for all."""
    parts: dict[int | str, tuple] = {count: together({count: tests[count]}, outcome.model) for count in SENSORS}
    return {**parts, "all": together(tests, outcome.model)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--halls", type=int, default=HALLS)
    parser.add_argument("--save", type=Path)
    a = parser.parse_args()
    main(a.seeds, a.only.split(","), replace(Recipe(), steps=a.steps), a.halls, a.save)
