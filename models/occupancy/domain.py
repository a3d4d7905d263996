"""Occupancy, as the commands `train`, `evaluate` and `feed` see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tocsin.models.domain import SIM, DecimalComma, Domain, Evaluation, Feed, Option, Trained, Training
from tocsin.models.occupancy.model import OccupancyModel

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.occupancy.config import OccupancyConfig
    from tocsin.models.occupancy.data import Recording
    from tocsin.models.occupancy.search import Trial
    from tocsin.models.occupancy.train import Recipe, Room

DAYS = 14
"""Of a simulated building."""
ROWS = 1000
"""Rows of a table that is fed."""
SHOWN = 5
"""Trials of a search that a person is shown."""


class Search(NamedTuple):
    """Trials of a search, and its run in MLflow."""

    trials: list[Trial]
    run: str | None


@dataclass(frozen=True)
class Occupancy(Domain):
    """Recordings of rooms, or a simulated building.

    Args:
        minutes: a recording -> what the network sees of each minute, by the pipeline's own stages.
        results: a recording, and a model's folder and version -> what the pipeline makes of it.
    """

    minutes: Callable[[Recording], pl.DataFrame]
    results: Callable[[Recording, Path, str], pl.DataFrame]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Of training.")] = None,
        search: Annotated[int, Option("A Bayesian search for sizes and recipe before.", "TRIALS", 0)] = 0,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on all rooms of some recordings, each of which gets the same share; the best on the others' rooms is kept.

        A seed's score is its F1 on what is left out in turn, as `tocsin.models.occupancy.search.folds` says, so that it says how
        well the model does in rooms that it has never seen; with a single room there is nothing to leave out, and the first seed
        is kept.
        """
        from tocsin.models import registry
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.occupancy.config import OccupancyConfig
        from tocsin.models.occupancy.search import best, folds, settled
        from tocsin.models.occupancy.train import Recipe, candidate, fit, labelled, rooms, score

        (name, out), progress = run.place("occupancy"), run.progress
        recipe = Recipe() if steps is None else replace(Recipe(), steps=steps)
        config, found = OccupancyConfig(), Search([], None)
        sources: list[list[Room]] = []
        attempts: dict[int, Attempt[OccupancyModel]] = {}
        task = progress.add_task("reading", total=len(run.data))
        for source in run.data:
            recording = recorded(source, rooms=16, seed=0, decimal_comma=decimal_comma)
            sources.append(rooms(labelled(self.minutes(recording), recording.truth), config.features))
            progress.advance(task)
        if search:
            found = _search(run, sources, config, recipe, name=name, trials=search)
            config, recipe = settled(config, recipe, best(found.trials).settings)
        turns = folds(sources)
        for seed in run.seeds:
            task = progress.add_task(f"seed {seed}", total=len(turns) + 1)
            scores = []
            for others, left_out in turns:
                scores.append(score(fit(others, config, recipe, seed=seed), left_out)["f1"])
                progress.advance(task)
            curve = registry.Curve()
            model = fit(sources, config, recipe, seed=seed, progress=curve.add)
            f1 = sum(scores) / max(len(scores), 1)
            figures = {"left_out_f1": f1} if turns else {}
            line = f": F1 {f1:.3f} on what was left out" if turns else ""
            attempts[seed] = Attempt(model, f1, curve.end(figures, ""), figures, line)
            progress.advance(task)
        searched = {"search": found.run} if search else {}
        return keep(
            run,
            attempts,
            domain="occupancy",
            place=(name, out),
            candidate=lambda seed: candidate(
                attempts[seed].model, out, sources, attempts[seed].score if turns else None
            ),
            params=lambda model: {"window": config.window, **asdict(config.network), **asdict(recipe), **searched},
            lines=_trials(found.trials),
            more={"search": [asdict(trial) for trial in found.trials] or None},
        )

    def evaluate(self, folder: Path, version: str, data: str, *, decimal_comma: DecimalComma = False) -> Evaluation:
        """The pipeline over a recording, against its truth: the state that people see, minute by minute."""
        import polars as pl

        from tocsin.models.occupancy.data import read
        from tocsin.models.occupancy.evaluate import metrics
        from tocsin.models.occupancy.model import load
        from tocsin.models.occupancy.train import labelled

        recording = read(Path(data), decimal_comma=decimal_comma)
        if not len(recording.truth):
            raise ValueError(
                f"{data}: expected the truth beside the readings (a column or a property of occupancy), got none"
            )
        results = self.results(recording, folder, version).filter(pl.col("probability").is_not_null())
        minutes = results.with_columns(pl.col("event_time").dt.epoch("ms").alias("time"), told="occupied")
        table = labelled(minutes.drop("occupied"), recording.truth).drop_nulls("occupied")
        if not len(table):
            raise ValueError(f"{data}: expected an hour of readings with their truth at least, got fewer")

        def figures(part: pl.DataFrame) -> dict[str, float]:
            return metrics(*(part[c].to_numpy() for c in ("occupied", "told", "probability")))

        each = {str(room): figures(part) for (room,), part in table.partition_by("room", as_dict=True).items()}
        each = dict(sorted(each.items()))
        shown = ("f1", "precision", "recall", "auroc")
        return Evaluation(
            {**figures(table), "minutes": table.height, "parameters": load(folder).parameters},
            {"rooms": each},
            [f"room {room}: " + ", ".join(f"{name} {own[name]:.3f}" for name in shown) for room, own in each.items()],
        )

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        rooms: Annotated[int, Option("In the simulated building.")] = 8,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Readings as they would have arrived; a simulated building ends after 14 days."""
        import polars as pl

        from tocsin.models.occupancy.data import read
        from tocsin.models.occupancy.simulation.sensors import simulate

        # A building's readings as they arrive, not by their time.
        events = (
            simulate(rooms=rooms, days=DAYS, seed=seed)[0]
            if source == SIM
            else read(Path(source), decimal_comma=decimal_comma).events
        )
        table = events.select("room", "property", pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), "value")
        return Feed(table.iter_slices(ROWS), total=table.height)


def recorded(source: str, *, rooms: int, seed: int, days: int = DAYS, decimal_comma: bool = False) -> Recording:
    """A directory's recording, or `SIM`, a simulated building's; its truth is then the motion sensor.

    Args:
        rooms, days, seed: of the building.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    import polars as pl

    from tocsin.models.occupancy.data import Recording, read
    from tocsin.models.occupancy.simulation.sensors import simulate

    if source != SIM:
        return read(Path(source), decimal_comma=decimal_comma)
    events, truth = simulate(rooms=rooms, days=days, seed=seed)
    return Recording(
        events.select("room", "property", "time", "value").sort("time", maintain_order=True),
        truth.select("room", "time", occupied=pl.col("motion")),
        "UTC",
    )


