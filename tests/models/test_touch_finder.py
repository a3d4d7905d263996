"""The hand finder: its network predicts boxes, frames are augmented with their boxes, and it finds unseen hands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tocsin.models.touch.finder import FinderConfig, FinderNet, HandFinder, decode, encoder_of, load, overlap
from tocsin.models.touch.finder_train import (
    FRAMES,
    VALIDATION_SEEDS,
    EncodedFrames,
    Recipe,
    augmented,
    calibrate,
    detection_figures,
    encode_table,
    fit,
)
from tocsin.models.touch.hands import present
from tocsin.models.touch.simulation.scene import VALIDATION
from tocsin.models.vision.video import read

BY_EYE = {
    ("video1", 10): (0.53, 0.55, 0.65, 0.82),
    ("video1", 20): (0.49, 0.30, 0.61, 0.52),
    ("video2", 15): (0.42, 0.33, 0.57, 0.60),
}
"""The right hand's box by video and frame, as shares of the frame."""
SMALL = FinderConfig(height=32, width=64)


def box(*sides: float) -> Tensor:
    return torch.tensor(sides)


def test_boxes_overlap_by_what_they_share() -> None:
    one, half = box(0.0, 0.0, 0.4, 0.4), box(0.2, 0.0, 0.6, 0.4)
    assert overlap(one, one) == pytest.approx(1)
    assert overlap(one, half) == pytest.approx(1 / 3)
    assert overlap(one, box(0.5, 0.5, 0.6, 0.6)) == overlap(one, box(0.3, 0.3, 0.2, 0.2)) == 0


def test_the_surest_places_make_a_hands_box() -> None:
    logits, boxes = torch.full((1, 2, 3, 4), -20.0), torch.rand(1, 2, 4, 3, 4)
    logits[0, 0, 1, 2] = logits[0, 0, 1, 3] = 2.0
    boxes[0, 0, :, 1, 2], boxes[0, 0, :, 1, 3] = box(0.1, 0.2, 0.3, 0.4), box(0.2, 0.2, 0.5, 0.4)
    seen, sure = decode(logits, boxes)
    torch.testing.assert_close(seen[0, 0], box(0.15, 0.2, 0.4, 0.4))
    assert sure[0, 0] == pytest.approx(torch.tensor(2.0).sigmoid().item()) and sure[0, 1] < 1e-6


def test_a_hand_that_is_seen_as_both_is_the_surer_one() -> None:
    logits, boxes = torch.full((2, 2, 3, 4), -20.0), torch.zeros(2, 2, 4, 3, 4)
    logits[:, 0, 1, 1], logits[:, 1, 1, 1] = 1.0, 2.0
    boxes[0] = box(0.2, 0.2, 0.5, 0.5)[:, None, None]
    boxes[1, 0], boxes[1, 1] = (side[:, None, None] for side in (box(0.1, 0.2, 0.4, 0.5), box(0.6, 0.2, 0.9, 0.5)))
    _, sure = decode(logits, boxes)
    assert (sure > 0.5).tolist() == [[False, True], [True, True]]


def test_frames_are_varied_together_with_their_boxes() -> None:
    """The left hand is bright and the right one dimmer. After augmentation, each box must hold the pixels of its level."""
    seen, gone = list[float](), 0
    for seed in range(40):
        draw, picture = np.random.default_rng(seed), np.zeros((90, 160, 3), np.uint8)
        picture[:30, :40], picture[40:80, 90:120] = 250, 120
        boxes = np.array([[0, 0, 40, 30], [90, 40, 120, 80]], np.float32) / np.float32([160, 90, 160, 90])
        made, moved = augmented(picture, boxes, draw)
        assert made.shape == picture.shape and made.dtype == np.uint8 and moved.dtype == np.float32
        level, top = made.max(2).astype(float), made.max()
        for where in moved:
            if np.isnan(where).any():
                gone += 1
                continue
            x0, y0, x1, y1 = (where * [160, 90, 160, 90]).round().astype(int)
            inside = level[y0:y1, x0:x1]
            seen.append(float((inside > 0.2 * top).mean()))
            assert where.min() >= 0 and where.max() <= 1
    assert np.mean(seen) > 0.85 and 0 < gone < 20


