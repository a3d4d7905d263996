"""What `train`, `evaluate` and `feed` do for touch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from tocsin.models.touch.clips import Labelled
    from tocsin.models.touch.decode import Spot
    from tocsin.models.touch.finder import HandFinder
    from tocsin.models.touch.model import Eyes, TouchModel
    from tocsin.models.touch.simulation.scene import Scene
    from tocsin.models.touch.train import Footage, Recipe
    from tocsin.models.touch.truth import Miss
    from tocsin.pipelines.runtime.formats.video import Frame
    from tocsin.pipelines.runtime.settings import Settings

FACTORY = "tocsin.pipelines.touch:pipeline"
RATE = 30.0
"""Frames a second of what is fed, trained on and evaluated."""
SIM = "sim"


def train(
    settings: Settings,
    data: list[str],
    *,
    out: Path,
    name: str,
    seeds: list[int],
    recipe: Recipe | None = None,
    decimal_comma: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train a network on simulated scenes and labelled clips, and choose its thresholds on scenes that it has not seen.

    Args:
        data: directories of clips with their touches, see `tocsin.models.touch.clips`; or "sim", simulated scenes.
        force: take the model as champion although it is worse than the one that is.

    Returns:
        As `told` of `tocsin.pipelines.cli.champion`, and `seed`, and `seeds` with the figures of each on validation scenes.
    """
    from tocsin.models import gate, registry
    from tocsin.models.touch.clips import clips as labelled
    from tocsin.models.touch.config import TouchConfig
    from tocsin.models.touch.evaluate import operating_figures
    from tocsin.models.touch.finder import load
    from tocsin.models.touch.model import Eyes, TouchModel
    from tocsin.models.touch.model import load as restored
    from tocsin.models.touch.simulation.scene import TRAIN_SEEDS, VALIDATION_SEEDS
    from tocsin.models.touch.train import decoded, fit, judged, settled
    from tocsin.pipelines.cli.champion import registered, told
    from tocsin.pipelines.cli.console import progress

    config = TouchConfig()
    eyes, finder, tried, curves = Eyes(config.eye), load(), {}, {}
    sources: list[tuple[Path | int, Labelled | None]] = [(seed, None) for seed in TRAIN_SEEDS if SIM in data]
    sources += [
        found
        for folder in data
        if folder != SIM
        for found in labelled(Path(folder), decimal_comma=decimal_comma).items()
    ]
    clips: list[Footage] = []
    unseen: list[Footage] = []
    with progress() as shown:
        task = shown.add_task("looking", total=len(sources) + len(VALIDATION_SEEDS))
        for source, truth in [*sources, *((seed, None) for seed in VALIDATION_SEEDS)]:
            (unseen if source in VALIDATION_SEEDS else clips).append(looked_at(source, eyes, truth, finder))
            shown.advance(task)
        for number in seeds:
            task = shown.add_task(f"seed {number}", total=1)
            curve = registry.Curve()
            model = fit(clips, config, eyes, recipe, seed=number, progress=curve.add)
            model = TouchModel(settled(model, unseen), model.net, eyes)
            figures = _precision(model, unseen)
            thresholds = model.config.decode.thresholds
            figures |= operating_figures([judged(model, clip) for clip in unseen], thresholds, rate=RATE)
            tried[number] = (figures, model)
            curves[number] = curve.end(figures)
            shown.advance(task)
    kept = gate.best({number: found["map_2"] for number, (found, _) in tried.items()})
    model = tried[kept][1]
    model.save(out)

    def against(folder: Path) -> tuple[float, float]:
        other = restored(folder)
        same = other.config.eye == model.config.eye
        scenes = unseen if same else [looked_at(seed, other.eyes) for seed in VALIDATION_SEEDS]
        return tried[kept][0]["map_2"], _precision(other, scenes)["map_2"]

    new = gate.Candidate(
        measure="mAP at 2 frames on validation scenes",
        lower=False,
        score=tried[kept][0]["map_2"],
        outputs=lambda: [decoded(restored(out), clip) for clip in (unseen or clips)[:1]],
        against=against,
    )
    facts = {"data": " ".join(data), "seed": kept, "parameters": model.parameters, **asdict(config.network)}
    register = partial(
        registry.register,
        out,
        domain="touch",
        params=facts,
        metrics=curves[kept],
        data=data,
        attempts=[registry.Attempt(number, points) for number, points in curves.items()],
    )
    made = registered(settings, new, register, name=name, force=force)
    figures_told = [{"seed": number, **found} for number, (found, _) in tried.items()]
    return {**told(made, out, name), "seed": kept, "seeds": figures_told}


def _precision(model: TouchModel, scenes: Sequence[Footage]) -> dict[str, float]:
    """How well a model finds the touches of some scenes."""
    from tocsin.models.touch.evaluate import precision_figures
    from tocsin.models.touch.train import judged

    return precision_figures([judged(model, clip, soft=True) for clip in scenes])


