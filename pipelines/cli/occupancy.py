"""What `train`, `evaluate` and `feed` do for occupancy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl
    from rich.progress import Progress

    from tocsin.models.occupancy.config import OccupancyConfig
    from tocsin.models.occupancy.data import Recording
    from tocsin.models.occupancy.search import Trial
    from tocsin.models.occupancy.train import Recipe, Room
    from tocsin.pipelines.runtime.settings import Settings

FACTORY = "tocsin.pipelines.occupancy:pipeline"
DAYS = 14
"""Of a simulated building."""
ROWS = 1000
"""Rows handed to the feeder at once."""


class Search(NamedTuple):
    """Trials of a search, and its run in MLflow."""

    trials: list[Trial]
    run: str | None


def train(
    settings: Settings,
    data: list[str],
    *,
    out: Path,
    name: str,
    seeds: list[int],
    recipe: Recipe | None = None,
    trials: int = 0,
    decimal_comma: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train on all rooms of some recordings, each of which gets the same share; the best on the others' rooms is kept.

    A seed's score is its F1 on what is left out in turn, as `tocsin.models.occupancy.search.folds` says, so that it says how well
    the model does in rooms that it has never seen; with a single room there is nothing to leave out, and the first seed is kept.

    Args:
        trials: of a search for the network's sizes and its recipe by the same score with the first seed; 0 searches nothing.
        decimal_comma: as of `tocsin.models.occupancy.data.read`.
        force: take the model as champion although it is worse than the one that is.

    Returns:
        As `told` of `tocsin.pipelines.cli.champion`, and `seed`, `seeds` with the figures of each, and `search`: its trials, or
        None.
    """
    from tocsin.models import gate, registry
    from tocsin.models.occupancy.config import OccupancyConfig
    from tocsin.models.occupancy.search import best, folds, settled
    from tocsin.models.occupancy.train import Recipe, candidate, fit, labelled, rooms, score
    from tocsin.pipelines.cli.champion import registered, told
    from tocsin.pipelines.cli.console import progress
    from tocsin.pipelines.occupancy import minutes

    config, recipe, found = OccupancyConfig(), recipe or Recipe(), Search([], None)
    sources, tried, curves = [], {}, {}
    with progress() as shown:
        task = shown.add_task("reading", total=len(data))
        for source in data:
            recording = recorded(source, rooms=16, seed=0, decimal_comma=decimal_comma)
            sources.append(rooms(labelled(minutes(recording), recording.truth), config.features))
            shown.advance(task)
        if trials:
            found = _search(
                settings, sources, config, recipe, data=data, name=name, trials=trials, seed=seeds[0], shown=shown
            )
            config, recipe = settled(config, recipe, best(found.trials).settings)
        turns = folds(sources)
        for number in seeds:
            task = shown.add_task(f"seed {number}", total=len(turns) + 1)
            scores = []
            for others, left_out in turns:
                scores.append(score(fit(others, config, recipe, seed=number), left_out)["f1"])
                shown.advance(task)
            curve = registry.Curve()
            model = fit(sources, config, recipe, seed=number, progress=curve.add)
            tried[number] = (f1 := sum(scores) / max(len(scores), 1), model)
            curves[number] = curve.end({"f1": f1} if turns else {}, "left_out_")
            shown.advance(task)
    kept = gate.best({number: f1 for number, (f1, _) in tried.items()})
    model = tried[kept][1]
    model.save(out)
    figures = [{"seed": number, **({"left_out_f1": f1} if turns else {})} for number, (f1, _) in tried.items()]
    params = {"data": " ".join(data), "seed": kept, "parameters": model.parameters, "window": config.window}
    register = partial(
        registry.register,
        out,
        domain="occupancy",
        params={**params, **asdict(config.network), **asdict(recipe), **({"search": found.run} if trials else {})},
        metrics=curves[kept],
        data=data,
        attempts=[registry.Attempt(number, points) for number, points in curves.items()],
    )
    new = candidate(model, out, sources, tried[kept][0] if turns else None)
    made = registered(settings, new, register, name=name, force=force)
    search = [asdict(trial) for trial in found.trials] or None
    return {**told(made, out, name), "seed": kept, "seeds": figures, "search": search}


