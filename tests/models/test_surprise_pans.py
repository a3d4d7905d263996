"""Pans over frames of clips as lessons: as many as fit, the same by their seed, with the places of what is new."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.models.test_surprise_composites import textured
from tests.support.dives import SIZE
from tocsin.models.surprise import pans
from tocsin.models.vision.encoder import load as encoder


def test_the_stills_of_a_clip_are_evenly_apart_and_few_are_held(tmp_path: Path) -> None:
    for number in range(97):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((16, 16, 3), 2 * number, np.uint8))
    shades = [int(still[0, 0, 0]) // 2 for still in pans.stills(tmp_path, 5, rate=10)]
    assert len(shades) == 5 and shades[0] == 0 and shades[-1] > 75
    assert max(np.diff(shades)) <= 2 * min(np.diff(shades))
    for number in range(2, 97):
        (tmp_path / f"{number}.png").unlink()
    assert len(pans.stills(tmp_path, 5, rate=10)) == 2


def test_many_clips_have_fewer_pans_each() -> None:
    assert [pans.count(clips) for clips in (0, 1, 6, 12, 60, 500)] == [10, 10, 10, 5, 1, 1]


@pytest.mark.slow
def test_a_lesson_knows_the_places_of_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pans, "SECONDS", 10.0)
    monkeypatch.setattr(pans, "OFTEN", (12, 12))
    torch.set_num_threads(1)
    eye = encoder(size=SIZE, device="cpu", layer="stride8")
    stills = [[textured(180, 320, seed)] for seed in (1, 2)]
    found = list(pans.lessons(stills, 2, eye, rate=10, seed=0))
    assert len(found) == 4 and all(len(clip.tokens) == 100 for clip in found)
    for clip in found:
        assert clip.covered is not None and clip.covered.shape == (100, *eye.grid)
        new = torch.zeros(100, dtype=torch.bool)
        for novelty in clip.novelties:
            new[novelty.first : novelty.last + 1] = True
        assert clip.covered[new].amax((1, 2)).gt(0.3).float().mean() > 0.5 or not clip.novelties
    assert any(clip.novelties for clip in found)
    again, other = (next(pans.lessons(stills, 2, eye, rate=10, seed=seed)) for seed in (0, 1))
    assert torch.equal(again.tokens, found[0].tokens) and not torch.equal(other.tokens, found[0].tokens)
