"""Pose for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, Domain, Evaluation, Feed, Option, Shot, Trained, Training, shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from tocsin.models.pose.evaluate import Errors
    from tocsin.models.pose.paths import Known
    from tocsin.models.vision.video import Frame

RATE = 10.0
"""Frames per second for feeding, training and evaluation."""
FILMS = 80
"""Simulated films to train on."""
FEED_SECONDS = 60.0
BASELINES = {"ORB and RANSAC": "orb", "flow and RANSAC": "flowed"}
"""What the model is compared with, and its function in `tocsin.models.pose.odometry`."""


@dataclass(frozen=True)
class Pose(Domain):
    """Films of a moving camera with a known path, or simulated ones.

    Args:
        results: shots, their rate, a model's folder and version, and options of the pipeline -> the pipeline's table.
    """

    results: Callable[[Iterable[Shot], float, Path, str, Mapping[str, Any]], pl.DataFrame]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        films: Annotated[int, Option("Number of simulated films.", least=2)] = FILMS,
    ) -> Trained:
        """Train on simulated films, and keep the seed that drifts least on other ones.

        Raises:
            ValueError: `--data` is not `sim`: recordings do not tell depth, which training needs.
        """
        from tocsin.models.attempts import each_seed, keep
        from tocsin.models.pose.config import PoseConfig
        from tocsin.models.pose.simulation.film import TRAIN_SEEDS, VALIDATION_SEEDS
        from tocsin.models.pose.train import Recipe, candidate, courses, train

        if set(run.data) != {SIM}:
            raise ValueError(
                f"--data {' '.join(run.data)}: expected {SIM}, got a folder; pose is trained on simulated films"
            )
        place, config, recipe = run.place("pose"), PoseConfig(), Recipe()
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        seeds = TRAIN_SEEDS[:films]
        task = run.progress.add_task("films", total=len(seeds) + len(VALIDATION_SEEDS))
        known, unseen = (courses(each, lambda: run.progress.advance(task)) for each in (seeds, VALIDATION_SEEDS))
        outcomes, attempts = each_seed(
            run,
            lambda seed, report: train(known, unseen, config, recipe, seed=seed, progress=report),
            steps=recipe.steps,
            line=_line,
            prefix="validation_",
        )
        return keep(
            run,
            attempts,
            domain="pose",
            place=place,
            candidate=lambda seed: candidate(outcomes[seed], place[1], unseen),
            params=lambda model: asdict(model.config.network),
            lower=True,
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        focal: Annotated[
            float | None, Option("Focal length in frame widths, where the table has none [the model's own].")
        ] = None,
    ) -> Evaluation:
        """Run the pipeline over films with a known path, see `tocsin.models.pose.paths`, or over the simulated test films.

        Raises:
            ValueError: there is no film, or a table or an option is wrong.

        Returns:
            The means over the films of the figures of `Errors`; the figures of each film; and those of other odometries.
        """
        from tocsin.models.pose import odometry
        from tocsin.models.pose.evaluate import compared, steps_of
        from tocsin.models.pose.model import load
        from tocsin.models.vision.flow import grey_frame

        if focal is not None and not 0 < focal < float("inf"):
            raise ValueError(
                f"--focal: expected a length in frame widths above 0, got {focal:g}; correct it, or leave it out"
            )
        model = load(folder)
        films: dict[str, dict[str, float]] = {}
        beside: dict[str, list[dict[str, float]]] = {name: [] for name in BASELINES}
        frames, unlabelled, short = 0, 0, 0
        for name, shown_frames, known in _films(data):
            if known is None:
                unlabelled += 1
                continue
            greys: list[NDArray[np.uint8]] = []
            lens, shape = known.focal or focal, model.size

            def shots(pictures: Iterable[Frame], greys: list[NDArray[np.uint8]] = greys) -> Iterator[Shot]:
                nonlocal shape
                for picture in pictures:  # a whole film in colour would not fit in memory
                    greys.append(grey_frame(picture, model.size))
                    shape = picture.shape[0], picture.shape[1]
                    yield Shot(picture)

            film = shots(islice(shown_frames, len(known.way.place)))
            table = self.results(film, RATE, folder, version, {} if lens is None else {"focal": lens})
            if len(greys) < 2:
                short += 1
                continue
            films[name] = _figures(compared(steps_of(table), known.way.first(len(greys))), known)
            for other, function in BASELINES.items():
                found = getattr(odometry, function)(greys, model.lens(lens, shape))
                beside[other].append(_figures(compared(found, known.way.first(len(greys))), known))
            frames += len(greys)
        if not films:
            raise ValueError(f"--data {data}: expected clips of two frames or more with a known path, got none")
        return Evaluation(
            {**_mean(films.values()), "parameters": model.parameters},
            {"films": films},
            baselines={name: _mean(figures) for name, figures in beside.items()},
            counted={"films": len(films), "frames": frames, "seconds": frames / RATE},
            left_out={"clips without a path": unlabelled, "clips of fewer than two frames": short},
            lines=[
                f"{name}: "
                + ", ".join(f"{key} {shown(value if value == value else None, 3)}" for key, value in figures.items())
                for name, figures in films.items()
            ],
        )

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed a video, a camera's stream, or a simulated film: an even seed is a room, an odd one a sea floor."""
        from tocsin.models.pose.simulation.film import Film
        from tocsin.models.vision.video import read

        rate = rate or RATE
        frames = (
            iter(Film(seed, seconds=FEED_SECONDS, rate=rate)) if source == SIM else read(source, rate=rate, size=None)
        )
        return Feed(shots=map(Shot, frames), rate=rate, live="://" in source)


def _films(data: str) -> Iterator[tuple[str, Iterable[Frame], Known | None]]:
    """Names, frames and paths of the clips, or of the simulated test films."""
    from tocsin.models.folders import listed
    from tocsin.models.pose.paths import Known, paths
    from tocsin.models.pose.simulation.film import TEST_SECONDS, TEST_SEEDS, Film
    from tocsin.models.vision.video import is_clip, read

    if data == SIM:
        for seed in TEST_SEEDS:
            film = Film(seed, seconds=TEST_SECONDS, rate=RATE)
            yield f"{SIM} {seed}", film, Known(film.path, True, film.focal)
        return
    known = paths(Path(data))
    for path in listed(Path(data)):
        if is_clip(path):
            yield path.name, read(path, rate=RATE, size=None), known.get(path)


def _figures(errors: Errors, known: Known) -> dict[str, float]:
    """Figures of a film; those that need its turns are NaN where these are not known."""
    figures = errors.figures()
    return (
        figures
        if known.turned
        else {name: value if name == "aligned" else float("nan") for name, value in figures.items()}
    )


def _mean(films: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means over films, without those in which a figure is not known."""
    import numpy as np

    rows = list(films)
    return {
        name: float(np.nanmean(values))
        if (values := [row[name] for row in rows if row[name] == row[name]])
        else float("nan")
        for name in (rows[0] if rows else ())
    }


def _line(figures: dict[str, float]) -> str:
    return f": a drift of {figures['drift']:.3f} of the way on validation films"
