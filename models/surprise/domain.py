"""Surprise for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import (
    SHIPPED,
    SIM,
    DecimalComma,
    Domain,
    Evaluation,
    Feed,
    Option,
    Shot,
    Trained,
    Training,
    shown,
)

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from tocsin.models.attempts import Attempt
    from tocsin.models.gate import Candidate
    from tocsin.models.surprise.evaluate import Counted
    from tocsin.models.surprise.model import Encoding, SurpriseModel
    from tocsin.models.surprise.simulation.novelties import Novelty
    from tocsin.models.surprise.train import Footage
    from tocsin.models.vision.appearance import Appearance
    from tocsin.models.vision.encoder import Encoder
    from tocsin.models.vision.video import Frame

RATE = 10.0
"""Frames per second for feeding, training and evaluation."""
SPARSE = 20
"""One frame in so many tells how a clip looks."""
PACE = 10
"""Seconds between the alerts of the baseline that does not look."""
PACED = ("precision", "recall", "f1", "f2", "false_per_hour")
"""Its figures."""


@dataclass(frozen=True)
class Surprise(Domain):
    """Clips of underwater cameras, or simulated dives.

    Args:
        results: shots, their rate, a model's folder and version, the pipeline's options, and what encodes frames in place of the
            model, if anything -> the pipeline's table, the sequence numbers at which an alert for surprise was raised, and the
            bytes of all frames.
    """

    results: Callable[
        [Iterable[Shot], float, Path, str, Mapping[str, Any], Encoding | None], tuple[pl.DataFrame, list[int], int]
    ]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        predictor: Annotated[
            str | None,
            Option("Keep the predictor of this model, and train only triage [train both].", metavar="DIR|shipped"),
        ] = None,
    ) -> Trained:
        """Train a predictor on clips, without their truth, or on dives; and triage on dives, and on pans over clips and textures.

        The detector's level is selected on validation dives, and on other pans over the same clips, that are not trained on.

        Raises:
            ValueError: there are no clips, or the folder of `predictor` holds no model.
        """
        from tocsin.models import registry
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.surprise.config import SurpriseConfig
        from tocsin.models.surprise.model import SHIPPED as WEIGHTS
        from tocsin.models.surprise.model import SurpriseModel
        from tocsin.models.surprise.model import load as load_model
        from tocsin.models.surprise.train import Recipe, calibrate, fit
        from tocsin.models.vision.encoder import load

        place, progress, recipe = run.place("surprise"), run.progress, Recipe()
        if steps is not None:
            recipe = replace(recipe, steps=steps, triage_steps=min(steps, recipe.triage_steps))
        kept = load_model(WEIGHTS if predictor == SHIPPED else Path(predictor)) if predictor else None
        config = replace(kept.config, detector=SurpriseConfig().detector) if kept else SurpriseConfig()
        c = config.encoder
        encoder = kept.encoder if kept else load(c.source, size=(c.height, c.width), layer=c.layer, merge=c.merge)
        clips, unseen, stills = _footage(run, encoder, only_triage=kept is not None)
        usual = _appearance(run)
        attempts: dict[int, Attempt[SurpriseModel]] = {}
        for seed in run.seeds:
            task = progress.add_task(f"seed {seed}", total=1)
            curve = registry.Curve()
            model = fit(
                clips,
                config,
                encoder,
                recipe,
                seed=seed,
                progress=curve.add,
                predictor=kept.predictor if kept else None,
            )
            settings = replace(calibrate(model, unseen, rate=RATE), appearance=usual)
            model = SurpriseModel(settings, model.predictor, encoder, model.triage)
            figures = _figures(model, unseen)
            line = f": F1 {figures['f1']:.3f} of events on validation clips"
            attempts[seed] = Attempt(model, figures["f1"], curve.end(figures), figures, line)
            progress.advance(task)
        return keep(
            run,
            attempts,
            domain="surprise",
            place=place,
            candidate=lambda seed: _candidate(attempts[seed], place[1], clips, unseen, stills),
            params=lambda model: asdict(model.config.network),
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        decimal_comma: DecimalComma = False,
        uncompensated: Annotated[bool, Option("Score the model without the camera's motion, too.")] = False,
        baselines: Annotated[bool, Option("Score baselines, too.")] = False,
        returns: Annotated[
            int,
            Option("Run so many simulated dives that come back, too, to count repeated alerts.", metavar="N", least=0),
        ] = 0,
    ) -> Evaluation:
        """Run the pipeline over clips with a truth, see `tocsin.models.surprise.clips`, or over the simulated test dives.

        Returns:
            Metrics over all clips, as in `Counted.figures`; `saved_bytes`, the share of the frames' bytes that was not kept; and
            `parameters`; with `returns`, those of `Repeats`; the metrics of each clip; and those of what the model is compared
            with, see `compare`.
        """
        from tocsin.models.surprise import compare
        from tocsin.models.surprise.baselines import uniform
        from tocsin.models.surprise.evaluate import Counted, counted
        from tocsin.models.surprise.model import load
        from tocsin.models.vision.looks import Looks, doubt

        counts, total_bytes, kept_bytes, first, looks = {}, 0, 0, 0, {}
        paced, model = Counted(), load(folder)
        seen: list[Footage] = []
        watched = compare.Watched(model) if uncompensated or baselines else None
        for name, frames, truth in _labelled(data, decimal_comma):
            table, begins, size = self.results(
                map(Shot, frames), RATE, folder, version, {}, watched.encode if watched else None
            )
            if watched:
                seen.append(watched.clip(truth))
            counts[name] = counted(begins, table["novel"].to_list(), truth, rate=RATE)
            paced += counted(uniform(len(table), round(PACE * RATE)), [False] * len(table), truth, rate=RATE)
            first += table["score"].null_count()
            looks[name] = Looks.of(table)
            total_bytes += size
            kept_bytes += round(size * table["frame"].count() / max(len(table), 1))
        total = sum(counts.values(), Counted())
        beside = _beside(model, seen, total, uncompensated=uncompensated, baselines=baselines)
        clips = {
            name: {**count.figures(), "novelties": count.novelties, "in_domain": looks[name].share}
            for name, count in counts.items()
        }
        return Evaluation(
            {
                **total.figures(),
                **({compare.AT_RECALL: total.figures()["false_per_hour"]} if beside else {}),
                **(self._repeats(folder, version, returns) if returns else {}),
                "saved_bytes": 1 - kept_bytes / max(total_bytes, 1),
                "parameters": model.parameters,
            },
            {"clips": clips},
            baselines={**beside, f"an alert every {PACE} s": {name: paced.figures()[name] for name in PACED}},
            counted={
                "clips": len(clips),
                "frames": total.frames - first,
                "seconds": total.seconds,
                "novelties": total.novelties,
            },
            left_out={"frames without one before them, from which they could be predicted": first},
            in_domain=sum(looks.values(), Looks()).share,
            lines=[_line(name, clip) for name, clip in clips.items()],
            doubt=doubt("surprise", looks),
        )

    def _repeats(self, folder: Path, version: str, count: int) -> dict[str, float | None]:
        """Figures of the first `count` test dives that come back, with revisits and without."""
        from tocsin.models.surprise.repeats import Repeats, events, repeats
        from tocsin.models.surprise.simulation.returns import TEST_SEEDS, Return
        from tocsin.models.surprise.simulation.scene import TEST

        total = Repeats()
        for seed in TEST_SEEDS[:count]:
            dive = Return(seed, scene=TEST, rate=RATE)
            table, _, _ = self.results(map(Shot, dive), RATE, folder, version, {"revisits": True}, None)
            total += repeats(events(table["novel"].to_list(), table["again"].to_list()), dive.novelties, rate=RATE)
        return {**asdict(total), **total.figures()}

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed a video, a camera's stream or a simulated dive."""
        from tocsin.models.surprise.simulation.scene import Dive
        from tocsin.models.vision.video import read

        rate = rate or RATE
        frames = iter(Dive(seed, rate=rate)) if source == SIM else read(source, rate=rate, size=None)
        return Feed(shots=map(Shot, frames), rate=rate, live="://" in source)


