"""Touch for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import (
    SIM,
    DecimalComma,
    Domain,
    Evaluation,
    Feed,
    Option,
    Shot,
    Trained,
    Training,
    WithWrongLabels,
)

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from tocsin.models.attempts import Attempt
    from tocsin.models.gate import Candidate
    from tocsin.models.touch.clips import Labelled
    from tocsin.models.touch.decode import Spot
    from tocsin.models.touch.finder import HandFinder
    from tocsin.models.touch.model import Eyes, TouchModel
    from tocsin.models.touch.simulation.scene import Scene
    from tocsin.models.touch.train import Footage
    from tocsin.models.touch.truth import Miss
    from tocsin.models.vision.appearance import Appearance

RATE = 30.0
"""Frames per second for feeding, training and evaluation."""
SPARSE = 60
"""One frame in so many tells how a clip looks."""


@dataclass(frozen=True)
class Touch(Domain):
    """Labelled egocentric clips, or simulated scenes at a table.

    Args:
        results: shots, their rate, a model's folder and version, and the pipeline's options -> the pipeline's table, in order.
        boxes: names of the facts with the boxes of hands, in order.
        scores: names of the columns with scores, in order.
    """

    results: Callable[[Iterable[Shot], float, Path, str, Mapping[str, Any]], pl.DataFrame]
    boxes: Sequence[str]
    scores: Sequence[str]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        robust: WithWrongLabels = False,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train a network on simulated scenes and labelled clips, see `tocsin.models.touch.clips`.

        Its thresholds are selected on validation scenes that are not trained on.
        """
        from tocsin.models import registry
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.touch.config import TouchConfig
        from tocsin.models.touch.evaluate import operating_figures
        from tocsin.models.touch.model import Eyes, TouchModel
        from tocsin.models.touch.robust import RECIPE as ROBUST
        from tocsin.models.touch.train import Recipe, calibrate, detect, fit

        place, progress, config = run.place("touch"), run.progress, TouchConfig()
        recipe = Recipe(robust=ROBUST if robust else None)
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        eyes = Eyes(config.eye)
        clips, unseen = _footage(run, eyes, decimal_comma)
        usual = _appearance(run, decimal_comma)
        attempts: dict[int, Attempt[TouchModel]] = {}
        for seed in run.seeds:
            task = progress.add_task(f"seed {seed}", total=1)
            curve = registry.Curve()
            model = fit(clips, config, eyes, recipe, seed=seed, progress=curve.add)
            model = TouchModel(replace(calibrate(model, unseen), appearance=usual), model.net, eyes)
            figures = _precision(model, unseen)
            thresholds = model.config.decode.thresholds
            figures |= operating_figures([detect(model, clip) for clip in unseen], thresholds, rate=RATE)
            line = f": mAP at 2 frames {figures['map_2']:.3f} on validation scenes"
            attempts[seed] = Attempt(model, figures["map_2"], curve.end(figures), figures, line)
            progress.advance(task)
        return keep(
            run,
            attempts,
            domain="touch",
            place=place,
            candidate=lambda seed: _candidate(attempts[seed], place[1], clips, unseen),
            params=lambda model: {**asdict(model.config.network), "robust": robust},
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        hands: Annotated[
            str, Option("Hand detector for clips: MediaPipe's model file, or none [finder].", "WHAT")
        ] = "",
        contact: Annotated[float | None, Option("Lowest score of a contact, 0 to 1 [the model's].", "SCORE")] = None,
        release: Annotated[float | None, Option("Lowest score of a release, 0 to 1 [the model's].", "SCORE")] = None,
        decimal_comma: DecimalComma = False,
    ) -> Evaluation:
        """Run the pipeline over labelled clips, see `tocsin.models.touch.clips`, or over the simulated test scenes.

        Returns:
            Metrics over all clips, as in `alert_figures`, `precision_figures` and `operating_figures` of
            `tocsin.models.touch.evaluate`; `delay` (frames until an event is known) and `parameters`; and for each clip its truth,
            the alerts, the detected events, and the most likely frame of each kind.
        """
        import numpy as np
        import torch

        from tocsin.models.touch import reach
        from tocsin.models.touch.decode import softened
        from tocsin.models.touch.evaluate import ClipResult, alert_figures, operating_figures, precision_figures
        from tocsin.models.touch.hands import FINDER, joints_are_found
        from tocsin.models.touch.model import load
        from tocsin.models.touch.truth import KINDS
        from tocsin.models.vision.looks import Looks, doubt

        soft, hard, rang, paced = (list[ClipResult]() for _ in range(4))
        by_clip, known, looks = dict[str, Any](), True, dict[str, Looks]()
        given = {"hands": hands or None, "contact": contact, "release": release}
        options = {name: value for name, value in given.items() if value is not None}
        for name, shots, truth, misses in self._labelled(data, decimal_comma):
            table = self.results(shots, RATE, folder, version, options)
            events, touches = _raised_events(table), truth.touches
            span = range(len(table)) if truth.span is None else truth.span
            rest = touches, misses, len(table), span
            scores = np.stack([table[column].to_numpy() for column in self.scores], 1)
            likely = torch.from_numpy(scores).unflatten(1, (2, 2))
            best = likely[span.start : span.stop].amax(1).mT
            soft.append(ClipResult(softened(likely), *rest))
            hard.append(ClipResult(events, *rest))
            rang.append(ClipResult(_alerts(table), *rest))
            paced.append(ClipResult(_pace(len(table)), *rest))
            known &= truth.hands
            looks[name] = Looks.of(table)
            by_clip[name] = {
                "touches": [asdict(touch) for touch in touches],
                "alerts": [asdict(spot) for spot in rang[-1].found],
                "events": [asdict(spot) for spot in events],
                "scored": [span.start, span.stop],
                "in_domain": looks[name].share,
                **{f"likeliest_{kind}": span.start + int(best[n].argmax()) for n, kind in enumerate(KINDS)},
            }
        model = reach.load(folder) if joints_are_found(hands or FINDER) else load(folder)
        return Evaluation(
            {
                **alert_figures(rang, hands=known),
                **precision_figures(soft, hands=known),
                **operating_figures(hard, (0, 0), rate=RATE, hands=known),
                "delay": model.delay,
                "parameters": model.parameters,
            },
            {"clips": by_clip},
            baselines={
                "a touch every second": alert_figures(paced, hands=known)
                | precision_figures(paced, hands=known)
                | operating_figures(paced, (0, 0), rate=RATE, hands=known)
            },
            counted={
                "clips": len(by_clip),
                "frames": (frames := sum(clip.length for clip in hard)),
                "seconds": frames / RATE,
                "touches": sum(len(clip.touches) for clip in hard),
            },
            left_out={
                "clips without a label": 0 if data == SIM else len(_clips(Path(data))) - len(by_clip),
                "frames outside the labelled spans": sum(clip.frames - clip.length for clip in hard),
            },
            in_domain=sum(looks.values(), Looks()).share,
            lines=[_line(name, clip) for name, clip in by_clip.items()],
            doubt=doubt("touch", looks),
        )

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed a video, a camera's stream, or a simulated scene with the boxes of its hands."""
        from tocsin.models.vision.video import read

        shots = self._shots(seed) if source == SIM else map(Shot, read(source, rate=RATE, size=None))
        return Feed(shots=shots, rate=RATE if rate is None else rate, live="://" in source)

    def _labelled(
        self, data: str, decimal_comma: bool
    ) -> Iterator[tuple[str, Iterator[Shot], Labelled, Sequence[Miss]]]:
        """Names, shots, truth and near misses of the clips or of the test scenes."""
        from tocsin.models.touch.clips import Labelled, clips
        from tocsin.models.touch.simulation.scene import TEST_SEEDS, Scene
        from tocsin.models.vision.video import read

        if data == SIM:
            for seed in TEST_SEEDS:
                scene = Scene(seed, rate=RATE)
                yield f"{SIM} {seed}", self._shots(seed), Labelled(tuple(scene.touches), hands=True), scene.misses
            return
        for path, truth in clips(Path(data), decimal_comma=decimal_comma).items():
            yield path.name, map(Shot, read(path, rate=None, size=None)), truth, ()

    def _shots(self, seed: int) -> Iterator[Shot]:
        """A simulated scene's shots, and hand boxes with the errors of a detector."""
        from tocsin.models.touch.simulation.scene import Scene

        for picture, boxes in _frames_with_boxes(Scene(seed, rate=RATE), seed):
            facts = zip(self.boxes, boxes.flatten().tolist(), strict=True)
            yield Shot(picture, {name: value for name, value in facts if value == value})


