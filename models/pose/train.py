"""Training of the network on films with a known path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as Folder

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.attempts import Fitted
from tocsin.models.gate import Candidate
from tocsin.models.pose.config import PoseConfig
from tocsin.models.pose.evaluate import compared
from tocsin.models.pose.geometry import vector
from tocsin.models.pose.model import PoseModel, load
from tocsin.models.pose.motion import EVERY, Pairs, pairs_of
from tocsin.models.pose.network import NetworkConfig, PoseNetwork, Steps
from tocsin.models.pose.odometry import Followed
from tocsin.models.pose.simulation.film import Film
from tocsin.models.pose.simulation.path import Path
from tocsin.models.training import Optimization, begin
from tocsin.models.vision import flow

TURNED, ASIDE = 0.3, 0.2
"""Errors of a step's turn, degrees, and of its direction, rad, that weigh 1 in the loss."""
RIGHT_TURN, RIGHT_ASIDE = 0.5, 15.0
"""Degrees by which the turn and the direction of a step may err and still be about right."""
BLIND = 12
"""Frames for which a camera sees nothing, at most, in training."""
COASTING = 0.2
"""Weight of the error of a step in whose frame nothing is seen."""
STANDING = 0.005
"""Metres below which a step has no direction."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer.
        clips: pieces of films a step, of `frames` pairs.
        learning_rate: maximum of the cycle; weight_decay: of AdamW.
    """

    steps: int = 600
    clips: int = 5
    frames: int = 36
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class Course:
    """A film as the network's input, and its truth.

    Args:
        pairs: of its frames, F of them.
        turn: `[F, 3, 3]`, from each frame to the frame before; shift: `[F, 3]`, m.
        depth: `[F]`, the log of the mean depth, m.
        blind: `[F] bool`, whether the camera sees nothing.
    """

    pairs: Pairs
    turn: Tensor
    shift: Tensor
    depth: Tensor
    blind: Tensor

    def __len__(self) -> int:
        return len(self.turn)

    def piece(self, first: int, count: int) -> Course:
        """A part of it."""
        part = slice(first, first + count)
        return Course(self.pairs.at(part), self.turn[part], self.shift[part], self.depth[part], self.blind[part])

    def way(self) -> Path:
        """The true path, from the first frame on."""
        turn, place = [np.eye(3)], [np.zeros(3)]
        for step, shift in zip(self.turn.double().numpy(), self.shift.double().numpy(), strict=True):
            place.append(place[-1] + turn[-1] @ shift)
            turn.append(turn[-1] @ step)
        return Path(np.stack(place), np.stack(turn))

    def mirrored(self) -> Course:
        """The film as seen in a mirror that swaps left and right."""
        flip, turned = torch.tensor([-1.0, 1, 1]), torch.tensor([1.0, -1, -1])
        p = self.pairs
        both = Pairs(
            p.now * flip[:2], p.then * flip[:2], p.trust, p.guess * torch.cat([turned, flip, torch.ones(1)]), p.focal
        )
        return Course(both, flip[:, None] * self.turn * flip, self.shift * flip, self.depth, self.blind)