def _beside(
    model: SurpriseModel, clips: Sequence[Footage], total: Counted, *, uncompensated: bool, baselines: bool
) -> dict[str, dict[str, float | None]]:
    """Figures of what the model is compared with, on the same clips; see `tocsin.models.surprise.compare`."""
    from tocsin.models.surprise import compare
    from tocsin.models.surprise.baselines import bank
    from tocsin.models.surprise.simulation.scene import TRAIN_SEEDS

    found: dict[str, dict[str, float | None]] = {}
    recall = total.figures()["recall"]
    if uncompensated:
        found |= compare.without_motion(model, clips, recall, rate=RATE)
    if baselines:
        memory = bank([load_footage(seed, model.encoder) for seed in TRAIN_SEEDS[::10]])
        found |= compare.baselines(model, clips, memory, recall, rate=RATE)
    return found


def _line(name: str, clip: Mapping[str, Any]) -> str:
    """A clip's metrics as one line of text."""
    digits = {"precision": 2, "recall": 2, "recall_covered": 2, "false_per_hour": 0}
    figures = [f"{figure} {shown(clip[figure], decimals)}" for figure, decimals in digits.items()]
    return f"{name}: {clip['novelties']} novelties, " + ", ".join(figures)


def _labelled(data: str, decimal_comma: bool) -> Iterator[tuple[str, Iterator[np.ndarray], Sequence[Novelty]]]:
    """Names, frames and truth of the clips or of the test dives."""
    from tocsin.models.surprise.clips import clips, intervals
    from tocsin.models.surprise.simulation.scene import TEST_SEEDS, Dive
    from tocsin.models.vision.video import read

    if data == SIM:
        for seed in TEST_SEEDS:
            yield f"{SIM} {seed}", iter(dive := Dive(seed, rate=RATE)), dive.novelties
        return
    for path, truth in clips(Path(data), decimal_comma=decimal_comma).items():
        yield path.name, read(path, rate=RATE, size=None), intervals(truth, RATE)


