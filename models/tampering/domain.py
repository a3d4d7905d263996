"""Tampering for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, Domain, Evaluation, Feed, Option, Shot, Trained, Training, shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from tocsin.models.attempts import Attempt, Fitted
    from tocsin.models.gate import Candidate
    from tocsin.models.tampering.config import TamperingConfig
    from tocsin.models.tampering.evaluate import Scored
    from tocsin.models.tampering.footage import Recording
    from tocsin.models.tampering.memory import Evidence
    from tocsin.models.tampering.model import TamperingModel
    from tocsin.models.tampering.samples import Series
    from tocsin.models.tampering.train import Lessons, Recipe

RATE = 10.0
"""Frames per second for feeding and evaluation."""
TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3
"""Of the series to train on, to validate on, and to test on."""
ATTACKS = 2
"""On each clip for evaluation."""
NARROW = 16
"""Least rows and columns of a clip that can be attacked."""
CAMERAS, LENGTH = 4, 120
"""Simulated cameras for `evaluate --data sim`, and their frames."""


@dataclass(frozen=True)
class Tampering(Domain):
    """Recordings of cameras, which are attacked, or simulated cameras.

    Args:
        results: shots, their rate, a model's folder and version, and options of the pipeline -> the pipeline's table, and the
            sequence numbers at which an alert was raised.
    """

    results: Callable[[Iterable[Shot], float, Path, str, Mapping[str, Any]], tuple[pl.DataFrame, list[int]]]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        series: Annotated[
            int | None, Option("Series of each clip; four times as many are simulated, with --data sim.", least=1)
        ] = None,
    ) -> Trained:
        """Train on attacks on clips and on simulated cameras; the last clip of each folder with several is for validation.

        Raises:
            ValueError: there are no clips, and no simulated cameras.
        """
        from tocsin.models.attempts import each_seed, keep
        from tocsin.models.tampering.config import TamperingConfig
        from tocsin.models.tampering.train import Recipe, train

        place, config, recipe = run.place("tampering"), TamperingConfig(), Recipe()
        if steps is not None:
            recipe = replace(recipe, steps=steps)
        if series is not None:
            recipe = replace(recipe, real=series, simulated=4 * series, resting=min(recipe.resting, series))
        taught, unseen = _lessons(run, recipe, config)

        def one(seed: int, report: Callable[[int, float], None]) -> Fitted[TamperingModel]:
            return train(taught, unseen, config, recipe, seed=seed, report=report)

        _, attempts = each_seed(run, one, steps=recipe.steps, line=_line, prefix="validation_")
        return keep(
            run,
            attempts,
            domain="tampering",
            place=place,
            candidate=lambda seed: _candidate(attempts[seed], place[1], unseen),
            params=lambda model: asdict(model.config.network),
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        attacks: Annotated[int, Option("Attacks on each clip, of 14 kinds in turn.", least=1)] = ATTACKS,
    ) -> Evaluation:
        """Run the pipeline over clips, or simulated cameras: as they are, and with attacks.

        Returns:
            Figures as of `tocsin.models.tampering.evaluate.figures`, `false_alerts_per_hour`, and `parameters`; the AUROC of each
            kind, and the figures of each clip; and those of what the model is compared with.

        Raises:
            ValueError: there are no clips that are long enough.
        """
        from tocsin.models.tampering.evaluate import Scored, by_kind, figures
        from tocsin.models.tampering.interval import Interval
        from tocsin.models.tampering.model import load

        model, attacked = load(folder), 0
        interval, of_others = Interval(level=model.config.level), Interval(level=2.0)
        scored, short, clips = list[Scored](), 0, dict[str, list[Scored]]()
        beside: dict[str, list[Scored]] = {}
        for recording in _recordings(data):
            if len(recording.frames) < _least(model):
                short += 1
                continue
            for kind, frames, truth in _attacks(recording, attacked, attacks):
                table, _ = self.results(map(Shot, frames), RATE, folder, version, {})
                one = _scored(recording.name, kind, table.sort("sequence")["score"].to_numpy(), truth, model)
                scored.append(one)
                clips.setdefault(recording.name, []).append(one)
                for name, values in _beside(frames, truth, recording.name, kind, model).items():
                    beside.setdefault(name, []).append(values)
            attacked += attacks
        if not scored:
            raise ValueError(
                f"--data {data}: expected clips of at least {_least(model)} frames at {RATE:g} a second, got {short} shorter ones"
            )
        total = figures(scored, interval)
        hours = (total["clean_frames"] or 0) / RATE / 3600
        return Evaluation(
            {
                **total,
                "false_alerts_per_hour": (total["false_alerts"] or 0) / hours if hours else None,
                "parameters": model.parameters,
            },
            {
                "kinds": {kind: {"auroc": value} for kind, value in by_kind(scored).items()},
                "clips": {name: figures(ones, interval) for name, ones in clips.items()},
            },
            baselines={
                name: {key: value for key, value in figures(ones, of_others).items() if "auroc" in key}
                for name, ones in beside.items()
            },
            counted={
                "clips": len(clips),
                "attacks": attacked,
                "frames": sum(len(one.scores) for one in scored),
            },
            left_out={"clips that are too short to be attacked": short},
            lines=[f"{kind}: AUROC {shown(value, 3)}" for kind, value in by_kind(scored).items()],
        )

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed a folder of pictures, a video, a camera's stream, or a simulated camera that is attacked now and then."""
        from tocsin.models.tampering.simulation.stream import Stream
        from tocsin.models.vision.video import read

        rate = rate or RATE
        frames = iter(Stream(seed)) if source == SIM else read(source, rate=rate, size=None)
        return Feed(shots=map(Shot, frames), rate=rate, live="://" in source)


