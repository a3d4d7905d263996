"""Training of the network on clips that are encoded once, and selection of the event thresholds afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.config import TouchConfig
from tocsin.models.touch.decode import decode, softened, spots
from tocsin.models.touch.evaluate import ClipResult, best_threshold
from tocsin.models.touch.hands import present
from tocsin.models.touch.loss import Targets, holding, losses, targets
from tocsin.models.touch.model import Eyes, TouchModel
from tocsin.models.touch.moving import CHANNELS, FINER, MOTION
from tocsin.models.touch.network import Tokens, TouchNet
from tocsin.models.touch.robust import RobustLoss
from tocsin.models.touch.truth import Miss, Touch
from tocsin.models.training import Optimization, begin
from tocsin.models.vision import flow
from tocsin.models.wrong_labels.labels import Robust

POINTING = 0.05
"""Weight of the displacement loss."""
HOLDING = 0.1
"""Weight of the loss of the per-frame prediction of whether a hand is touching something."""
MARGIN, SHORTEST = 10, 80
"""Frames left out before a touch without a release in a reversed clip, and minimum length of a reversed clip."""
AT_ONCE = 32
"""Frames that are encoded in one batch."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer.
        windows: windows per step; every second one contains an event.
        learning_rate: maximum of the cycle; weight_decay: of AdamW.
        blind: share of windows without hand boxes, so that the network works without a detector.
        cut: share of windows of which up to half is missing at the start or the end, as at the start or a gap of a stream.
        robust: how labels that may be wrong are trained on; None: as if all were right.
    """

    steps: int = 7000
    windows: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 3e-2
    blind: float = 0.15
    cut: float = 0.25
    robust: Robust | None = None


@dataclass(frozen=True)
class Footage:
    """A clip as encoded by `Eyes`.

    Args:
        scene: `[T, N, C1]`, hands: `[T, 2, M, C2]`, half precision.
        boxes: `[T, 2, 4]`, NaN where no hand is known.
        touches, misses: the truth.
    """

    scene: Tensor
    hands: Tensor
    boxes: Tensor
    touches: Sequence[Touch]
    misses: Sequence[Miss]

    def __len__(self) -> int:
        return len(self.scene)


def footage(
    shots: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32]]],
    eyes: Eyes,
    touches: Sequence[Touch] = (),
    misses: Sequence[Miss] = (),
) -> Footage:
    """Encode a clip: pictures `[H, W, 3]` RGB of the model's size, and boxes `[2, 4]`."""
    scene, hands, boxes = list[Tensor](), list[Tensor](), list[Tensor]()
    remaining, last = iter(shots), None
    while batch := list(islice(remaining, AT_ONCE)):
        pixels = torch.from_numpy(np.stack([picture for picture, _ in batch])).permute(0, 3, 1, 2)
        where = torch.from_numpy(np.stack([box for _, box in batch]))
        greys = flow.grey(pixels, eyes.size)
        pairs = torch.stack([torch.cat([greys[:1] if last is None else last, greys[:-1]]), greys], 1)
        last = greys[-1:]
        for part, tokens in zip((scene, hands), eyes(pixels, where, pairs), strict=True):
            part.append(tokens.half())
        boxes.append(where)
    return Footage(torch.cat(scene), torch.cat(hands), torch.cat(boxes), touches, misses)


def backwards(clip: Footage) -> Footage | None:
    """Reverse a clip in time, which makes each release a contact. None if fewer than `SHORTEST` frames remain.

    Frames from `MARGIN` before a touch without a release are left out, because the frame of its release is unknown.
    """
    length = min([len(clip), *(touch.contact - MARGIN for touch in clip.touches if touch.release is None)])
    if length < SHORTEST:
        return None
    scene, hands = (_reversed(tokens[:length]) for tokens in (clip.scene, clip.hands))
    ends = [(touch.hand, touch.contact, touch.release) for touch in clip.touches]
    touches = [
        Touch(hand, length - end, length - begin) for hand, begin, end in reversed(ends) if end and end <= length
    ]
    misses = [Miss(m.hand, length - 1 - m.last, length - 1 - m.first) for m in reversed(clip.misses) if m.last < length]
    return Footage(scene, hands, clip.boxes[:length].flip(0), touches, misses)


