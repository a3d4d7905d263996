"""Alignment for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, Domain, Evaluation, Feed, Option, Shot, Trained, Training, shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from tocsin.models.alignment.evaluate import Case
    from tocsin.models.alignment.model import AlignmentModel
    from tocsin.models.alignment.simulation.rig import Rig

VIEWS = ("first", "second")
"""What messages call the cameras of a rig."""
RATE = 1.0
"""Pairs per second for feeding."""
SCENES = range(40, 500)
"""Drawn scenes to train on, by their seeds."""
FRAMES = 40
"""Frames of a clip to train on, at most."""
EACH = 4
"""Pairs of each gap and size of motion that a model is validated on."""
TESTED = 8
"""Pairs of each that it is tested on."""
EVERY_S = 300.0
"""Seconds between the pairs of simulated rigs that are evaluated."""
RIGS = range(30_000, 30_003)
"""Simulated rigs that are evaluated."""
SHORTEST = 4
"""Hours of such a rig, at least: its reference takes 15 confident pairs."""
PUSHED = 3.0
"""Pixels by which a camera is pushed in them."""


@dataclass(frozen=True)
class Rigs(Domain):
    """Pairs of frames, or rigs of two cameras.

    Args:
        results: a rig's shots, a model's folder and version -> the pipeline's table, and the numbers of the pairs at which an alert
            was raised.
    """

    results: Callable[[Iterable[Shot], Path, str], tuple[pl.DataFrame, list[int]]]

    def train(
        self, run: Training, *, steps: Annotated[int | None, Option("Training steps.", least=1)] = None
    ) -> Trained:
        """Train a network on warped pictures of the folders, or on drawn scenes, with simulated differences between cameras.

        The confidence is fitted on pairs of scenes that are not trained on. The best seed is the one with the most of them within
        3 pixels.

        Raises:
            ValueError: a folder has neither pictures nor videos.
        """
        from tocsin.models.alignment import evaluate
        from tocsin.models.alignment.config import AlignmentConfig
        from tocsin.models.alignment.model import AlignmentModel
        from tocsin.models.alignment.train import Recipe, fit
        from tocsin.models.alignment.trust import trusted
        from tocsin.models.attempts import Attempt, Fitted, each_seed, keep

        place, recipe, config = run.place("alignment"), Recipe(), AlignmentConfig()
        recipe = replace(recipe, steps=recipe.steps if steps is None else steps)
        stills = _stills(run)
        seeds, size = evaluate.VALIDATION_SEEDS, config.size
        cases = list(evaluate.simulated(seeds, size, each=EACH))
        strange = list(evaluate.strangers(seeds, size, count=len(cases) // 3))

        def trained(seed: int, report: Callable[[int, float], None]) -> Fitted[AlignmentModel]:
            model = AlignmentModel(config, fit(stills, config.network, recipe, seed=seed, progress=report))
            model = trusted(model, cases, strange)
            found = evaluate.figures(evaluate.scored(cases, evaluate.by_model(model)))
            return Fitted(model, {name: float(value or 0.0) for name, value in found.items()}, by="within_3")

        _, attempts = each_seed(
            run,
            trained,
            steps=recipe.steps,
            line=lambda f: f": {f['within_3']:.3f} of validation pairs within 3 pixels",
        )

        def against(other: Path, chosen: Attempt[Any]) -> tuple[float, float]:
            from tocsin.models.alignment.model import load

            beside = evaluate.figures(evaluate.scored(cases, evaluate.by_model(load(other))))
            return chosen.score, float(beside["within_3"] or 0.0)

        return keep(
            run,
            attempts,
            domain="alignment",
            place=place,
            candidate=lambda seed: _candidate(
                attempts[seed].score, place[1], cases[0], lambda o: against(o, attempts[seed])
            ),
            params=lambda model: asdict(model.config.network),
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        pairs: Annotated[int, Option("Simulated pairs of each gap and size of motion.", least=1)] = TESTED,
        hours: Annotated[
            int, Option("Hours of each simulated rig through the pipeline, 4 or more; 0: none.", least=0)
        ] = 0,
    ) -> Evaluation:
        """Align pairs with a truth, see `tocsin.models.alignment.evaluate.recorded`, or simulated ones.

        Raises:
            ValueError: there are no pairs that show something, or the hours are too few for a reference.

        Returns:
            The median `error` in pixels, the share `within_2` and `within_3`, the share that is `confident`, and the share of these
            that is right to within 3 pixels; the same of each kind of pair. With `hours`: how many pushes of a camera were `found`,
            the median `delay` in pairs, and the false alerts a week.
        """
        from tocsin.models.alignment import evaluate
        from tocsin.models.alignment.baselines import BASELINES
        from tocsin.models.alignment.model import load

        if 0 < hours < SHORTEST:
            raise ValueError(
                f"--hours: expected {SHORTEST} or more, in which a reference is found before the push, got {hours}; or 0"
            )
        model = load(folder)
        least = model.config.watch.confident
        if data == SIM:
            cases = list(evaluate.simulated(evaluate.TEST_SEEDS, model.size, each=pairs, seed=1))
        else:
            cases = list(evaluate.recorded(Path(data), model.size))
        known = len(cases)
        cases = [case for case in cases if evaluate.seen(case)]
        if not cases:
            raise ValueError(f"{data}: expected pairs in which both cameras see something, got none; add some")
        scores = evaluate.scored(cases, evaluate.by_model(model))
        parts = evaluate.kinds(scores, confident=least)
        beside = {
            name: evaluate.figures(evaluate.scored(cases, lambda a, b, m=method: (m(a, b), 1.0)))  # type: ignore[misc]
            for name, method in BASELINES.items()
        }
        watched, rigs = _watched(self.results, folder, version, hours, least) if hours else ({}, {})
        return Evaluation(
            {**evaluate.figures(scores, confident=least), **watched, "parameters": model.parameters},
            {"pairs": parts, **({"rigs": rigs} if rigs else {})},
            baselines=beside,
            counted={"pairs": len(cases), **({"rigs": len(rigs), "hours": hours * len(rigs)} if rigs else {})},
            left_out={"pairs in which a camera sees nothing": known - len(cases)},
            lines=[_line(name, found) for name, found in parts.items()],
        )

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed two clips or two cameras' streams, or a simulated rig, whose second camera is pushed after 120 pairs.

        Args:
            source: a folder with two clips, or `FIRST,SECOND`: two clips or two URLs.
        """
        from tocsin.models.alignment.simulation.rig import Move, Rig

        pace = (rate or 2 * RATE) / 2
        if source == SIM:
            sights = Rig(seed, pairs=100_000, every=1 / pace, moves=[Move(120, 2 * PUSHED)])
            return Feed(shots=shots(sights), rate=2 * pace, views=2)
        views = _views(source)
        if all("://" in view for view in views):
            return Feed(shots=_live(views, pace), rate=2 * pace, live=True)
        return Feed(shots=_together(views, pace), rate=2 * pace, views=2)


