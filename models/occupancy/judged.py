"""A recording's results beside its truth: what `tocsin evaluate occupancy` reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from tocsin.models.domain import Evaluation, foreign
from tocsin.models.occupancy.data import NOISY, Recording
from tocsin.models.occupancy.evaluate import clock_error, empty_days, majority, metrics
from tocsin.models.occupancy.model import OccupancyModel, load
from tocsin.models.occupancy.plain import local
from tocsin.models.occupancy.train import labelled

UNAWARE, SHARED = "without intervals", "the shared network"
SHOWN = ("f1", "precision", "recall", "auroc")
TOLD = ("occupied", "predicted", "probability")
"""The truth, what was published, and the probability behind it."""

Results = Callable[[Path, pl.DataFrame | None], pl.DataFrame]
"""A model's folder, and the intervals that are known -> the pipeline's results on the recording."""


def evaluation(
    recording: Recording, folder: Path, results: Results, *, data: str, site: str, intervals: pl.DataFrame | None
) -> Evaluation:
    """Compare what the pipeline publishes with the truth, minute by minute.

    Args:
        recording: with its truth.
        folder: of the model.
        data: the recording's name.
        site: whose adapter judges all rooms; "": each room's own, if it is a site.
        intervals: bookings and holidays; None: there are none. With some, the figures without them stand beside.

    Raises:
        ValueError: there are too few readings with their truth, or the model has no such site.
    """
    model = load(folder)

    def with_model(other: OccupancyModel, known: pl.DataFrame | None) -> pl.DataFrame:
        """The results of a model that has no folder of its own."""
        with TemporaryDirectory() as place:
            other.save(Path(place))
            return results(Path(place), known)

    own = model.at(site) if site else None
    found = with_model(own, intervals) if own else results(folder, intervals)
    judged = found.filter(pl.col("probability").is_not_null())
    minutes = judged.with_columns(pl.col("event_time").dt.epoch("ms").alias("time"), predicted="occupied")
    table = labelled(minutes.drop("occupied"), recording.truth).drop_nulls("occupied")
    if not len(table):
        raise ValueError(f"{data}: expected an hour of readings with their truth at least, got fewer")
    table = local(table.sort("room", "time"), recording.timezone)

    def beside(other: pl.DataFrame) -> dict[str, float]:
        """The figures of other results, on the same minutes."""
        rows = other.select("room", "event_time", "probability", predicted="occupied")
        return _figures(table.select("room", "event_time", "occupied").join(rows, on=["room", "event_time"]))

    plain = {name: pl.Series(name, p) for name, p in model.config.plain.predict(table).items()}
    table = table.with_columns(*plain.values())
    occupied = table["occupied"].to_numpy()
    baselines = {name: metrics(occupied, p.to_numpy() >= 0.5, p.to_numpy()) for name, p in plain.items()}
    if intervals is not None:
        baselines[UNAWARE] = beside(with_model(own, None) if own else results(folder, None))
    if own or (model.sites and table["adapter"].is_not_null().any()):
        baselines[SHARED] = beside(with_model(model.shared, intervals))
    by_room = {str(room): part for (room,), part in table.partition_by("room", as_dict=True).items()}
    rooms = {room: {**_figures(part), "empty_day_minutes": empty_days(part)} for room, part in by_room.items()}
    in_domain = table.filter("in_domain").height / table.height
    lines = [f"room {room}: " + ", ".join(f"{n} {scores[n]:.3f}" for n in SHOWN) for room, scores in rooms.items()]
    if noise := NOISY.get(recording.kind):
        lines.append(f"the truth is {noise}, so some of these errors are its own")
    return Evaluation(
        {**_figures(table), "empty_day_minutes": empty_days(table), "parameters": model.parameters},
        {"rooms": rooms},
        baselines={"majority": majority(occupied), **baselines},
        counted={"rooms": len(rooms), "minutes": table.height},
        left_out={
            "minutes without a judgement": found.height - judged.height,
            "minutes without a known truth": judged.height - table.height,
        },
        in_domain=in_domain,
        lines=lines,
        doubt=_doubt(data, table, in_domain, recording.truth),
    )


def _figures(table: pl.DataFrame) -> dict[str, float]:
    return metrics(*(table[column].to_numpy() for column in TOLD))


def _doubt(data: str, minutes: pl.DataFrame, in_domain: float, truth: pl.DataFrame) -> str:
    """Say why the figures of a recording say little: its readings are unlike those in training, or its truth has another clock."""
    if hours := clock_error(minutes, truth):
        ahead = "behind" if hours > 0 else "ahead of"
        return (
            f"occupancy: expected the truth of {data} to follow its CO2, got a truth that is {abs(hours)} h {ahead} it: check the "
            "time zone of both; or use --force to accept the figures"
        )
    advice = "see in_domain in the results, check units and time zone"
    return foreign("occupancy", "readings", {f"the minutes of {data}": 1 - in_domain}, advice)
