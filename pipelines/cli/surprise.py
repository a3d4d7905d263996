"""What `train`, `evaluate` and `feed` do for surprise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from tocsin.models.surprise.model import SurpriseModel
    from tocsin.models.surprise.simulation.novelties import Novelty
    from tocsin.models.surprise.train import Footage, Recipe
    from tocsin.models.vision.encoder import Encoder
    from tocsin.pipelines.runtime.settings import Settings

FACTORY = "tocsin.pipelines.surprise:pipeline"
RATE = 10.0
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
    force: bool = False,
) -> dict[str, Any]:
    """Train a predictor on clips, and choose the detector's level on clips that it has not seen.

    Args:
        data: directories of clips, whose truth is not needed; or "sim", simulated dives.
        force: take the model as champion although it is worse than the one that is.

    Returns:
        As `told` of `tocsin.pipelines.cli.champion`, and `seed`, and `seeds` with the event F1 of each on validation dives.
    """
    from tocsin.models import gate, registry
    from tocsin.models.surprise.config import EncoderConfig, SurpriseConfig
    from tocsin.models.surprise.model import SurpriseModel
    from tocsin.models.surprise.model import load as restored
    from tocsin.models.surprise.simulation.scene import TRAIN_SEEDS, VALIDATION_SEEDS
    from tocsin.models.surprise.train import fit, judged, settled
    from tocsin.models.vision.encoder import load
    from tocsin.pipelines.cli.champion import registered, told
    from tocsin.pipelines.cli.console import progress
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    seen = EncoderConfig()
    eye = load(seen.source, size=(seen.height, seen.width), layer=seen.layer, merge=seen.merge)
    clips: list[Footage] = []
    unseen: list[Footage] = []
    tried, curves = {}, {}
    with progress() as shown:
        dives = [*TRAIN_SEEDS] if SIM in data else []
        paths = [path for folder in data if folder != SIM for path in _clips(Path(folder))]
        task = shown.add_task("looking", total=len(dives) + len(paths) + len(VALIDATION_SEEDS))
        sources: list[Path | int] = [*dives, *paths, *VALIDATION_SEEDS]
        for source in sources:
            if source in VALIDATION_SEEDS:
                unseen.append(looked_at(source, eye))
            else:
                clips.append(looked_at(source, eye, covers=True))
            shown.advance(task)
        if not clips:
            raise ConfigError(f"--data {' '.join(data)}: expected clips to train on, got none")
        for number in seeds:
            task = shown.add_task(f"seed {number}", total=1)
            curve = registry.Curve()
            model = fit(clips, SurpriseConfig(encoder=seen), eye, recipe, seed=number, progress=curve.add)
            model = SurpriseModel(settled(model, unseen, rate=RATE), model.predictor, eye, model.triage)
            tried[number] = (_figures(model, unseen), model)
            curves[number] = curve.end(tried[number][0])
            shown.advance(task)
    kept = gate.best({number: found["f1"] for number, (found, _) in tried.items()})
    model = tried[kept][1]
    model.save(out)

    def against(folder: Path) -> tuple[float, float]:
        other = restored(folder)
        same = other.config.encoder == model.config.encoder
        dives = unseen if same else [looked_at(source, other.eye) for source in VALIDATION_SEEDS]
        return tried[kept][0]["f1"], _figures(other, dives)["f1"]

    new = gate.Candidate(
        measure="F1 of events on validation dives",
        lower=False,
        score=tried[kept][0]["f1"],
        outputs=lambda: [judged(restored(out), clip) for clip in (unseen or clips)[:1]],
        against=against,
    )
    facts = {"data": " ".join(data), "seed": kept, "parameters": model.parameters, **asdict(model.config.network)}
    register = partial(
        registry.register,
        out,
        domain="surprise",
        params=facts,
        metrics=curves[kept],
        data=data,
        attempts=[registry.Attempt(number, points) for number, points in curves.items()],
    )
    made = registered(settings, new, register, name=name, force=force)
    figures = [{"seed": number, **found} for number, (found, _) in tried.items()]
    return {**told(made, out, name), "seed": kept, "seeds": figures}


def _figures(model: SurpriseModel, dives: Sequence[Footage]) -> dict[str, float]:
    """How well a model finds the events of some clips."""
    from tocsin.models.surprise.evaluate import Counted, counted, detect
    from tocsin.models.surprise.train import judged

    parts = [counted(*detect(judged(model, clip), model.config.detector), clip.novelties, rate=RATE) for clip in dives]
    return sum(parts, Counted()).figures()


def evaluate(folder: Path, version: str, data: Path, *, decimal_comma: bool = False) -> dict[str, Any]:
    """The pipeline over clips with a truth, see `tocsin.models.surprise.clips`; or, where `data` is "sim", over the test dives.

    Returns:
        Figures of all clips together, as `Counted.figures`; `saved_bytes`, the share of the frames' bytes that was not kept;
        `clips` with the figures of each; `seconds` of footage and `novelties` in it, and `parameters`.
    """

    from tocsin.models.surprise.clips import clips, intervals
    from tocsin.models.surprise.evaluate import Counted, counted
    from tocsin.models.surprise.model import load
    from tocsin.models.surprise.simulation.scene import TEST_SEEDS, Dive
    from tocsin.models.vision.video import read
    from tocsin.pipelines.runtime.engine.plan import Model
    from tocsin.pipelines.runtime.engine.replay import replay_clip
    from tocsin.pipelines.runtime.formats.video import Frame
    from tocsin.pipelines.surprise import pipeline

    def all() -> Iterator[tuple[str, Iterator[np.ndarray], Sequence[Novelty]]]:
        if str(data) == SIM:
            for seed in TEST_SEEDS:
                yield f"{SIM} {seed}", iter(dive := Dive(seed, rate=RATE)), dive.novelties
            return
        for path, truth in clips(data, decimal_comma=decimal_comma).items():
            yield path.name, read(path, rate=RATE, size=None), intervals(truth, RATE)

    declared = pipeline({}, Model(folder, version, "auto"))
    each, sent, kept = {}, 0, 0
    for name, frames, truth in all():
        table, alerts, size = replay_clip(declared, map(Frame, frames), rate=RATE)
        begins = [alert.data["sequence"] for alert in alerts if alert.transition == "raised"]
        each[name] = counted(begins, table["novel"].to_list(), truth, rate=RATE)
        sent += size
        kept += round(size * table["frame"].count() / max(len(table), 1))
    whole = sum(each.values(), Counted())
    return {
        **whole.figures(),
        "saved_bytes": 1 - kept / max(sent, 1),
        "seconds": whole.seconds,
        "novelties": whole.there,
        "parameters": load(folder).parameters,
        "clips": {name: {**one.figures(), "novelties": one.there} for name, one in each.items()},
    }


def frames(source: str, *, camera: str, rate: float, seed: int) -> Iterator[pl.DataFrame]:
    """Frames to feed, see `tocsin.pipelines.runtime.formats.video.sent`."""
    from tocsin.models.surprise.simulation.scene import Dive
    from tocsin.models.vision.video import read
    from tocsin.pipelines.runtime.formats.video import Frame, sent

    taken = iter(Dive(seed, rate=rate)) if source == SIM else read(source, rate=rate, size=None)
    return sent(map(Frame, taken), camera=camera, rate=rate, live="://" in source)


def _clips(folder: Path) -> list[Path]:
    from tocsin.models.folders import listed
    from tocsin.models.vision.video import is_clip

    return [path for path in listed(folder) if is_clip(path)]


def looked_at(source: Path | int, eye: Encoder, *, covers: bool = False) -> Footage:
    """A clip, or a dive by its seed, as the predictor sees it; of a dive with `covers` what is new is known place by place."""
    from dataclasses import replace

    import numpy as np
    import torch

    from tocsin.models.surprise.clips import covered
    from tocsin.models.surprise.simulation.scene import Dive, scene_of
    from tocsin.models.surprise.train import footage, pieces
    from tocsin.models.vision.video import read

    if not isinstance(source, int):
        return footage(pieces(read(source, rate=RATE, size=None), eye.size), eye)
    dive = Dive(source, rate=RATE)
    if not covers:
        return footage(pieces(dive, eye.size), eye, dive.novelties)
    shares, bare = [], Dive(source, rate=RATE, scene=replace(scene_of(source), often=(0, 0)))

    def shown() -> Iterator[np.ndarray]:
        for frame, without in zip(dive, bare, strict=True):
            shares.append(covered(frame, without, eye.grid))
            yield frame

    seen = footage(pieces(shown(), eye.size), eye, dive.novelties)
    return replace(seen, covered=torch.from_numpy(np.stack(shares)))