def shots(rig: Rig, *, every: float | None = None) -> Iterator[Shot]:
    """A rig's frames, the first camera's and the second's in turn.

    Args:
        every: seconds between pairs; if given, the shots say their rig, number and time themselves.
    """
    import numpy as np

    for number, sight in enumerate(rig):
        own = {} if every is None else {"rig": "rig", "sequence": number, "time": round(1000 * number * every)}
        for view, frame in zip(VIEWS, (sight.first, sight.second), strict=True):
            yield Shot(np.repeat(frame[..., None], 3, axis=2), {**own, "view": view})


def _views(source: str) -> list[str]:
    """The clips or URLs of a rig's two cameras.

    Raises:
        ValueError: there are not two.
    """
    from tocsin.models.folders import listed
    from tocsin.models.vision.video import is_clip

    folder = Path(source)
    found = (
        [str(path) for path in listed(folder) if is_clip(path)]
        if folder.is_dir()
        else [part.strip() for part in source.split(",")]
    )
    if len(found) != 2:
        raise ValueError(
            f"{source}: expected a folder with two clips, or two clips or URLs with a comma between them, one of each "
            f"camera, got {len(found)}; name another"
        )
    return found


def _together(clips: Sequence[str], rate: float) -> Iterator[Shot]:
    """The frames of two clips, in turn."""
    from tocsin.models.vision.video import read

    for pictures in zip(*(read(clip, rate=rate, size=None) for clip in clips), strict=False):
        for view, picture in zip(VIEWS, pictures, strict=True):
            yield Shot(picture, {"view": view})