def fit(
    courses: Sequence[Course],
    config: NetworkConfig,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> PoseNetwork:
    """Train a network.

    Args:
        courses: each of more pairs than the recipe's.
        seed: of the weights and the pieces.
        progress: called with each step and its loss.

    Raises:
        ValueError: a film is too short.
    """
    recipe = recipe or Recipe()
    if (shortest := min(map(len, courses))) < recipe.frames:
        raise ValueError(f"expected films of more than {recipe.frames} frames, got one of {shortest}; leave it out")
    begin(seed)
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    network = PoseNetwork(config)
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for step in range(recipe.steps):
        pieces = []
        for _ in range(recipe.clips):
            course = courses[below(len(courses))]
            piece = course.piece(below(len(course) - recipe.frames + 1), recipe.frames)
            pieces.append(blinded(piece.mirrored() if below(2) else piece, generator))
        value = optimization.step(loss(network, together(pieces)))
        if progress:
            progress(step, value)
    return network.eval()


def train(
    known: Sequence[Course],
    unseen: Sequence[Course],
    config: PoseConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Fitted[PoseModel]:
    """Fit a network to films, and judge it by others."""
    model = PoseModel(config, fit(known, config.network, recipe, seed=seed, progress=progress))
    return Fitted(model, judged(model, unseen), by="drift")


def judged(model: PoseModel, unseen: Sequence[Course]) -> dict[str, float]:
    """The figures of `evaluate.Errors` on films, means over them."""
    films = []
    for course in unseen:
        steps = watched(model, course)
        length = steps.length.double().exp()[:, None]
        found = Followed(steps.turn.double().numpy(), (steps.direction.double() * length).numpy())
        films.append(compared(found, course.way()).figures())
    return {name: float(np.mean([film[name] for film in films])) for name in films[0]}


def watched(model: PoseModel, course: Course) -> Steps:
    """The steps of a film, frame by frame as the pipeline makes them."""
    state, steps = model.blank(1), []
    for at in range(len(course)):
        step, state = model(state, course.pairs.at(slice(at, at + 1)))
        steps.append(step)
    return Steps(*(torch.cat(part) for part in zip(*steps, strict=True)))


def courses(seeds: Iterable[int], progress: Callable[[], None] = lambda: None) -> list[Course]:
    """Simulated films by their seeds."""
    found = []
    for seed in seeds:
        found.append(course(Film(seed)))
        progress()
    return found


def course(film: Film) -> Course:
    """A film as the network's input."""
    frames, depths = [], []
    for at in range(len(film.path.place)):
        picture, depth = film.render(at)
        frames.append(flow.grey_frame(picture, film.size))
        depths.append(float(np.log(depth[EVERY // 2 :: EVERY, EVERY // 2 :: EVERY]).mean()))
    grey = torch.from_numpy(np.stack(frames))
    turns, shifts = (torch.from_numpy(part[1:].astype(np.float32)) for part in film.path.steps())
    seen = torch.zeros(len(turns), dtype=torch.bool)
    return Course(pairs_of(grey[:-1], grey[1:], film.lens), turns, shifts, torch.tensor(depths[1:]), seen)


def candidate(outcome: Fitted[PoseModel], folder: Folder, unseen: Sequence[Course]) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""

    def outputs() -> list[Tensor]:
        steps = watched(load(folder), unseen[0])
        return [*steps]

    return Candidate(
        measure="drift on validation films",
        lower=True,
        score=outcome.score,
        outputs=outputs,
        against=lambda other: (outcome.score, judged(load(other), unseen)["drift"]),
    )


def blinded(course: Course, generator: torch.Generator) -> Course:
    """The course of a camera that sees nothing for a while, every other time: it is dark, or all that moves is noise."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    if below(2):
        return course
    count = len(course)
    first, lasts = 1 + below(count - 2), 1 + below(BLIND)
    blind = (torch.arange(count) >= first) & (torch.arange(count) < first + lasts)
    places = course.pairs.now.shape[1]
    dark = below(2) == 0
    level = torch.tensor([-0.7, -11.5] if dark else [0.6 + 0.5 * below(4), -10.5 + 0.5 * below(6)])
    trust = level + (0.0 if dark else 0.15) * torch.randn(count, places, 2, generator=generator)
    noise = (0.0 if dark else 0.02) * torch.randn(count, places, 2, generator=generator)
    wild = torch.randn(count, 7, generator=generator)
    guess = torch.cat([0.02 * wild[:, :3], F.normalize(wild[:, 3:6], dim=1), 0.3 * wild[:, 6:].sigmoid()], 1)
    p = course.pairs
    pairs = Pairs(
        p.now,
        torch.where(blind[:, None, None], p.now + noise, p.then),
        torch.where(blind[:, None, None], trust, p.trust),
        torch.where(blind[:, None], 0.0 if dark else guess, p.guess),
        p.focal,
    )
    return replace(course, pairs=pairs, blind=blind)


def together(courses: Sequence[Course]) -> Course:
    """Courses of one length as a batch."""

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts))

    pairs = Pairs(*(stacked(t) for t in zip(*(vars(c.pairs).values() for c in courses), strict=True)))
    return Course(
        pairs, *(stacked([getattr(c, name) for c in courses]) for name in ("turn", "shift", "depth", "blind"))
    )


def loss(network: PoseNetwork, truth: Course) -> Tensor:
    """The error of the steps, of the paths that they add up to, of the depth, and of the confidence."""
    steps: Steps = network(truth.pairs)
    length = truth.shift.norm(dim=-1)
    moving = length > STANDING
    turned, aside = errors(steps, truth)
    share = (length / length.mean(1, keepdim=True).clamp(min=STANDING)).clamp(max=3)
    by_step = _robust(turned / TURNED) + share * moving * _robust(aside / ASIDE)
    by_step = by_step * torch.where(truth.blind, COASTING, 1.0)
    # A path over frames in which nothing is seen would teach only what nobody can know.
    turned_by = torch.where(truth.blind[..., None, None], truth.turn, steps.turn)
    shifted_by = torch.where(truth.blind[..., None], truth.shift, steps.direction * length[..., None])
    path = followed(turned_by, shifted_by)
    true = followed(truth.turn, truth.shift)
    gone = length.cumsum(1) + 0.05
    drift = ((path - true).norm(dim=-1) / gone)[:, length.shape[1] // 4 :]
    scale = truth.depth[:, :1]
    depth = (
        F.smooth_l1_loss(steps.depth, truth.depth - scale)
        + (moving * F.smooth_l1_loss(steps.length, (length + 1e-4).log() - scale, reduction="none")).mean()
    )
    right = ((turned < RIGHT_TURN) & ((aside < RIGHT_ASIDE * torch.pi / 180) | ~moving)).float()
    right = right.masked_fill(truth.blind, 0.0)
    sure = F.binary_cross_entropy_with_logits(steps.confidence, right)
    return by_step.mean() + 5 * drift.mean() + 0.2 * depth + 0.2 * sure


def errors(steps: Steps, truth: Course) -> tuple[Tensor, Tensor]:
    """Of each step's turn, degrees, and of its direction, rad; shapes are those of a course."""
    turned = vector(steps.turn.mT @ truth.turn).norm(dim=-1) * 180 / torch.pi
    true = F.normalize(truth.shift, dim=-1)
    across = torch.cross(steps.direction, true, dim=-1).square().sum(-1)
    return turned, torch.atan2((across + 1e-12).sqrt(), (steps.direction * true).sum(-1))


def followed(turn: Tensor, shift: Tensor) -> Tensor:
    """The places of a camera that makes steps `[B, F, 3, 3]` and `[B, F, 3]`, from where it was before the first: `[B, F, 3]`."""
    heading = torch.eye(3).expand(len(turn), 3, 3)
    place, places = torch.zeros(len(turn), 3), []
    for step in range(turn.shape[1]):
        place = place + (heading @ shift[:, step, :, None])[..., 0]
        heading = heading @ turn[:, step]
        places.append(place)
    return torch.stack(places, 1)


def _robust(error: Tensor) -> Tensor:
    """Grows like the error, and like its logarithm where it is large."""
    return torch.log1p(error)