@pytest.mark.slow
def test_it_learns_where_a_mark_lies() -> None:
    """Noise replaces an encoder's tokens. One channel is raised at the left hand's places, another at the right hand's."""
    eye, draw = encoder_of(SMALL, "cpu"), torch.Generator().manual_seed(0)
    rows, columns = eye.grid
    tokens, boxes = torch.randn(300, rows * columns, eye.width, generator=draw), torch.full((300, 2, 4), torch.nan)
    for frame in range(300):
        for hand in range(2):
            if torch.rand((), generator=draw) < 0.3:
                continue
            y, x = int(torch.randint(rows - 1, (), generator=draw)), int(torch.randint(columns - 1, (), generator=draw))
            tokens[frame].view(rows, columns, -1)[y : y + 2, x : x + 2, hand] += 6
            boxes[frame, hand] = box(x / columns, y / rows, (x + 2) / columns, (y + 2) / rows)
    learned = EncodedFrames(tokens[:250].half(), boxes[:250])
    finder = fit(learned, SMALL, eye, Recipe(steps=250))
    config, figures = calibrate(finder, EncodedFrames(tokens[250:].half(), boxes[250:]))
    assert figures["f1"] > 0.8 and figures["overlap"] > 0.6
    assert config.version == eye.version


def test_what_is_found_is_counted_against_the_truth() -> None:
    truth = torch.tensor([[[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.7]], [[torch.nan] * 4, [0.5, 0.5, 0.7, 0.7]]])
    said = torch.tensor([[[0.1, 0.1, 0.3, 0.3], [0.0, 0.0, 0.2, 0.2]], [[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.6]]])
    figures = detection_figures(said, torch.tensor([[True, True], [True, False]]), truth)
    assert figures == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "overlap": 1.0})


def test_a_finder_is_what_was_saved_and_wants_its_encoder(tmp_path: Path) -> None:
    eye = encoder_of(SMALL, "cpu")
    torch.manual_seed(0)
    finder = HandFinder(replace(SMALL, sure=0.01), FinderNet(eye.width, SMALL.hidden, eye.grid), eye)
    finder.save(tmp_path)
    frames = torch.randint(0, 256, (3, 3, 48, 80), dtype=torch.uint8)
    torch.testing.assert_close(load(tmp_path, "cpu")(frames), finder(frames), equal_nan=True)
    assert finder(frames[:0]).shape == (0, 2, 4)
    with pytest.raises(ValueError, match="trained on encoder another, got efficientnet-lite0"):
        HandFinder(replace(SMALL, version="another"), finder.net, eye)


def test_the_shipped_one_finds_hands_on_tables_that_it_has_not_seen() -> None:
    finder = load(device="cpu")
    config, eye = finder.config, encoder_of(finder.config, "cpu")
    for seed in VALIDATION_SEEDS[:2]:
        seen = encode_table(seed, config, eye, distribution=VALIDATION, vary=False)
        boxes, sure = decode(*finder.net(seen.tokens.float()))
        figures = detection_figures(boxes, sure >= config.sure, seen.boxes)
        assert len(seen.boxes) == FRAMES and figures["precision"] > 0.8 and figures["recall"] > 0.85


@pytest.mark.parametrize("name", ["video1", "video2"])
def test_the_shipped_one_finds_a_real_hand_though_it_has_seen_none(data: Path, name: str) -> None:
    clip = data / "ego_touch" / f"{name}.mp4"
    finder, frames = load(device="cpu"), list(read(clip, rate=None, size=(288, 512)))
    boxes = finder(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))
    assert present(boxes)[:, 1].float().mean() > 0.7
    for (of, at), by_eye in BY_EYE.items():
        assert of != name or overlap(boxes[at, 1], box(*by_eye)) > 0.5