def _reversed(tokens: Tensor) -> Tensor:
    """Reverse tokens in time. Motion is relative to the previous frame, so it is shifted by one frame and negated."""
    appearance, motion = tokens.split([tokens.shape[-1] - MOTION, MOTION], -1)
    back = -torch.cat([motion[1:], torch.zeros_like(motion[:1])])
    return torch.cat([appearance, back], -1).flip(0)


def mirrored(clip: Footage, eyes: Eyes) -> Footage:
    """Flip a clip horizontally and swap its hands. Appearance features are moved as they are, not encoded again."""
    scene, hands = (_flipped(tokens, kind) for tokens, kind in ((clip.scene, eyes.scene), (clip.hands, eyes.hands)))
    x0, y0, x1, y1 = clip.boxes.flip(1).unbind(-1)
    touches = [replace(touch, hand=1 - touch.hand) for touch in clip.touches]
    misses = [replace(miss, hand=1 - miss.hand) for miss in clip.misses]
    return Footage(scene, hands.flip(1), torch.stack([1 - x1, y0, 1 - x0, y1], -1), touches, misses)


def _flipped(tokens: Tensor, kind: Tokens) -> Tensor:
    """Flip the grid of places and the parts of a place in its motion, and negate horizontal motion."""
    appearance, motion = tokens.unflatten(-2, kind.grid).flip(-2).split([kind.width - MOTION, MOTION], -1)
    parts = motion.unflatten(-1, (CHANNELS, FINER, FINER)).flip(-1) * motion.new_tensor([-1, 1, 1])[:, None, None]
    return torch.cat([appearance, parts.flatten(-3)], -1).flatten(-3, -2)