def _least(model: TamperingModel) -> int:
    """Frames of a clip that can be attacked."""
    return model.config.warm + 25


def _recordings(data: str) -> Iterator[Recording]:
    """The clips at `RATE`, or simulated cameras."""
    from tocsin.models.tampering.footage import LARGE, Recording, clips
    from tocsin.models.tampering.simulation.camera import Camera
    from tocsin.models.vision.picture import scaled
    from tocsin.models.vision.video import read

    if data == SIM:
        for number in range(CAMERAS):
            camera = Camera.drawn(1000 * TEST_SEED + number, frames=LENGTH)
            yield Recording(f"{SIM} {number}", [*replace(camera, motion="still")])
        return
    if not Path(data).exists():
        raise FileNotFoundError(f"--data {data}: expected a clip or a folder with clips, got nothing there")
    for path in clips(Path(data)):
        frames: list[NDArray[np.uint8]] = []
        for one in read(path, rate=RATE, size=None):
            first = frames[0] if frames else one  # attacks need frames of one size
            frames.append(scaled(one, LARGE if first.shape[0] > LARGE[0] else (first.shape[0], first.shape[1])))
        if frames and min(frames[0].shape[:2]) < NARROW:
            height, width = frames[0].shape[:2]
            raise ValueError(f"{path}: expected frames of {NARROW} x {NARROW} pixels or more, got {width} x {height}")
        yield Recording(path.name, frames)