def _appearance(run: Training) -> Appearance:
    """What is usual for the frames to train on."""
    from tocsin.models.surprise.simulation.scene import TRAIN_SEEDS, Dive
    from tocsin.models.vision.appearance import Appearance, Eye
    from tocsin.models.vision.video import read

    paths = [path for folder in run.data if folder != SIM for path in _clips(Path(folder))]
    sources: list[Path | int] = [*(TRAIN_SEEDS if SIM in run.data else ()), *paths]
    eye, recordings = Eye(), list[Any]()
    task = run.progress.add_task("appearance", total=len(sources))
    for source in sources:
        if isinstance(source, int):
            recordings.append(eye.looks(Dive(source, rate=RATE / SPARSE)))
        else:
            recordings.append(eye.looks(islice(read(source, rate=RATE, size=None), 0, None, SPARSE)))
        run.progress.advance(task)
    return Appearance.fit(recordings)


def _footage(
    run: Training, encoder: Encoder, *, only_triage: bool
) -> tuple[list[Footage], list[Footage], list[list[Frame]]]:
    """Read the clips to train on: dives, the clips, and pans over frames of the clips and, with the dives, over textures; those to
    validate on, see `_unseen`; and the stills of each clip.
    """
    from tocsin.models.surprise import pans
    from tocsin.models.surprise.simulation.scene import LESSON_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS

    dives = [*(LESSON_SEEDS if only_triage else TRAIN_SEEDS)] if SIM in run.data else []
    paths = [path for folder in run.data if folder != SIM for path in _clips(Path(folder))]
    if not (dives or paths):
        raise ValueError(f"--data {' '.join(run.data)}: expected clips to train on, got none")
    stills = [pans.stills(path, pans.PANS, rate=RATE) for path in paths]
    each = pans.count(len(paths))
    read = [] if only_triage else paths
    textures = pans.over_textures(encoder, rate=RATE) if SIM in run.data else ()
    known = len(dives) + len(read) + len(paths) * each + (pans.TEXTURES if textures else 0)
    task = run.progress.add_task("looking", total=known + len(VALIDATION_SEEDS) + len(paths) * pans.VALIDATION)

    def looked(footage: Iterable[Footage]) -> Iterator[Footage]:
        for clip in footage:
            run.progress.advance(task)
            yield clip

    clips = list(
        looked(
            chain(
                (load_footage(seed, encoder, covers=seed in LESSON_SEEDS) for seed in dives),
                (load_footage(path, encoder) for path in read),
                pans.lessons(stills, each, encoder, rate=RATE, seed=pans.TRAIN_SEED),
                textures,
            )
        )
    )
    return clips, list(looked(_unseen(stills, encoder))), stills