def _pace(frames: int) -> list[Spot]:
    """Touches of the right hand at a fixed pace: a contact each second, and a release half a second later."""
    from tocsin.models.touch.decode import Spot

    half = round(RATE / 2)
    return [Spot(1, at // half % 2, at, 1.0) for at in range(0, frames, half)]


def _clips(folder: Path) -> list[Path]:
    from tocsin.models.folders import listed
    from tocsin.models.vision.video import is_clip

    return [path for path in listed(folder) if is_clip(path)]


def _line(name: str, clip: Mapping[str, Any]) -> str:
    """The results of a clip as one line of text."""
    found = f"likeliest contact {clip['likeliest_contact']} and release {clip['likeliest_release']}"
    truth = ", ".join(f"{touch['contact']} to {touch['release']}" for touch in clip["touches"][:3])
    scored = range(*clip["scored"])
    began = ", ".join(str(alert["frame"]) for alert in clip["alerts"] if not alert["kind"] and alert["frame"] in scored)
    return f"{name}: {len(clip['touches'])} touches ({truth}), alerts at {began or 'no frame'}, {found}"


def _sources(run: Training, decimal_comma: bool) -> list[tuple[Path | int, Labelled | None]]:
    """The clips to train on with their truth, and the seeds of the tables."""
    from tocsin.models.touch.clips import clips as labelled
    from tocsin.models.touch.simulation.scene import TRAIN_SEEDS

    sources: list[tuple[Path | int, Labelled | None]] = [(seed, None) for seed in TRAIN_SEEDS if SIM in run.data]
    for folder in run.data:
        if folder != SIM:
            sources += labelled(Path(folder), decimal_comma=decimal_comma).items()
    return sources


def _appearance(run: Training, decimal_comma: bool) -> Appearance:
    """What is usual for the frames to train on."""
    from tocsin.models.touch.simulation.scene import TRAIN_SECONDS, Scene
    from tocsin.models.vision.appearance import Appearance, Eye
    from tocsin.models.vision.video import read

    eye, sources = Eye(), _sources(run, decimal_comma)
    task, recordings = run.progress.add_task("appearance", total=len(sources)), list[Any]()
    for source, _ in sources:
        if isinstance(source, int):
            scene = Scene(source, seconds=TRAIN_SECONDS, rate=RATE / SPARSE)
            recordings.append(eye.looks(shot.picture for shot in scene))
        else:
            recordings.append(eye.looks(islice(read(source, rate=None, size=None), 0, None, SPARSE)))
        run.progress.advance(task)
    return Appearance.fit(recordings)


def _footage(run: Training, eyes: Eyes, decimal_comma: bool) -> tuple[list[Footage], list[Footage]]:
    """Read the clips to train on, and the validation scenes."""
    from tocsin.models.touch.finder import load
    from tocsin.models.touch.simulation.scene import VALIDATION_SEEDS

    sources, finder, clips = _sources(run, decimal_comma), load(), list[Any]()
    task = run.progress.add_task("looking", total=len(sources) + len(VALIDATION_SEEDS))
    for source, truth in [*sources, *((seed, None) for seed in VALIDATION_SEEDS)]:
        clips.append(load_footage(source, eyes, truth, finder))
        run.progress.advance(task)
    return clips[: len(sources)], clips[len(sources) :]


def _candidate(
    attempt: Attempt[TouchModel], folder: Path, clips: Sequence[Footage], unseen: Sequence[Footage]
) -> Candidate:
    """A model that was saved to `folder`, compared with the champion on the validation scenes `unseen`."""
    from tocsin.models.gate import Candidate
    from tocsin.models.touch.model import load
    from tocsin.models.touch.simulation.scene import VALIDATION_SEEDS
    from tocsin.models.touch.train import decoded

    def against(other: Path) -> tuple[float, float]:
        champion = load(other)
        same = champion.config.eye == attempt.model.config.eye
        scenes = unseen if same else [load_footage(seed, champion.eyes) for seed in VALIDATION_SEEDS]
        return attempt.score, _precision(champion, scenes)["map_2"]

    return Candidate(
        measure="mAP at 2 frames on validation scenes",
        lower=False,
        score=attempt.score,
        outputs=lambda: [decoded(load(folder), clip) for clip in [*unseen, *clips][:1]],
        against=against,
    )


def _precision(model: TouchModel, scenes: Sequence[Footage]) -> dict[str, float]:
    """Metrics of the touches that a model detects in scenes."""
    from tocsin.models.touch.evaluate import precision_figures
    from tocsin.models.touch.train import detect

    return precision_figures([detect(model, clip, soft=True) for clip in scenes])


def load_footage(
    source: Path | int, eyes: Eyes, truth: Labelled | None = None, finder: HandFinder | None = None
) -> Footage:
    """Encode a simulated scene, given by its seed, or a clip with a truth, whose hands `finder` detects."""
    from tocsin.models.touch.simulation.scene import TRAIN_SECONDS, TRAIN_SEEDS, Scene
    from tocsin.models.touch.train import footage
    from tocsin.models.vision.picture import scaled
    from tocsin.models.vision.video import read

    size = eyes.config.height, eyes.config.width
    if isinstance(source, int):
        make_scene = partial(Scene, source, size=size, rate=RATE)
        scene = make_scene(seconds=TRAIN_SECONDS) if source in TRAIN_SEEDS else make_scene()
        return footage(_frames_with_boxes(scene, source), eyes, scene.touches, scene.misses)
    assert truth is not None and finder is not None
    frames = (scaled(frame, size) for frame in read(source, rate=None, size=None))
    return footage(finder.boxed(frames), eyes, truth.touches)


def _frames_with_boxes(scene: Scene, seed: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """A scene's pictures, and hand boxes with the errors of a detector."""
    import numpy as np

    from tocsin.models.touch.hands import jittered

    rng = np.random.default_rng((seed, 99))
    for shot in scene:
        yield shot.picture, jittered(shot.hands, rng)


def _alerts(table: pl.DataFrame) -> list[Spot]:
    """Where the alerts of a clip's results begin and end, ordered by time; of equal frames the end first."""
    from tocsin.models.touch.decode import Spot
    from tocsin.models.touch.truth import HANDS, KINDS

    alerts = list[Spot]()
    for hand, name in enumerate(HANDS):
        rings = False
        for row in table.select("sequence", f"{name}_touches", *(f"{name}_{kind}" for kind in KINDS)).to_dicts():
            if row[f"{name}_touches"] != rings:
                alerts.append(Spot(hand, int(rings), row["sequence"], row[f"{name}_{KINDS[rings]}"]))
                rings = not rings
    return sorted(alerts, key=lambda alert: (alert.frame, -alert.kind))


def _raised_events(table: pl.DataFrame) -> list[Spot]:
    """The events in a clip's results table."""
    import polars as pl

    from tocsin.models.touch.decode import Spot
    from tocsin.models.touch.truth import HANDS, KINDS

    return [
        Spot(hand, KINDS.index(row[f"{name}_event"]), row["sequence"], row[f"{name}_{row[f'{name}_event']}"])
        for hand, name in enumerate(HANDS)
        for row in table.filter(pl.col(f"{name}_event").is_not_null()).to_dicts()
    ]