def _live(urls: Sequence[str], rate: float) -> Iterator[Shot]:
    """The frames of two streams as they come. Each camera counts its own, and a frame's time is when it arrives."""
    from tocsin.models.vision.streams import merged

    counts = [0, 0]
    for at, picture in merged(urls, rate=rate):
        yield Shot(picture, {"view": VIEWS[at], "sequence": counts[at], "time": round(1000 * time.time())})
        counts[at] += 1


def _stills(run: Training) -> list[NDArray[np.generic]]:
    """Drawn scenes, and pictures and frames of the folders."""
    import numpy as np

    from tocsin.models.alignment.simulation.scene import scene
    from tocsin.models.folders import listed
    from tocsin.models.vision.video import is_clip, read

    paths = [Path(folder) for folder in run.data if folder != SIM]
    clips = [path for folder in paths for path in ([folder] if is_clip(folder) else listed(folder)) if is_clip(path)]
    drawn = SCENES if SIM in run.data else range(0)
    task = run.progress.add_task("stills", total=len(drawn) + len(clips))
    stills: list[NDArray[np.generic]] = []
    for seed in drawn:
        stills.append(scene(seed).astype(np.uint8))
        run.progress.advance(task)
    pictures: list[NDArray[np.generic]] = []
    for clip in clips:
        step = 1 if clip.is_dir() else 10
        frames = [_smaller(frame) for frame in islice(read(clip, rate=None, size=None), 0, None, step)]
        pictures += frames[:: max(1, len(frames) // FRAMES)]
        run.progress.advance(task)
    if not (stills or pictures):
        raise ValueError(f"--data {' '.join(run.data)}: expected pictures or videos to train on, got none")
    if stills and pictures:  # recorded pictures as often as drawn ones
        chosen = np.random.default_rng(0).integers(0, len(pictures), len(stills))
        pictures = [pictures[int(at)] for at in chosen]
    return stills + pictures


def _smaller(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with 300 rows or more that are not needed taken away."""
    import cv2
    import numpy as np

    shrink = min(frame.shape[0] / 300, frame.shape[1] / 400)
    if shrink <= 1:
        return frame
    size = round(frame.shape[1] / shrink), round(frame.shape[0] / shrink)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _candidate(score: float, folder: Path, case: Case, against: Callable[[Path], tuple[float, float]]) -> Any:
    """A model that was saved to `folder`, compared with the champion on the validation pairs."""
    import torch

    from tocsin.models.alignment.model import load
    from tocsin.models.gate import Candidate

    return Candidate(
        measure="share of validation pairs within 3 pixels",
        lower=False,
        score=score,
        outputs=lambda: [torch.from_numpy(load(folder).align(case.first, case.second).flow)],
        against=against,
    )


def _watched(
    results: Callable[[Iterable[Shot], Path, str], tuple[pl.DataFrame, list[int]]],
    folder: Path,
    version: str,
    hours: int,
    least: float,
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Run simulated rigs through the pipeline; the second camera of each is pushed after three quarters of its pairs.

    Args:
        least: confidence of a pair that counts as confident.
    """
    import numpy as np

    from tocsin.models.alignment.simulation.rig import Move, Rig

    pairs, rigs, delays, false = int(hours * 3600 / EVERY_S), dict[str, dict[str, float | None]](), list[int](), 0
    for seed in RIGS:
        at = 3 * pairs // 4
        rig = Rig(seed, pairs=pairs, every=EVERY_S, moves=[Move(at, PUSHED)])
        table, begins = results(shots(rig, every=EVERY_S), folder, version)
        early = sum(begin < at for begin in begins)
        delay = next((begin - at for begin in begins if begin >= at), None)
        confident = float((table["confidence"] >= least).mean() or 0)  # type: ignore[arg-type]
        rigs[str(seed)] = {"delay": delay, "false": early, "confident": confident}
        delays += [] if delay is None else [delay]
        false += early
    quiet_weeks = 0.75 * hours * len(RIGS) / 168
    figures: dict[str, float | None] = {
        "found": len(delays) / len(RIGS),
        "delay": float(np.median(delays)) if delays else None,
        "false_per_week": false / quiet_weeks,
    }
    return figures, rigs


def _line(name: str, found: Mapping[str, Any]) -> str:
    """The figures of a kind of pair as one line of text."""
    digits = {"error": 2, "within_2": 2, "within_3": 2, "confident": 2, "right_if_confident": 2}
    return f"{name}: " + ", ".join(f"{figure} {shown(found[figure], places)}" for figure, places in digits.items())