def evaluate(
    folder: Path, version: str, data: Path, *, hands: str | None = None, decimal_comma: bool = False
) -> dict[str, Any]:
    """The pipeline over labelled clips, see `tocsin.models.touch.clips`; or, where `data` is "sim", over the test scenes.

    Args:
        hands: what finds hands in clips, which bring no boxes, as of `tocsin.pipelines.touch.pipeline`.

    Returns:
        Figures of all clips together, as `precision_figures` and `operating_figures` of `tocsin.models.touch.evaluate`; `touches`
        that there were, `seconds`, `delay` (frames until an event is known) and `parameters`; and `clips`, of each its truth, the
        events that rang, and the likeliest frame of each kind.
    """
    import numpy as np
    import torch

    from tocsin.models.touch.decode import softened
    from tocsin.models.touch.evaluate import Judged, operating_figures, precision_figures
    from tocsin.models.touch.model import load
    from tocsin.models.touch.truth import KINDS
    from tocsin.pipelines.runtime.engine.plan import Model
    from tocsin.pipelines.runtime.engine.replay import replay_clip
    from tocsin.pipelines.touch import SCORES, pipeline

    declared = pipeline({"hands": hands} if hands else {}, Model(folder, version, "auto"))
    soft, hard, each, known = list[Judged](), list[Judged](), dict[str, Any](), True
    for name, shots, truth, misses in _sources(data, decimal_comma):
        table = replay_clip(declared, shots, rate=RATE, after="10s").table.sort("sequence")
        rung, touches = _rung(table), truth.touches
        scores = torch.from_numpy(np.stack([table[column].to_numpy() for column in SCORES], 1)).unflatten(1, (2, 2))
        soft.append(Judged(softened(scores), touches, misses, len(table)))
        hard.append(Judged(rung, touches, misses, len(table)))
        known &= truth.hands
        each[name] = {
            "touches": [asdict(touch) for touch in touches],
            "events": [asdict(spot) for spot in rung],
            **{f"likeliest_{kind}": int(scores[..., n].amax(1).argmax()) for n, kind in enumerate(KINDS)},
        }
    model = load(folder)
    return {
        **precision_figures(soft, hands=known),
        **operating_figures(hard, (0, 0), rate=RATE, hands=known),
        "touches": sum(len(clip.touches) for clip in hard),
        "seconds": sum(clip.frames for clip in hard) / RATE,
        "delay": model.delay,
        "parameters": model.parameters,
        "clips": each,
    }


def frames(source: str, *, camera: str, seed: int) -> Iterator[pl.DataFrame]:
    """Frames to feed, see `tocsin.pipelines.runtime.formats.video.sent`; those of a simulated scene with the boxes of its hands."""
    from tocsin.models.vision.video import read
    from tocsin.pipelines.runtime.formats.video import Frame, sent

    taken = _shots(seed) if source == SIM else map(Frame, read(source, rate=RATE, size=None))
    return sent(taken, camera=camera, rate=RATE, live="://" in source)


def looked_at(
    source: Path | int, eyes: Eyes, truth: Labelled | None = None, finder: HandFinder | None = None
) -> Footage:
    """A simulated scene by its seed, or a clip whose truth is known and in which `finder` finds the hands, as `Eyes` see it."""
    import cv2
    import numpy as np

    from tocsin.models.touch.simulation.scene import TRAIN_SECONDS, TRAIN_SEEDS, Scene
    from tocsin.models.touch.train import footage
    from tocsin.models.vision.video import read

    size = eyes.config.height, eyes.config.width
    if isinstance(source, int):
        whole = partial(Scene, source, size=size, rate=RATE)
        scene = whole(seconds=TRAIN_SECONDS) if source in TRAIN_SEEDS else whole()
        return footage(_seen(scene, source), eyes, scene.touches, scene.misses)
    assert truth is not None and finder is not None
    scaled = (
        cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in read(source, rate=None, size=None)
    )
    return footage(finder.boxed(np.asarray(frame, np.uint8) for frame in scaled), eyes, truth.touches)


def _sources(data: Path, decimal_comma: bool) -> Iterator[tuple[str, Iterator[Frame], Labelled, Sequence[Miss]]]:
    """What is to be judged: names, frames, and the truth."""
    from tocsin.models.touch.clips import Labelled, clips
    from tocsin.models.touch.simulation.scene import TEST_SEEDS, Scene
    from tocsin.models.vision.video import read
    from tocsin.pipelines.runtime.formats.video import Frame

    if str(data) == SIM:
        for seed in TEST_SEEDS:
            scene = Scene(seed, rate=RATE)
            yield f"{SIM} {seed}", _shots(seed), Labelled(tuple(scene.touches), hands=True), scene.misses
        return
    for path, truth in clips(data, decimal_comma=decimal_comma).items():
        yield path.name, map(Frame, read(path, rate=None, size=None)), truth, ()


def _shots(seed: int) -> Iterator[Frame]:
    """A simulated scene's frames, with the boxes that a detector would have found."""
    from tocsin.models.touch.simulation.scene import Scene
    from tocsin.pipelines.runtime.formats.video import Frame
    from tocsin.pipelines.touch import BOXES

    for picture, boxes in _seen(Scene(seed, rate=RATE), seed):
        facts = zip((field.name for field in BOXES), boxes.flatten().tolist(), strict=True)
        yield Frame(picture, {name: value for name, value in facts if value == value})


def _seen(scene: Scene, seed: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """A scene's pictures and the boxes that a detector would have found."""
    import numpy as np

    from tocsin.models.touch.hands import shaken

    draw = np.random.default_rng((seed, 99))
    for shot in scene:
        yield shot.picture, shaken(shot.hands, draw)


def _rung(table: pl.DataFrame) -> list[Spot]:
    """The events of a clip's table."""
    import polars as pl

    from tocsin.models.touch.decode import Spot
    from tocsin.models.touch.truth import HANDS, KINDS

    return [
        Spot(hand, KINDS.index(row[f"{name}_event"]), row["sequence"], row[f"{name}_{row[f'{name}_event']}"])
        for hand, name in enumerate(HANDS)
        for row in table.filter(pl.col(f"{name}_event").is_not_null()).to_dicts()
    ]