def _search(
    settings: Settings,
    sources: Sequence[Sequence[Room]],
    config: OccupancyConfig,
    recipe: Recipe,
    *,
    data: list[str],
    name: str,
    trials: int,
    seed: int,
    shown: Progress,
) -> Search:
    """Search, each trial recorded in MLflow when it ends, if that is enabled."""
    from tocsin.models import registry
    from tocsin.models.occupancy.search import Trial, best, search
    from tocsin.pipelines.cli.champion import artifacts

    uri, run, done = settings.mlflow.tracking_uri, None, list[Trial]()
    params = {"data": " ".join(data), "trials": trials, "seed": seed, "window": config.window, "steps": recipe.steps}
    task = shown.add_task("search", total=trials)
    with ExitStack() as tracked:
        if settings.mlflow.enabled:
            run, record = tracked.enter_context(
                registry.searching(name, params, tracking_uri=uri, artifact_location=artifacts(uri))
            )

        def tell(trial: Trial) -> None:
            done.append(trial)
            if run:
                record(trial.number, trial.settings, {"left_out_f1": trial.f1})
            shown.update(task, advance=1, description=f"search, best F1 {best(done).f1:.3f}")

        return Search(search(sources, config, recipe, trials=trials, seed=seed, tell=tell), run)


def evaluate(folder: Path, version: str, data: Path, *, decimal_comma: bool = False) -> dict[str, Any]:
    """The pipeline over a recording, against its truth.

    Returns:
        The figures of all rooms together, as `tocsin.models.occupancy.evaluate.metrics`, of the state that people see; `rooms` with
        those of each; `minutes` that were scored, and `parameters`.
    """
    import polars as pl

    from tocsin.models.occupancy.data import read
    from tocsin.models.occupancy.evaluate import metrics
    from tocsin.models.occupancy.model import load
    from tocsin.models.occupancy.train import labelled
    from tocsin.pipelines.occupancy import judged
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.engine.plan import Model

    recording = read(data, decimal_comma=decimal_comma)
    if not len(recording.truth):
        raise ConfigError(
            f"{data}: expected the truth beside the readings (a column or a property of occupancy), got none"
        )
    results = judged(recording, Model(folder, version, "auto")).filter(pl.col("probability").is_not_null())
    table = labelled(results.with_columns(pl.col("event_time").dt.epoch("ms").alias("time"), told="occupied").drop("occupied"),
                     recording.truth).drop_nulls("occupied")  # fmt: skip
    if not len(table):
        raise ConfigError(f"{data}: expected an hour of readings with their truth at least, got fewer")

    def figures(part: pl.DataFrame) -> dict[str, float]:
        return metrics(*(part[c].to_numpy() for c in ("occupied", "told", "probability")))

    each = {str(room): figures(part) for (room,), part in table.partition_by("room", as_dict=True).items()}
    return {
        **figures(table),
        "minutes": table.height,
        "parameters": load(folder).parameters,
        "rooms": dict(sorted(each.items())),
    }


def frames(source: str, *, rooms: int, seed: int, decimal_comma: bool = False) -> tuple[Iterator[pl.DataFrame], int]:
    """Readings as they would have arrived, and how many."""
    import polars as pl

    from tocsin.models.occupancy.data import read
    from tocsin.models.occupancy.simulation.sensors import simulate

    # A building's readings as they arrive, not by their time.
    events = (
        simulate(rooms=rooms, days=DAYS, seed=seed)[0]
        if source == "sim"
        else read(Path(source), decimal_comma=decimal_comma).events
    )
    table = events.select("room", "property", pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), "value")
    return table.iter_slices(ROWS), table.height


def recorded(source: str, *, rooms: int, seed: int, days: int = DAYS, decimal_comma: bool = False) -> Recording:
    """A directory's recording, or "sim", a simulated building's; its truth is then the motion sensor.

    Args:
        rooms, days, seed: of the building.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    import polars as pl

    from tocsin.models.occupancy.data import Recording, read
    from tocsin.models.occupancy.simulation.sensors import simulate

    if source != "sim":
        return read(Path(source), decimal_comma=decimal_comma)
    events, truth = simulate(rooms=rooms, days=days, seed=seed)
    return Recording(
        events.select("room", "property", "time", "value").sort("time", maintain_order=True),
        truth.select("room", "time", occupied=pl.col("motion")),
        "UTC",
    )