def _attacks(
    recording: Recording, first: int, attacks: int
) -> Iterator[tuple[str, Sequence[NDArray[np.uint8]], NDArray[np.float32]]]:
    """The recording as it is, and with attacks of the kinds from number `first` on, in turn: kind, frames and truth."""
    import numpy as np

    from tocsin.models.tampering.footage import simulated
    from tocsin.models.tampering.samples import CLEAN, truth
    from tocsin.models.tampering.simulation.attacks import KINDS, UNSEEN, attacked

    count, kinds = len(recording.frames), (*KINDS, *UNSEEN)
    yield CLEAN, recording.frames, np.zeros(count, np.float32)
    rng = np.random.default_rng([TEST_SEED, first])
    other = simulated(rng, 1_000_000 + first, recording.frames[:1], "other", size=recording.frames[0].shape[:2])
    for number in range(first, first + attacks):
        kind = kinds[number % len(kinds)]
        begin = int(rng.integers(count // 2, count - 20))
        done = attacked(kind, rng, recording.frames, begin, count, other.frames)
        yield kind, done.frames, truth(np.arange(count) >= begin)


def _scored(
    name: str, kind: str, scores: NDArray[np.floating], truth: NDArray[np.float32], model: TamperingModel
) -> Scored:
    import numpy as np

    from tocsin.models.tampering.evaluate import Scored

    values = np.array(scores, np.float64)
    values[: model.config.warm] = np.nan
    return Scored(name, kind, values, truth)


def _beside(
    frames: Sequence[NDArray[np.uint8]], truth: NDArray[np.float32], name: str, kind: str, model: TamperingModel
) -> dict[str, Scored]:
    """The scores of what the model is compared with."""
    from tocsin.models.tampering.baselines import baselines

    return {of: _scored(name, kind, values, truth, model) for of, values in baselines(frames).items()}


def _lessons(run: Training, recipe: Recipe, config: TamperingConfig) -> tuple[Lessons, list[tuple[Evidence, Series]]]:
    """Frames to train on, and series to validate on."""
    from tocsin.models.tampering.footage import SHORT, clips
    from tocsin.models.tampering.samples import drawn, evidence, resting
    from tocsin.models.tampering.train import lessons

    halves = [_held_back(clips(Path(folder))) for folder in run.data if folder != SIM]
    known, held = ([path for half in halves for path in half[part]] for part in (0, 1))
    simulated = recipe.simulated if SIM in run.data else 0
    if not (known or simulated):
        raise ValueError(f"--data {' '.join(run.data)}: expected clips to train on, got none")
    task = run.progress.add_task("attacks", total=None)

    def told(some: Iterable[Series]) -> Iterator[Series]:
        for one in some:
            run.progress.advance(task)
            yield one

    share = recipe.validation
    series = [*told(drawn(known, seed=TRAIN_SEED, real=recipe.real, simulated_ones=simulated))]
    if not series:
        raise ValueError(f"--data {' '.join(run.data)}: expected a clip of {SHORT} frames or more, got none; add {SIM}")
    at_rest = [*told(resting(known, seed=TRAIN_SEED, count=recipe.resting if simulated else 0))]
    few = max(3, round(share * simulated)) if simulated else 0
    held_series = drawn(held, seed=VALIDATION_SEED, real=max(3, round(3 * share * recipe.real)), simulated_ones=few)
    others = [*told(held_series)] if held or few else []
    unseen = [(evidence(one, config.memory), one) for one in others or series[:: round(1 / share)]]
    return lessons([*series, *at_rest], config.memory, warm=config.warm), unseen


def _held_back(paths: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]]:
    """Clips to train on and to validate on: the last one, if there are several."""
    return (paths[:-1], paths[-1:]) if len(paths) > 1 else (paths, ())


def _candidate(attempt: Attempt[TamperingModel], folder: Path, unseen: Sequence[tuple[Evidence, Series]]) -> Candidate:
    """A model that was saved to `folder`, compared with the champion on `unseen`."""
    import torch

    from tocsin.models.gate import Candidate
    from tocsin.models.tampering.model import load
    from tocsin.models.tampering.samples import evidence
    from tocsin.models.tampering.train import scored, validated

    def outputs() -> list[torch.Tensor]:
        seen, some = unseen[0]
        model = load(folder)
        return [torch.from_numpy(scored(model, seen, some).scores[model.config.warm :])]

    def against(other: Path) -> tuple[float, float]:
        champion = load(other)
        series = [some for _, some in unseen]
        same = champion.config.memory == attempt.model.config.memory
        pairs = unseen if same else [(evidence(some, champion.config.memory), some) for some in series]
        return attempt.score, validated(champion, pairs)["auroc"]

    return Candidate(
        measure="AUROC on validation attacks", lower=False, score=attempt.score, outputs=outputs, against=against
    )


def _line(figures: dict[str, float]) -> str:
    return f": AUROC {figures['auroc']:.3f} on validation attacks"
