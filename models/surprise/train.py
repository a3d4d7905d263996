"""Training of the predictor on clips without a truth, and selection of the detector's level afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.evaluate import best, curve, levels
from tocsin.models.surprise.model import SurpriseModel
from tocsin.models.surprise.motion import Motion, ego_motion, grey, still
from tocsin.models.surprise.network import Predictor
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.surprise.triage import Triage, TriageConfig, evidence
from tocsin.models.surprise.triage_train import Lesson, teach
from tocsin.models.training import Optimization, begin
from tocsin.models.vision.encoder import Encoder

FLIPPED = torch.tensor([-1.0, 1, 1, -1, 1, 1, -1, 1])
"""Signs of the components of `ACTION` after a horizontal flip."""
ALLOWED = 30.0
"""False alerts an hour on validation clips when the level is chosen. Other scenes have more."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer.
        clips: pieces of clips per step, of `length` frames. The first `lead` frames only fill the memory and have no loss.
        learning_rate: maximum of the cycle; weight_decay: of AdamW.
        triage_steps: steps of the optimizer for triage; triage_clips: pieces per step.
    """

    steps: int = 800
    clips: int = 12
    length: int = 20
    lead: int = 3
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    triage_steps: int = 300
    triage_clips: int = 6


@dataclass(frozen=True)
class Footage:
    """A clip as input of the predictor.

    Args:
        tokens: of the encoder, `[T, N, D]`, half precision.
        motion: from the previous frame to each frame; shades: `[T, *SIZE] uint8`, the grey frames that it was estimated from.
        novelties: the truth, if it is known.
        covered: the share of each place that a novelty covers, `[T, h, w]`, if it is known.
    """

    tokens: Tensor
    motion: Motion
    shades: Tensor
    novelties: Sequence[Novelty] = ()
    covered: Tensor | None = None


def pieces(frames: Iterable[NDArray[np.uint8]], size: tuple[int, int]) -> Iterator[Tensor]:
    """Scale frames `[H, W, 3]` RGB to the encoder's size. Yields batches `[B, 3, *size] uint8`."""
    import cv2

    remaining, (height, width) = iter(frames), size
    while batch := list(islice(remaining, 64)):
        scaled = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in batch]
        yield torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)


def footage(pixels: Iterable[Tensor], encoder: Encoder, novelties: Sequence[Novelty] = ()) -> Footage:
    """Encode a clip, given as batches `[B, 3, H, W] uint8` of the encoder's size."""
    tokens, shades = [], []
    for batch in pixels:
        tokens.append(encoder(batch).tokens.half())
        shades.append(grey(batch))
    return moved(torch.cat(tokens), torch.cat(shades), novelties)


def moved(tokens: Tensor, shades: Tensor, novelties: Sequence[Novelty] = ()) -> Footage:
    """A clip of encoded frames, with the motion that its grey frames show."""
    first, rest = still(1), ego_motion(shades[:-1], shades[1:])
    motion = Motion(torch.cat([first.warp, rest.warp]), torch.cat([first.action, rest.action]))
    return Footage(tokens, motion, shades, novelties)


def fit(
    clips: Sequence[Footage],
    config: SurpriseConfig,
    encoder: Encoder,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
    predictor: Predictor | None = None,
) -> SurpriseModel:
    """Train a predictor on encoded clips, in which novelties are rare and unlabelled; then train triage.

    Triage trains on the clips with `covered`. Without such a clip, the model has no triage.

    Args:
        clips: each longer than the recipe's length.
        config: its detector stays unchanged; see `calibrate`.
        seed: of the weights and the pieces.
        progress: called with each step and its loss: of the predictor, or of triage if that alone is trained.
        predictor: a trained one, which stays as it is: only triage is trained.

    Raises:
        ValueError: a clip is too short.
    """
    recipe = recipe or Recipe()
    if (shortest := min(len(clip.tokens) for clip in clips)) <= recipe.length:
        raise ValueError(f"expected clips of more than {recipe.length} frames, got one of {shortest}; leave it out")
    begin(seed)
    generator = torch.Generator().manual_seed(seed)
    if predictor is None:
        predictor = _predictor(clips, config, encoder, recipe, generator, progress)
        progress = None
    labelled = [clip for clip in clips if clip.covered is not None]
    triage = _triage(predictor, labelled, config, recipe, encoder.grid, seed, progress) if labelled else None
    return SurpriseModel(replace(config, triage=triage.config if triage else None), predictor, encoder, triage)