def _search(
    run: Training,
    sources: Sequence[Sequence[Room]],
    config: OccupancyConfig,
    recipe: Recipe,
    *,
    name: str,
    trials: int,
) -> Search:
    """Search with the first seed, each trial recorded in MLflow when it ends, if there is a registry."""
    from tocsin.models import registry
    from tocsin.models.occupancy.search import Trial, best, search

    uri, recorded_as, done, seed = run.registrar.uri, None, list[Trial](), run.seeds[0]
    params = {
        "data": " ".join(run.data),
        "trials": trials,
        "seed": seed,
        "window": config.window,
        "steps": recipe.steps,
    }
    task = run.progress.add_task("search", total=trials)
    with ExitStack() as tracked:
        if uri:
            recorded_as, record = tracked.enter_context(
                registry.searching(name, params, tracking_uri=uri, artifact_location=run.registrar.artifacts)
            )

        def tell(trial: Trial) -> None:
            done.append(trial)
            if recorded_as:
                record(trial.number, trial.settings, {"left_out_f1": trial.f1})
            run.progress.update(task, advance=1, description=f"search, best F1 {best(done).f1:.3f}")

        return Search(search(sources, config, recipe, trials=trials, seed=seed, tell=tell), recorded_as)


def _trials(trials: Sequence[Trial]) -> list[str]:
    """The best trials beside the first, which is how the settings were, as a table."""
    if not trials:
        return []
    ranked = sorted(trials, key=lambda trial: -trial.f1)[:SHOWN]
    shown = ranked if trials[0] in ranked else [*ranked, trials[0]]
    rows: list[tuple[str, list[Any]]] = [
        ("setting", ["as it was" if trial.number == 0 else f"trial {trial.number}" for trial in shown]),
        ("F1 left out", [f"{trial.f1:.3f}" for trial in shown]),
        *((name, [f"{trial.settings[name]:.3g}" for trial in shown]) for name in trials[0].settings),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows]
