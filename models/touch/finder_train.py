"""Training of the hand finder on simulated tables. Frames are augmented, so that it generalises to other cameras and light.

    python -m tocsin.models.touch.finder_train FOLDER

writes a finder into FOLDER. It takes half an hour on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.evaluate import f1
from tocsin.models.touch.finder import FinderConfig, FinderNet, HandFinder, decode, encoder_of, overlap, reduced
from tocsin.models.touch.simulation.scene import TRAIN, VALIDATION, Distribution, Scene
from tocsin.models.training import Optimization, begin
from tocsin.models.vision.encoder import Encoder

Frame = NDArray[np.uint8]
Boxes = NDArray[np.float32]

TRAIN_SEEDS = range(2000, 2800)
VALIDATION_SEEDS = range(1700, 1730)
"""Seeds of the tables. They differ from those of the touch model, with the same looks."""
FRAMES, SECONDS = 20, 20.0
"""Number of frames per table, and the length of the scene that they are drawn from."""
MIDDLE = 0.5
"""Share of a hand's box whose places are its middle. Other places in the box are ignored in the loss."""
MIN_VISIBLE = 0.15
"""Minimum share of a hand's box that must remain in the frame."""
LEVELS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
"""Thresholds that are tried."""
FOUND = 0.5
"""Overlap above which a hand counts as found."""


@dataclass(frozen=True)
class Recipe:
    """How to train: steps of the optimizer, frames per step, maximum learning rate of the cycle, weight decay of AdamW."""

    steps: int = 2500
    frames: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2


@dataclass(frozen=True)
class EncodedFrames:
    """Encoded frames: tokens `[B, N, D]`, half precision, and boxes `[B, 2, 4]`, NaN where there is no hand."""

    tokens: Tensor
    boxes: Tensor


def encode_table(
    seed: int, config: FinderConfig, encoder: Encoder, *, distribution: Distribution, vary: bool
) -> EncodedFrames:
    """Encode random frames of a table."""
    scene, rng = Scene(seed, seconds=SECONDS, distribution=distribution), np.random.default_rng((seed, 7))
    pictures, boxes = list[Tensor](), list[Tensor]()
    for at in rng.choice(np.arange(1, len(scene)), FRAMES, replace=False):
        shot = scene.shot(int(at))
        picture, where = augmented(shot.picture, shot.hands, rng) if vary else (shot.picture, shot.hands)
        pictures.append(torch.from_numpy(picture).permute(2, 0, 1))
        boxes.append(torch.from_numpy(where))
    return EncodedFrames(encoder(reduced(torch.stack(pictures), config)).tokens.half(), torch.stack(boxes))


def augmented(picture: Frame, boxes: Boxes, rng: np.random.Generator) -> tuple[Frame, Boxes]:
    """Augment a frame `[H, W, 3]`: flip, zoom, rotation, light, colour and blur.

    Returns:
        The frame and the boxes of its hands; NaN if too little of a hand remains.
    """
    rows, columns = picture.shape[:2]
    transform = np.eye(3)
    if rng.random() < 0.5:
        transform = np.array([[-1.0, 0, columns - 1], [0, 1, 0], [0, 0, 1]])
        boxes = boxes[::-1]  # a flip swaps the hands
    if rng.random() < 0.6:
        scale = rng.uniform(1, 1.6)
        right, down = rng.uniform(0, [columns * (scale - 1), rows * (scale - 1)])
        transform = np.array([[scale, 0, -right], [0, scale, -down], [0, 0, 1]]) @ transform
    angle = rng.uniform(-25, 25) if rng.random() < 0.3 else 0.0
    tilt = np.vstack([cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, 1.0), [0, 0, 1]])
    warped = cv2.warpPerspective(picture, tilt @ transform, (columns, rows), borderMode=cv2.BORDER_REFLECT_101)
    size = np.array([columns, rows])
    moved = np.stack([_moved(box, tilt @ transform, size, shrink=1 - 0.12 * (angle != 0)) for box in boxes])
    light = (np.asarray(warped, np.float32) / 255) ** rng.uniform(0.6, 1.6)
    light = light * rng.uniform(0.8, 1.2, 3) * rng.uniform(0.7, 1.25) + rng.uniform(-0.06, 0.06)
    if rng.random() < 0.3:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 2))
    return np.clip(light * 255, 0, 255).astype(np.uint8), moved.astype(np.float32)


def _moved(
    box: Boxes, transform: NDArray[np.float64], size: NDArray[np.int64], *, shrink: float
) -> NDArray[np.float64]:
    """The box around a box's transformed corners, scaled by `shrink`: a hand does not fill it. NaN if too little remains."""
    corners = np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)]) * size
    moved = corners @ transform[:2, :2].T + transform[:2, 2]
    middle, half = (moved.max(0) + moved.min(0)) / 2, (moved.max(0) - moved.min(0)) / 2 * shrink
    low, high = np.clip((middle - half) / size, 0, 1), np.clip((middle + half) / size, 0, 1)
    visible = np.prod(high - low) / max(float(np.prod(2 * half / size)), 1e-9)
    return np.concatenate([low, high]) if visible > MIN_VISIBLE else np.full(4, np.nan)