def fit(
    clips: Sequence[Footage],
    config: TouchConfig,
    eyes: Eyes,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> TouchModel:
    """Train a network on clips.

    Args:
        clips: with their touches. Training also uses them reversed in time and flipped horizontally.
        config: its thresholds stay unchanged; see `calibrate`.
        seed: of the weights and the windows.
        progress: called with each step and its loss.
    """
    recipe = recipe or Recipe()
    begin(seed)
    rng = np.random.default_rng(seed)
    clips = [*clips, *(mirrored(clip, eyes) for clip in clips)]
    clips = [*clips, *(back for clip in clips if (back := backwards(clip)))]
    net = TouchNet(config.network, scene=eyes.scene, hands=eyes.hands)
    net.look.fit(*_sample_frames(clips))
    optimization = Optimization(
        net,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        rise=0.1,
        fused=True,
    )
    truths = [
        [*targets(clip.touches, len(clip), radius=config.decode.radius), holding(clip.touches, len(clip))]
        for clip in clips
    ]
    robust = (
        RobustLoss(
            [(clip.touches, len(clip)) for clip in clips],
            recipe.robust,
            steps=recipe.steps,
            radius=config.decode.radius,
        )
        if recipe.robust
        else None
    )
    for step in range(recipe.steps):
        batch = [_window(clips, config.network.window, rng, event=i % 2 == 0) for i in range(recipe.windows)]
        parts = [_piece(clips[clip], truths[clip], at, recipe, rng) for clip, at in batch]
        scene, hands, boxes, labels, displacement, holds, mask = (
            torch.stack(part) for part in zip(*parts, strict=True)
        )
        encoded = net.look(scene.flatten(0, 1), hands.flatten(0, 1), present(boxes).flatten(0, 1), boxes.flatten(0, 1))
        encoded = encoded.unflatten(0, mask.shape)
        prediction, target = net.predict(encoded, mask), Targets(labels, displacement)
        score = partial(robust.score, batch=batch, mask=mask) if robust else None
        event_losses = losses(
            prediction.logits, prediction.displacement, target, mask, radius=config.decode.radius, score=score
        )
        held = net.holding(encoded)[mask]
        holding_loss = (robust.holding if robust else F.binary_cross_entropy_with_logits)(held, holds[mask])
        loss = optimization.step(event_losses.score + POINTING * event_losses.displacement + HOLDING * holding_loss)
        if progress:
            progress(step, loss)
    return TouchModel(config, net, eyes)


@torch.inference_mode()
def vectors(model: TouchModel, clip: Footage) -> Tensor:
    """The vector of each frame of a clip, `[T, dim]`."""
    pieces = zip(clip.scene.split(AT_ONCE), clip.hands.split(AT_ONCE), clip.boxes.split(AT_ONCE), strict=True)
    return torch.cat([model.net.look(s.float(), h.float(), present(b), b) for s, h, b in pieces])


@torch.inference_mode()
def predict_clip(model: TouchModel, clip: Footage) -> Tensor:
    """The model's output for each frame of a clip, as in a stream: `[T, 2, 2, 2]`, see `TouchModel.predict`."""
    encoded, c = vectors(model, clip), model.config.network
    padded = torch.cat([encoded.new_zeros(c.past, c.dim), encoded, encoded.new_zeros(c.ahead, c.dim)])
    mask = torch.zeros(len(padded), dtype=torch.bool)
    mask[c.past : c.past + len(encoded)] = True
    windows = padded.unfold(0, c.window, 1).mT.split(AT_ONCE)
    return torch.cat(
        [model.predict(w, t) for w, t in zip(windows, mask.unfold(0, c.window, 1).split(AT_ONCE), strict=True)]
    )


def decoded(model: TouchModel, clip: Footage) -> Tensor:
    """The event score of each frame of a clip, decoded from its neighbours' output too: `[T, 2, 2]`, 0 to 1."""
    scores, displacement = predict_clip(model, clip).unbind(1)
    return decode(scores, displacement, radius=model.config.decode.radius)


def detect(model: TouchModel, clip: Footage, *, soft: bool = False) -> ClipResult:
    """The events that a stream finds in a clip; with `soft`, the events for the benchmark's metric."""
    scores = decoded(model, clip)
    found = softened(scores) if soft else spots(scores, apart=model.config.decode.apart)
    return ClipResult(found, clip.touches, clip.misses, len(clip))


def calibrate(model: TouchModel, clips: Sequence[Footage]) -> TouchConfig:
    """The model's config with the thresholds of the best F1 at two frames on `clips`, which must not be training clips."""
    results = [detect(model, clip) for clip in clips]
    contact, release = (best_threshold(results, kind) for kind in (0, 1))
    return replace(model.config, decode=replace(model.config.decode, contact=contact, release=release))


def _sample_frames(clips: Sequence[Footage]) -> tuple[Tensor, Tensor, Tensor]:
    """Every fiftieth frame of the clips: scene, hands, and which hands are present."""
    scene, hands, boxes = (
        torch.cat([part[::50] for part in parts]) for parts in zip(*map(_tokens, clips), strict=True)
    )
    return scene, hands, present(boxes)


def _tokens(clip: Footage) -> tuple[Tensor, Tensor, Tensor]:
    return clip.scene, clip.hands, clip.boxes


def _window(clips: Sequence[Footage], length: int, rng: np.random.Generator, *, event: bool) -> tuple[int, range]:
    """Draw a clip and a range of its frames, with an event in it or any. The range may exceed the clip at both ends."""
    with_events = [i for i, clip in enumerate(clips) if clip.touches]
    clip = int(rng.choice(with_events)) if event and with_events else int(rng.integers(len(clips)))
    frames = len(clips[clip])
    if event and with_events:
        touch = clips[clip].touches[int(rng.integers(len(clips[clip].touches)))]
        at = touch.release if touch.release is not None and rng.random() < 0.5 else touch.contact
        begin = at - int(rng.integers(length))
    else:
        begin = int(rng.integers(8 - length, frames - 8))
    return clip, range(begin, begin + length)


def _piece(
    clip: Footage, truth: Sequence[Tensor], frames: range, recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """Frames of a clip: scene, hands, boxes, labels, displacement, whether each hand holds something, and which frames exist."""
    at = torch.tensor(frames)
    mask = (at >= 0) & (at < len(clip))
    at = at.clamp(0, len(clip) - 1)
    if rng.random() < recipe.cut:
        known = mask.nonzero()[:, 0]
        missing = int(rng.integers(len(known) // 2 + 1))
        mask[known[:missing] if rng.random() < 0.5 else known[len(known) - missing :]] = False
    boxes = torch.full_like(clip.boxes[at], torch.nan) if rng.random() < recipe.blind else clip.boxes[at]
    return clip.scene[at].float(), clip.hands[at].float(), boxes, *(part[at] for part in truth), mask
