"""What `train`, `evaluate` and `feed` do for occupancy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from models.occupancy.data import Recording
    from models.occupancy.train import Recipe
    from pipelines.runtime.settings import Settings

FACTORY = "pipelines.occupancy:pipeline"
DAYS = 14
"""Of a simulated building."""
ROWS = 1000
"""Rows handed to the feeder at once."""


def train(
    settings: Settings, data: list[str], *, out: Path, name: str, seeds: list[int], recipe: Recipe | None = None
) -> dict[str, Any]:
    """Train on all rooms of some recordings, each of which gets the same share; the best on the others' rooms is kept.

    A seed's score is its F1 on sources left out in turn, so that it says how well the model does in buildings that it has never
    seen; with a single source there is nothing to leave out, and the first seed is kept.

    Returns:
        `model` (the folder), `name`, `version` in the registry, `seed`, and `seeds` with the figures of each.
    """
    from models import registry
    from models.occupancy.config import OccupancyConfig
    from models.occupancy.train import fit, labelled, rooms, score
    from pipelines.cli.console import progress
    from pipelines.occupancy import minutes

    config = OccupancyConfig()
    sources = []
    with progress() as shown:
        task = shown.add_task("reading", total=len(data))
        for source in data:
            recording = recorded(source, rooms=16, seed=0)
            sources.append(rooms(labelled(minutes(recording), recording.truth), config.features))
            shown.advance(task)
        tried = {}
        for number in seeds:
            task = shown.add_task(f"seed {number}", total=len(sources) + 1 if len(sources) > 1 else 1)
            scores = []
            for left_out in range(len(sources) if len(sources) > 1 else 0):
                others = [source for i, source in enumerate(sources) if i != left_out]
                scores.append(score(fit(others, config, recipe, seed=number), sources[left_out])["f1"])
                shown.advance(task)
            tried[number] = (sum(scores) / max(len(scores), 1), fit(sources, config, recipe, seed=number))
            shown.advance(task)
    best = max(tried, key=lambda number: tried[number][0])
    model = tried[best][1]
    model.save(out)
    figures = [
        {"seed": number, **({"left_out_f1": f1} if len(sources) > 1 else {})} for number, (f1, _) in tried.items()
    ]
    version = None
    if settings.mlflow.enabled:
        from pipelines.cli.train import artifacts

        uri = settings.mlflow.tracking_uri
        version = registry.register(
            out,
            name=name,
            params={"data": " ".join(data), "seed": best, "parameters": model.parameters, "window": config.window},
            metrics=[("left_out_f1", f1, number) for number, (f1, _) in tried.items() if len(sources) > 1],
            tracking_uri=uri,
            artifact_location=artifacts(uri),
        )
    return {"model": str(out), "name": name, "version": version, "seed": best, "seeds": figures}


def evaluate(folder: Path, version: str, data: Path) -> dict[str, Any]:
    """The pipeline over a recording, against its truth.

    Returns:
        The figures of all rooms together, as `models.occupancy.evaluate.metrics`, of the state that people see; `rooms` with those
        of each; `minutes` that were scored, and `parameters`.
    """
    import polars as pl

    from models.occupancy.data import read
    from models.occupancy.evaluate import metrics
    from models.occupancy.model import load
    from models.occupancy.train import labelled
    from pipelines.occupancy import judged
    from pipelines.runtime.errors import ConfigError
    from pipelines.runtime.plan import Model

    recording = read(data)
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


def frames(source: str, *, rooms: int, seed: int) -> tuple[Iterator[pl.DataFrame], int]:
    """Readings as they would have arrived, and how many."""
    import polars as pl

    from models.occupancy.data import read
    from models.occupancy.sensors import simulate

    # A building's readings as they arrive, not by their time.
    events = simulate(rooms=rooms, days=DAYS, seed=seed)[0] if source == "sim" else read(Path(source)).events
    table = events.select("room", "property", pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), "value")
    return table.iter_slices(ROWS), table.height


def recorded(source: str, *, rooms: int, seed: int) -> Recording:
    """A directory's recording, or "sim", a simulated building's; its truth is then the motion sensor.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    import polars as pl

    from models.occupancy.data import Recording, read
    from models.occupancy.sensors import simulate

    if source != "sim":
        return read(Path(source))
    events, truth = simulate(rooms=rooms, days=DAYS, seed=seed)
    return Recording(
        events.select("room", "property", "time", "value").sort("time", maintain_order=True),
        truth.select("room", "time", occupied=pl.col("motion")),
        "UTC",
    )
