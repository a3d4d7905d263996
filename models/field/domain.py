"""Sensor fields for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, DecimalComma, Domain, Evaluation, Feed, Option, Trained, Training

if TYPE_CHECKING:
    from tocsin.models.field.scenes import Drawn, Scene

ROWS = 1000
"""Rows in each table of a feed."""
HALLS, JUDGED = 800, 60
"""Simulated halls to train on, and to judge by."""
TRAINING, VALIDATION, TEST = 0, 10_000, 20_000
"""Seeds of simulated halls: no hall is in two of them."""
KEPT = 5
"""One of so many recorded minutes is held out."""
HIDDEN = 0.25
"""Share of a recorded hall's sensors that are hidden to be estimated."""


@dataclass(frozen=True)
class Sensors(Domain):
    """Readings of sensors in halls with known walls, or simulated halls."""

    digits = 2

    def train(
        self,
        run: Training,
        *,
        network: Annotated[str, Option("Kind of network: geometric or plain.")] = "geometric",
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        halls: Annotated[int, Option("Number of simulated halls, for `--data sim`.", least=1)] = HALLS,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on halls, and keep the seed with the least error in halls, or minutes, that are held out."""
        from tocsin.models.attempts import each_seed, keep
        from tocsin.models.field.config import FieldConfig
        from tocsin.models.field.train import Recipe, candidate
        from tocsin.models.field.train import train as fit

        name, folder = run.place("field")
        config, recipe = FieldConfig(network=network), Recipe()
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        scenes, held = _sources(run, halls=halls, decimal_comma=decimal_comma)
        outcomes, attempts = each_seed(
            run,
            lambda seed, report: fit(scenes, held, config, recipe, seed=seed, progress=report),
            steps=recipe.steps,
            line=_line,
        )
        return keep(
            run,
            attempts,
            domain="field",
            place=(name, folder),
            candidate=lambda seed: candidate(outcomes[seed], folder),
            params=lambda model: {"network": network, **asdict(model.config.size), **asdict(recipe)},
            lower=True,
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        halls: Annotated[int, Option("Number of simulated halls, for `--data sim`.", least=1)] = JUDGED,
        decimal_comma: DecimalComma = False,
    ) -> Evaluation:
        """Estimate the field at places without a sensor; in a recording, at a quarter of its sensors, which are hidden."""
        import torch

        from tocsin.models.field.evaluate import IDW, figures, ratio, rmse
        from tocsin.models.field.hall import KINDS
        from tocsin.models.field.model import load
        from tocsin.models.field.train import together

        drawn, few = _judged(data, halls=halls, seed=TEST, decimal_comma=decimal_comma)
        model = load(folder, "cpu")
        found, truth, kind = together(drawn, model)
        parts: dict[str, Mapping[str, float]] = {}
        lines = []
        sizes = [len(each.truth) for each in drawn.values()]
        for count, rows in zip(drawn, torch.arange(len(truth)).split(sizes), strict=True):
            label = f"{count} sensors" if count else "sensors hidden"
            parts[label] = figures({name: values[rows] for name, values in found.items()}, truth[rows], kind[rows])
            lines.append(f"{label}: " + ", ".join(f"{name} {value:.2f}" for name, value in parts[label].items()))
        plain = [name for name in found if name not in ("model", "spread")]
        scored = {name: rmse(found[name], truth, kind) for name in plain}
        scored = {name: {**errors, "ratio": ratio(errors, scored[IDW])} for name, errors in scored.items()}
        known = ~truth.isnan()
        counted = {"places": int(known.sum()), "fields": len(truth)}
        counted |= {f"fields of {name}": int((kind == number).sum()) for number, name in enumerate(KINDS)}
        return Evaluation(
            {**figures(found, truth, kind), "parameters": model.parameters},
            {"sensors": parts},
            baselines=scored,
            counted=counted,
            left_out={"minutes with readings of fewer than 4 sensors": few},
            lines=lines,
        )

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        minutes: Annotated[int, Option("Minutes of the simulation.", least=1)] = 120,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed readings in the order of time. In each simulated hall a spot grows where no sensor is."""
        import polars as pl

        from tocsin.models.field.readings import load
        from tocsin.models.field.simulation.feed import simulate, usual_halls

        if source == SIM:
            table = pl.concat([simulate(hall, minutes=minutes, seed=seed) for hall in usual_halls()])
        else:
            _, table = load(Path(source), decimal_comma=decimal_comma)
        table = table.sort("time", "hall", "sensor")
        table = table.with_columns(pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"))
        return Feed(table.iter_slices(ROWS), total=table.height)


def _sources(run: Training, *, halls: int, decimal_comma: bool) -> tuple[list[Scene], dict[int, Drawn]]:
    """The scenes to train on, and those that are held out: of other halls in a simulation, of other minutes in a recording."""
    from tocsin.models.field.readings import load
    from tocsin.models.field.readings import scenes as recorded
    from tocsin.models.field.scenes import simulated
    from tocsin.models.field.train import trials

    scenes, held = list[Any](), dict[int, Any]()
    task = run.progress.add_task("reading", total=len(run.data))
    for number, source in enumerate(run.data):
        if source == SIM:
            scenes += simulated(halls, TRAINING, fields=2)
            held |= trials(simulated(min(halls, JUDGED), VALIDATION), seed=0)
        else:
            found, _ = recorded(*load(Path(source), decimal_comma=decimal_comma))
            if len(found) < KEPT:
                raise ValueError(
                    f"{source}: expected {KEPT} minutes of a hall with 4 sensors at least, got {len(found)}"
                )
            scenes += [scene for at, scene in enumerate(found) if at % KEPT]
            held[-1 - number] = _hidden(found[::KEPT], seed=0)
        run.progress.advance(task)
    return scenes, held


def _judged(data: str, *, halls: int, seed: int, decimal_comma: bool) -> tuple[dict[int, Drawn], int]:
    """What a model is judged by, by the number of sensors (0: as recorded), and how many minutes are left out."""
    from tocsin.models.field.readings import load
    from tocsin.models.field.readings import scenes as recorded
    from tocsin.models.field.scenes import simulated
    from tocsin.models.field.train import trials

    if data == SIM:
        return trials(simulated(halls, seed), seed=seed), 0
    found, few = recorded(*load(Path(data), decimal_comma=decimal_comma))
    if not found:
        raise ValueError(f"{data}: expected minutes with readings of 4 sensors of a hall at least, got none")
    return {0: _hidden(found, seed=seed)}, few


def _hidden(scenes: list[Scene], *, seed: int) -> Drawn:
    """Recorded scenes in which some sensors are hidden."""
    import numpy as np

    from tocsin.models.field.scenes import draw

    counts = [len(scene.places) - max(round(HIDDEN * len(scene.places)), 1) for scene in scenes]
    return draw(scenes, counts, max(len(scene.places) for scene in scenes), np.random.default_rng(seed))


def _line(figures: dict[str, float]) -> str:
    """What a seed's training came to."""
    error, share, held = (figures[f"validation_{name}"] for name in ("error", "ratio", "coverage"))
    return f": error {error:.3f} of a field's scale, {share:.2f} of inverse distance's, {held:.0%} in the interval"
