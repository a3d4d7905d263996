"""Stills of textures: the same by their seed, of every kind, with edges that a soft bottom lacks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tocsin.models.surprise.simulation.textures import KINDS, SIZE, texture


def test_a_texture_is_the_same_by_its_seed() -> None:
    still = texture(3)
    assert still.shape == (*SIZE, 3) and still.dtype == np.uint8
    assert np.array_equal(still, texture(3)) and not np.array_equal(still, texture(4))
    assert 15 < still.mean() < 240 and still.std() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_lies_between_two_colours(kind: str) -> None:
    pattern = KINDS[kind](np.random.default_rng(1))
    assert pattern.shape == SIZE and np.isfinite(pattern).all()
    assert -1.0 < pattern.min() < 0.4 and 0.6 < pattern.max() < 2.5


def test_tiles_repeat() -> None:
    pattern = KINDS["tiles"](np.random.default_rng(1))
    spectrum = np.abs(np.fft.fft2(pattern - cv2.blur(pattern, (101, 101))))
    assert spectrum.max() > 30 * np.median(spectrum)