def _predictor(
    clips: Sequence[Footage],
    config: SurpriseConfig,
    encoder: Encoder,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None,
) -> Predictor:
    """Train a predictor."""
    predictor = Predictor(config.network, width=clips[0].tokens.shape[2], rank=config.rank)
    _standardise(predictor, clips)
    encoded = [(predictor.whitened(clip.tokens.float(), encoder.grid), clip.motion) for clip in clips]
    optimization = Optimization(
        predictor, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for step in range(recipe.steps):
        tokens, motion = _sample_pieces(encoded, recipe, generator)
        loss = optimization.step(_loss(predictor, tokens, motion, recipe.lead))
        if progress:
            progress(step, loss)
    return predictor


def calibrate(model: SurpriseModel, clips: Sequence[Footage], *, rate: float) -> SurpriseConfig:
    """The model's config with the detector level that is best on validation clips with a truth, see `ALLOWED`."""
    scores = [score_clip(model, clip) for clip in clips]
    tried = levels(model.config.detector, triaged=bool(model.triage))
    found = curve(scores, [clip.novelties for clip in clips], tried, rate=rate)
    return replace(model.config, detector=best(found, most=ALLOWED))


@torch.inference_mode()
def score_clip(model: SurpriseModel, clip: Footage) -> Tensor:
    """The raw score of each frame of a clip, `[T]`."""
    memory, scores = model.blank(1), []
    for at in range(len(clip.tokens)):
        tokens = model.whitened(clip.tokens[at : at + 1].float())
        motion = Motion(clip.motion.warp[at : at + 1], clip.motion.action[at : at + 1])
        _, verdict, memory = model(memory, tokens, motion)
        scores.append(verdict.raw)
    return torch.cat(scores)


def _standardise(predictor: Predictor, clips: Sequence[Footage]) -> None:
    """Set the predictor's buffers: mean and whitened principal directions of the tokens, scale of actions, random `looks_at`."""
    sample = torch.cat([clip.tokens[::20].flatten(0, 1).float() for clip in clips])
    centre = sample.mean(0)
    values, vectors = torch.linalg.eigh((sample - centre).T @ (sample - centre) / len(sample))
    count = predictor.config.tokens
    predictor.centre.copy_(centre)
    predictor.basis.copy_(vectors[:, -count:] / values[-count:].clamp(min=1e-6).sqrt())
    predictor.scale.copy_(1 / torch.cat([clip.motion.action for clip in clips]).std(0).clamp(min=1e-6))
    predictor.looks_at.copy_(torch.randn(predictor.looks_at.shape) / predictor.looks_at.shape[1] ** 0.5)


def _sample_pieces(
    encoded: Sequence[tuple[Tensor, Motion]], recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Motion]:
    """Random pieces of clips, `[B, T, ...]`, flipped horizontally half of the time."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    tokens, warps, actions = [], [], []
    for _ in range(recipe.clips):
        clip, motion = encoded[below(len(encoded))]
        piece = slice(start := below(len(clip) - recipe.length + 1), start + recipe.length)
        tokens.append(clip[piece])
        warps.append(motion.warp[piece])
        actions.append(motion.action[piece])
    drawn, motion = torch.stack(tokens), Motion(torch.stack(warps), torch.stack(actions))
    if below(2):
        flipped = motion.warp * torch.tensor([[1.0, -1, -1], [-1, 1, 1]])
        return drawn.flip(-1), Motion(flipped, motion.action * FLIPPED)
    return drawn, motion


def _loss(predictor: Predictor, tokens: Tensor, motion: Motion, lead: int) -> Tensor:
    """The negative log-likelihood of the frames after the lead, a mean over places and channels."""
    state = predictor.update(predictor.blank(len(tokens), (tokens.shape[3], tokens.shape[4])), tokens[:, 0])
    total = torch.zeros(())
    for at in range(1, tokens.shape[1]):
        expected, moved = predictor(state, Motion(motion.warp[:, at], motion.action[:, at]))
        if at >= lead:
            error = (tokens[:, at] - expected.mean).square() * torch.exp(-expected.log_variance)
            total = total + 0.5 * (error + expected.log_variance).mean()
        state = predictor.update(moved, tokens[:, at])
    return total / (tokens.shape[1] - lead)


def _triage(
    predictor: Predictor,
    clips: Sequence[Footage],
    config: SurpriseConfig,
    recipe: Recipe,
    grid: tuple[int, int],
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> Triage:
    """Train triage on the errors of the trained predictor."""
    c = config.network
    sizes = config.triage or TriageConfig()
    triage = Triage(sizes, tokens=c.tokens, compensates=c.compensates)
    lessons = [
        Lesson(_evidence(predictor, clip, grid), clip.motion.warp, clip.covered)
        for clip in clips
        if clip.covered is not None
    ]
    for number in range(sizes.heads):
        begin(own := sizes.heads * seed + number)
        alone = Triage(replace(sizes, heads=1), tokens=c.tokens, compensates=c.compensates)
        teach(
            alone,
            lessons,
            steps=recipe.triage_steps,
            clips=recipe.triage_clips,
            length=recipe.length,
            generator=torch.Generator().manual_seed(own),
            progress=progress and partial(_later, progress, number * recipe.triage_steps),
        )
        triage.heads[number] = alone.heads[0]
    return triage


def _later(progress: Callable[[int, float], None], done: int, step: int, loss: float) -> None:
    """Report a step of a head that follows others of `done` steps."""
    progress(done + step, loss)


@torch.inference_mode()
def _evidence(predictor: Predictor, clip: Footage, grid: tuple[int, int]) -> Tensor:
    """The input of triage for a clip, `[T, C + 1, h, w]`, half precision. The first frame has no prediction and is 0."""
    errors, state = [], predictor.blank(1, grid)
    for at in range(len(clip.tokens)):
        tokens = predictor.whitened(clip.tokens[at : at + 1].float(), grid)
        expected, moved = predictor(state, Motion(clip.motion.warp[at : at + 1], clip.motion.action[at : at + 1]))
        errors.append((evidence(expected, tokens) * (at > 0)).half())
        state = predictor.update(moved, tokens)
    return torch.cat(errors)