def _unseen(stills: Sequence[Sequence[Frame]], encoder: Encoder) -> Iterator[Footage]:
    """What models are validated on: dives, and pans over the stills of clips."""
    from tocsin.models.surprise import pans
    from tocsin.models.surprise.simulation.scene import VALIDATION_SEEDS

    for seed in VALIDATION_SEEDS:
        yield load_footage(seed, encoder)
    yield from pans.lessons(stills, pans.VALIDATION, encoder, rate=RATE, seed=pans.VALIDATION_SEED)


def _candidate(
    attempt: Attempt[SurpriseModel],
    folder: Path,
    clips: Sequence[Footage],
    unseen: Sequence[Footage],
    stills: Sequence[Sequence[Frame]],
) -> Candidate:
    """A model that was saved to `folder`, compared with the champion on `unseen`, see `_unseen`."""
    from tocsin.models.gate import Candidate
    from tocsin.models.surprise.model import load
    from tocsin.models.surprise.train import score_clip

    def against(other: Path) -> tuple[float, float]:
        champion = load(other)
        same = champion.config.encoder == attempt.model.config.encoder
        return attempt.score, _figures(champion, unseen if same else list(_unseen(stills, champion.encoder)))["f1"]

    return Candidate(
        measure="F1 of events on validation clips",
        lower=False,
        score=attempt.score,
        outputs=lambda: [score_clip(load(folder), clip) for clip in [*unseen, *clips][:1]],
        against=against,
    )


def _figures(model: SurpriseModel, dives: Sequence[Footage]) -> dict[str, float]:
    """Metrics of the events that a model detects in clips."""
    from tocsin.models.surprise.evaluate import Counted, counted, detect
    from tocsin.models.surprise.train import score_clip

    parts = [
        counted(*detect(score_clip(model, clip), model.config.detector), clip.novelties, rate=RATE) for clip in dives
    ]
    figures = sum(parts, Counted()).figures()
    return {"f1": 0.0} | {name: figure for name, figure in figures.items() if figure is not None}


def _clips(folder: Path) -> list[Path]:
    from tocsin.models.folders import listed
    from tocsin.models.vision.video import is_clip

    return [path for path in listed(folder) if is_clip(path)]


def load_footage(source: Path | int, encoder: Encoder, *, covers: bool = False) -> Footage:
    """A clip, or a dive by its seed, as the predictor's input. With `covers`, a dive has the novel share of each place, too."""
    import numpy as np
    import torch

    from tocsin.models.surprise.composites import covered
    from tocsin.models.surprise.simulation.scene import Dive, scene_of
    from tocsin.models.surprise.train import footage, pieces
    from tocsin.models.vision.video import read

    if not isinstance(source, int):
        return footage(pieces(read(source, rate=RATE, size=None), encoder.size), encoder)
    dive = Dive(source, rate=RATE)
    if not covers:
        return footage(pieces(dive, encoder.size), encoder, dive.novelties)
    shares, bare = [], Dive(source, rate=RATE, scene=replace(scene_of(source), often=(0, 0)))

    def frames() -> Iterator[np.ndarray]:
        for frame, bare_frame in zip(dive, bare, strict=True):
            shares.append(covered(frame, bare_frame, encoder.grid))
            yield frame

    clip = footage(pieces(frames(), encoder.size), encoder, dive.novelties)
    return replace(clip, covered=torch.from_numpy(np.stack(shares)))
