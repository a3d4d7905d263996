"""The trials of a search for settings: run with progress, recorded in MLflow, and printed as a table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from tocsin.models import registry
from tocsin.models.domain import Training
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.search import Trial, best
from tocsin.models.occupancy.search import search as optimise
from tocsin.models.occupancy.train import Recipe, Room

SHOWN = 5
"""Trials that are printed."""


class Search(NamedTuple):
    """Trials of a search, and its run in MLflow."""

    trials: list[Trial]
    run: str | None


def search(
    run: Training,
    sources: Sequence[Sequence[Room]],
    config: OccupancyConfig,
    recipe: Recipe,
    *,
    name: str,
    count: int,
) -> Search:
    """Search with the first seed. If there is a registry, record each trial in MLflow when it ends."""
    uri, run_id, finished, seed = run.registrar.uri, None, list[Trial](), run.seeds[0]
    params = {
        "data": " ".join(run.data),
        "trials": count,
        "seed": seed,
        "window": config.window,
        "steps": recipe.steps,
    }
    task = run.progress.add_task("search", total=count)
    with ExitStack() as stack:
        if uri:
            run_id, record = stack.enter_context(
                registry.searching(name, params, tracking_uri=uri, artifact_location=run.registrar.artifacts)
            )

        def report(trial: Trial) -> None:
            finished.append(trial)
            if run_id:
                record(trial.number, trial.settings, {"left_out_f1": trial.f1})
            run.progress.update(task, advance=1, description=f"search, best F1 {best(finished).f1:.3f}")

        return Search(optimise(sources, config, recipe, trials=count, seed=seed, callback=report), run_id)


def lines(trials: Sequence[Trial]) -> list[str]:
    """The best trials as a table, with the first one, which has the original settings."""
    if not trials:
        return []
    ranked = sorted(trials, key=lambda trial: -trial.f1)[:SHOWN]
    shown = ranked if trials[0] in ranked else [*ranked, trials[0]]
    rows: list[tuple[str, list[Any]]] = [
        ("setting", ["unchanged" if trial.number == 0 else f"trial {trial.number}" for trial in shown]),
        ("held-out F1", [f"{trial.f1:.3f}" for trial in shown]),
        *((name, [f"{trial.settings[name]:.3g}" for trial in shown]) for name in trials[0].settings),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows]