def fit(
    encoded: EncodedFrames, config: FinderConfig, encoder: Encoder, recipe: Recipe | None = None, *, seed: int = 0
) -> HandFinder:
    """Train a finder. Its threshold stays that of the config; see `calibrate`."""
    recipe = recipe or Recipe()
    begin(seed)
    net = FinderNet(encoded.tokens.shape[2], config.hidden, encoder.grid)
    sample = encoded.tokens[::7].float()
    net.centre.copy_(sample.mean((0, 1)))
    net.scale.copy_(sample.std((0, 1)).clamp(min=1e-3))
    optimization = Optimization(
        net, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for _ in range(recipe.steps):
        drawn = torch.randint(len(encoded.tokens), (recipe.frames,))
        optimization.step(_loss(net, encoded.tokens[drawn].float(), encoded.boxes[drawn]))
    return HandFinder(config, net, encoder)


def _loss(net: FinderNet, tokens: Tensor, boxes: Tensor) -> Tensor:
    """Focal loss of the places, plus overlap and distance losses of the boxes that places in a hand's middle predict."""
    logits, predicted_boxes = net(tokens)
    known = boxes.nan_to_num(0.0)[..., None, None]
    half, away = (known[:, :, 2:] - known[:, :, :2]) / 2, (net.places - (known[:, :, 2:] + known[:, :, :2]) / 2).abs()
    step = 0.5 / logits.new_tensor(net.grid[::-1])[:, None, None]
    # Each hand has at least one middle place, however small the hand is. A missing hand has none.
    inside = (away / half.maximum(step / MIDDLE)).amax(2).nan_to_num(9.0)
    inside = inside.masked_fill(boxes.isnan().any(-1)[..., None, None], 9.0)
    middle, likely = inside < MIDDLE + 1e-3, logits.sigmoid().detach()
    weight = torch.where(middle, (1 - likely).square(), likely.square() / 2) * (middle | (inside >= 1))
    places = (F.binary_cross_entropy_with_logits(logits, middle.float(), reduction="none") * weight).sum()
    predicted, target = (b.permute(0, 1, 3, 4, 2)[middle] for b in (predicted_boxes, known.expand_as(predicted_boxes)))
    sides = (1 - overlap(predicted, target)).sum() + 2 * (predicted - target).abs().mean(-1).sum()
    return (places + sides) / middle.sum().clamp(min=1)


def calibrate(finder: HandFinder, encoded: EncodedFrames) -> tuple[FinderConfig, dict[str, float]]:
    """The config with the threshold of the best F1 on validation frames, and the metrics there."""
    with torch.inference_mode():
        parts = [decode(*finder.net(batch.float())) for batch in encoded.tokens.split(64)]
    boxes, sure = (torch.cat(part) for part in zip(*parts, strict=True))
    by_level = {level: detection_figures(boxes, sure >= level, encoded.boxes) for level in LEVELS}
    level = max(by_level, key=lambda level: by_level[level]["f1"])
    return replace(finder.config, sure=level), by_level[level]


def detection_figures(boxes: Tensor, is_found: Tensor, truth: Tensor) -> dict[str, float]:
    """Metrics of found hands: boxes `[B, 2, 4]` and whether each is found, `[B, 2]`, against the true boxes."""
    known, same = ~truth.isnan().any(-1), overlap(boxes, truth.nan_to_num(0.0))
    hit = is_found & known & (same > FOUND)
    precision, recall = float(hit.sum() / is_found.sum().clamp(min=1)), float(hit.sum() / known.sum().clamp(min=1))
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1(precision, recall),
        "overlap": float(same[hit].mean()) if bool(hit.any()) else 0.0,
    }


def concatenate(parts: Iterator[EncodedFrames]) -> EncodedFrames:
    """Concatenate the frames of several tables."""
    encoded = list(parts)
    return EncodedFrames(torch.cat([part.tokens for part in encoded]), torch.cat([part.boxes for part in encoded]))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    config = FinderConfig()
    encoder = encoder_of(config)
    validation_distribution = replace(VALIDATION, view=TRAIN.view, height=TRAIN.height)
    train = concatenate(encode_table(seed, config, encoder, distribution=TRAIN, vary=True) for seed in TRAIN_SEEDS)
    validation = concatenate(
        encode_table(seed, config, encoder, distribution=validation_distribution, vary=False)
        for seed in VALIDATION_SEEDS
    )
    finder = fit(train, config, encoder)
    config, figures = calibrate(finder, validation)
    HandFinder(config, finder.net, encoder).save(out)
    print({"sure": config.sure, **figures})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
