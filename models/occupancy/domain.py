"""Occupancy for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import (
    SIM,
    Adaptation,
    Calibrated,
    DecimalComma,
    Domain,
    Evaluation,
    Feed,
    ImputerSteps,
    Option,
    Trained,
    Training,
    WithImputer,
    WithWrongLabels,
)
from tocsin.models.occupancy.model import OccupancyModel

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.adaptation import Adapted
    from tocsin.models.imputer.train import Outcome
    from tocsin.models.occupancy.data import Recording
    from tocsin.models.occupancy.train import Room

DAYS = 14
"""Length of the simulation of a building."""
BOOKED_ROOMS = 8
"""Rooms of the building that `evaluate` simulates."""
ROWS = 1000
"""Rows in each table of a feed."""


@dataclass(frozen=True)
class Occupancy(Domain):
    """Recordings of rooms, or a simulated building.

    Args:
        minutes: a recording -> the network's features of each minute, computed by the pipeline's own stages.
        sensors: a recording -> the imputer's input of each minute.
        results: a recording, a model's folder and version, and the intervals that are known -> the pipeline's results.
    """

    minutes: Callable[[Recording], pl.DataFrame]
    sensors: Callable[[Recording], pl.DataFrame]
    results: Callable[[Recording, Path, str, pl.DataFrame | None], pl.DataFrame]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        sensors: Annotated[
            str, Option("Sensors that the model reads beside CO2: temperature, humidity, ventilation.", "LIST")
        ] = "",
        search: Annotated[
            int, Option("Trials of a Bayesian search for sizes and recipe, before training.", "TRIALS", 0)
        ] = 0,
        robust: WithWrongLabels = False,
        imputer: WithImputer = False,
        imputer_steps: ImputerSteps = None,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on all rooms of the recordings, each with the same share, and keep the seed with the best score.

        A seed's score is its mean F1 over the folds of `tocsin.models.occupancy.search.folds`, so it measures the model on rooms
        that it was not trained on. A single room has no folds; then the first seed is kept.
        """
        from tocsin.models import registry
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.occupancy import bounds, trials
        from tocsin.models.occupancy.config import OccupancyConfig
        from tocsin.models.occupancy.plain import Plain
        from tocsin.models.occupancy.search import apply_settings, best, folds
        from tocsin.models.occupancy.train import ROBUST, Recipe, candidate, fit, score

        (name, out), progress = run.place("occupancy"), run.progress
        recipe = Recipe(robust=ROBUST if robust else None)
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        config, found = OccupancyConfig(features=_features(sensors)), trials.Search([], None)
        sources, minutes = self._rooms(run, config.features, decimal_comma)
        config = replace(config, bounds=bounds.fit(minutes), plain=Plain.fit(minutes))
        attempts: dict[int, Attempt[OccupancyModel]] = {}
        if search:
            found = trials.search(run, sources, config, recipe, name=name, count=search)
            config, recipe = apply_settings(config, recipe, best(found.trials).settings)
        splits = folds(sources)
        for seed in run.seeds:
            task = progress.add_task(f"seed {seed}", total=len(splits) + 1)
            scores = []
            for others, left_out in splits:
                scores.append(score(fit(others, config, recipe, seed=seed), left_out)["f1"])
                progress.advance(task)
            curve = registry.Curve()
            model = fit(sources, config, recipe, seed=seed, progress=curve.add)
            f1 = sum(scores) / max(len(scores), 1)
            figures = {"left_out_f1": f1} if splits else {}
            line = f": F1 {f1:.3f} on held-out rooms" if splits else ""
            attempts[seed] = Attempt(model, f1, curve.end(figures, ""), figures, line)
            progress.advance(task)
        beside = self._imputer(run, imputer_steps, decimal_comma) if imputer else None
        searched = {"search": found.run} if search else {}
        return keep(
            run,
            attempts,
            domain="occupancy",
            place=(name, out),
            candidate=lambda seed: candidate(
                attempts[seed].model, out, sources, attempts[seed].score if splits else None
            ),
            params=lambda model: {"window": config.window, **asdict(config.network), **asdict(recipe), **searched},
            lines=trials.lines(found.trials),
            more={"search": [asdict(trial) for trial in found.trials] or None},
            imputer=beside,
        )

    def _imputer(self, run: Training, steps: int | None, decimal_comma: bool) -> Outcome:
        """Train an imputer on all rooms, with the first seed."""
        from tocsin.models.occupancy.imputer import RECIPE, fit

        recipe = RECIPE if steps is None else replace(RECIPE, steps=steps)
        task = run.progress.add_task("imputer", total=recipe.steps)
        grids = [self.sensors(recorded(source, rooms=16, seed=0, decimal_comma=decimal_comma)) for source in run.data]
        return fit(
            grids,
            recipe=recipe,
            seed=run.seeds[0],
            progress=lambda step, loss: run.progress.update(task, completed=step + 1),
        )

    def _rooms(
        self, run: Training, features: Sequence[str], decimal_comma: bool
    ) -> tuple[list[list[Room]], pl.DataFrame]:
        """Read the labelled rooms of each recording, and the labelled minutes of all, with the `recording`."""
        import polars as pl

        from tocsin.models.occupancy.train import labelled, rooms

        sources: list[list[Room]] = []
        tables: list[pl.DataFrame] = []
        task = run.progress.add_task("reading", total=len(run.data))
        for source in run.data:
            recording = recorded(source, rooms=16, seed=0, decimal_comma=decimal_comma)
            tables.append(labelled(self.minutes(recording), recording.truth).with_columns(recording=pl.lit(source)))
            sources.append(rooms(tables[-1], features))
            run.progress.advance(task)
        return sources, pl.concat(tables)

    def adapt(
        self,
        run: Adaptation,
        *,
        days: Annotated[
            int | None, Option("Number of labelled days that are used, the first ones [all].", least=1)
        ] = None,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Adapt a model to a site by its labelled days: a room, or all rooms of a building.

        If the site is one of the recordings' rooms, the others are left out.

        Raises:
            ValueError: there is more than one folder, there is too little truth, or a reader raises it.
        """
        import polars as pl

        from tocsin.models.adaptation import adapt_and_keep
        from tocsin.models.occupancy.adapt import RECIPE, adapt, candidate
        from tocsin.models.occupancy.adapt import days as labelled_days
        from tocsin.models.occupancy.data import read
        from tocsin.models.occupancy.model import load
        from tocsin.models.occupancy.train import labelled

        base, recording = load(run.base, "cpu"), read(run.single(), decimal_comma=decimal_comma)
        if run.site in recording.rooms:
            own = pl.col("room") == run.site
            recording = replace(recording, events=recording.events.filter(own), truth=recording.truth.filter(own))
        known = labelled_days(labelled(self.minutes(recording), recording.truth), base.config, most=days)
        return adapt_and_keep(
            run,
            lambda seed, report: adapt(base, run.site, known, recipe=RECIPE, seed=seed, progress=report),
            domain="occupancy",
            figure="f1",
            candidate=lambda folder, f1, shared: candidate(folder, run.site, known, f1, shared),
            line=lambda found: _site_line(run.site, found, len(known), base.parameters),
            params={"days": len(known), **asdict(RECIPE)},
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        site: Annotated[str, Option("Site whose adapter judges all rooms [each room's own, if it is a site].")] = "",
        decimal_comma: DecimalComma = False,
        context: Annotated[
            Path | None, Option("Bookings and holidays [context.csv or context.parquet in the folder].", "FILE")
        ] = None,
    ) -> Evaluation:
        """Run the pipeline over a recording, and compare the published state with the truth, minute by minute.

        `sim` is a simulated building whose meeting rooms are booked. With intervals, the figures without them stand beside.
        """
        from tocsin.models import timetable
        from tocsin.models.occupancy.data import read
        from tocsin.models.occupancy.judged import evaluation
        from tocsin.models.occupancy.simulation.bookings import KINDS, booked
        from tocsin.models.occupancy.simulation.sensors import TEST_SEEDS

        if data == SIM:
            recording, intervals = booked(rooms=BOOKED_ROOMS, days=DAYS, seed=TEST_SEEDS[0])
        else:
            recording, intervals = read(Path(data), decimal_comma=decimal_comma), None
        if file := context or timetable.beside(Path(data)):
            intervals = timetable.read(file, kinds=KINDS)
        if not len(recording.truth):
            raise ValueError(
                f"{data}: expected the truth beside the readings (a column or a property of occupancy), got none"
            )
        return evaluation(
            recording,
            folder,
            lambda place, known: self.results(recording, place, version, known),
            data=data,
            site=site,
            intervals=intervals,
        )

    def calibrate(
        self,
        folder: Path,
        options: Mapping[str, Any],
        key: str,
        results: pl.DataFrame,
        labels: Path | pl.DataFrame,
    ) -> Calibrated:
        """Choose a room's threshold; a label is a count of people, or whether the room is occupied."""
        import polars as pl

        from tocsin.models.occupancy.calibration import Day, calibrate
        from tocsin.models.occupancy.config import OccupancyConfig
        from tocsin.models.occupancy.data import read_truth
        from tocsin.models.occupancy.plain import local
        from tocsin.models.occupancy.train import labelled

        if isinstance(labels, Path):
            truth = read_truth(labels)
            named = truth["room"].unique().to_list()
            if key not in named and len(named) > 1:
                raise ValueError(f"{labels}: expected the truth of {key}, got that of {', '.join(sorted(named)[:5])}")
            truth = truth.filter(pl.col("room") == key) if key in named else truth.with_columns(room=pl.lit(key))
        else:
            truth = labels.select(
                room=pl.lit(key), time=pl.col("event_time").dt.epoch("ms"), occupied=pl.col("count") > 0
            ).sort("time")
        minutes = results.select("probability", room=pl.lit(key), time=pl.col("event_time").dt.epoch("ms"))
        known = labelled(minutes, truth).drop_nulls(["occupied", "probability"])
        days = [
            Day(day["probability"].cast(pl.Float64).to_numpy(), day["occupied"].to_numpy())
            for day in local(known, options.get("timezone", "UTC")).partition_by("day", maintain_order=True)
        ]
        found = calibrate(days, OccupancyConfig.load(folder).threshold)
        gain = f"F1 {found.f1_usual:.3f} with the model's threshold, {found.f1:.3f} with one chosen on the other days"
        lines = [f"{key}: {found.days} labelled days, occupied {found.occupied:.0%} of the time; {gain}"]
        if not found.changes:
            lines.append(f"the room keeps the model's threshold, {found.usual:g}")
        section = [f'[pipelines.occupancy.rooms."{key}"]', f"threshold = {found.threshold:g}"] if found.changes else []
        return Calibrated(asdict(found), section, lines)

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        rooms: Annotated[int, Option("Number of rooms in the simulated building.", least=1)] = 8,
        bookings: Annotated[bool, Option("Simulate meeting rooms; bookings and holidays are sent as context.")] = False,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed readings in the order of arrival. A simulated building ends after 14 days."""
        import polars as pl

        from tocsin.models.occupancy.data import read
        from tocsin.models.occupancy.simulation import bookings as meetings
        from tocsin.models.occupancy.simulation.sensors import simulate

        # Simulated readings come in the order of arrival, not of event time.
        announced = None
        if source == SIM and bookings:
            events, _, intervals = meetings.simulate(rooms=rooms, days=DAYS, seed=seed)
            times = (pl.from_epoch(name, "ms").dt.replace_time_zone("UTC") for name in ("from", "to"))
            new = [intervals.with_columns(times)]
            announced = lambda: new.pop() if new else pl.DataFrame()  # noqa: E731
        elif source == SIM:
            events, _ = simulate(rooms=rooms, days=DAYS, seed=seed)
        else:
            events = read(Path(source), decimal_comma=decimal_comma).events
        table = events.select("room", "property", pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), "value")
        return Feed(table.iter_slices(ROWS), total=table.height, announced=announced)


def _site_line(site: str, found: Adapted[OccupancyModel], days: int, whole: int) -> str:
    """What a site's adapter came to, beside the shared network alone."""
    about = f"{found.size} parameters, {found.size / whole:.1%} of the network's"
    shared = f"the shared network has F1 {found.figures['f1_shared']:.3f}"
    if "f1" not in found.figures:
        return f": {site}: one day, so nothing judges its adapter ({about}); {shared}"
    f1 = found.figures["f1"]
    return f": {site}: F1 {f1:.3f} over {days} days, each judged by an adapter of others ({about}); {shared}"


def recorded(source: str, *, rooms: int, seed: int, days: int = DAYS, decimal_comma: bool = False) -> Recording:
    """The recording in a directory or, for `SIM`, of a simulated building, whose truth is the motion sensor.

    Args:
        rooms, days, seed: of the simulated building.

    Raises:
        FileNotFoundError, ValueError: from the readers.
    """
    import polars as pl

    from tocsin.models.occupancy.data import MOTION, Recording, read
    from tocsin.models.occupancy.simulation.sensors import simulate

    if source != SIM:
        return read(Path(source), decimal_comma=decimal_comma)
    events, truth = simulate(rooms=rooms, days=days, seed=seed)
    return Recording(
        events.select("room", "property", "time", "value").sort("time", maintain_order=True),
        truth.select("room", "time", occupied=pl.col("motion")),
        "UTC",
        MOTION,
    )


def _features(sensors: str) -> tuple[str, ...]:
    """The features of CO2, of the clock, and of the other sensors in a list such as "temperature,humidity".

    Raises:
        ValueError: there is no such sensor.
    """
    from tocsin.models.occupancy.features import CLOCK, CO2, OTHERS

    names = [name.strip() for name in sensors.split(",") if name.strip()]
    if unknown := [name for name in names if name not in OTHERS]:
        raise ValueError(f"--sensors: expected some of {', '.join(OTHERS)}, got {', '.join(unknown)}")
    return (*CO2, *CLOCK, *(feature for name in OTHERS if name in names for feature in OTHERS[name]))
