"""How frames look: a camera that is dark, covered, blinded or out of focus is outside what is usual, and murky water is not."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.models.test_vision_upright import scaled
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.model import SHIPPED as DIVES
from tocsin.models.surprise.simulation.scene import VALIDATION_SEEDS, Dive
from tocsin.models.touch.config import TouchConfig
from tocsin.models.touch.model import SHIPPED as TABLE
from tocsin.models.touch.simulation.scene import VALIDATION_SEEDS as TABLES
from tocsin.models.touch.simulation.scene import Scene
from tocsin.models.vision.appearance import DARK, FLAT, STATISTICS, UNITS, UPRIGHT, Appearance, Eye

Picture = NDArray[np.uint8]
RNG = np.random.default_rng(0)


def noisy(picture: NDArray[np.floating], sigma: float) -> Picture:
    return np.clip(picture + RNG.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def blurred(picture: Picture, share: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), picture.shape[1] * share), np.uint8)


UNLIKE = {
    "black": ("highlights", lambda p: p * 0),
    "night": ("highlights", lambda p: noisy(p * 0.03, 3)),
    "blinded": ("shadows", lambda p: noisy(p * 0.1 + 230, 1)),
    "covered": ("sharpness", lambda p: noisy(blurred(p, 0.2) * 0.3, 0.5)),
    "out of focus": ("sharpness", lambda p: blurred(p, 0.05)),
}
MURK = np.array([40, 95, 90])


@pytest.fixture(scope="module", params=["dives", "table"])
def scene(request: pytest.FixtureRequest) -> tuple[Eye, Picture]:
    torch.set_num_threads(1)
    if request.param == "dives":
        return Eye(SurpriseConfig.load(DIVES).appearance), next(iter(Dive(VALIDATION_SEEDS[0])))
    return Eye(TouchConfig.load(TABLE).appearance), next(iter(Scene(TABLES[0]))).picture


def test_a_frame_of_a_simulated_scene_is_usual(scene: tuple[Eye, Picture]) -> None:
    eye, picture = scene
    assert (eye.excess(eye.measure(picture)) < 0).all()


@pytest.mark.parametrize("what", UNLIKE)
def test_a_camera_that_shows_nothing_is_not(scene: tuple[Eye, Picture], what: str) -> None:
    eye, picture = scene
    name, spoil = UNLIKE[what]
    excess = eye.excess(eye.measure(spoil(picture)))
    assert excess[STATISTICS.index(name)] > 0, dict(zip(STATISTICS, excess.tolist(), strict=True))


def test_murky_water_is_usual() -> None:
    eye = Eye(SurpriseConfig.load(DIVES).appearance)
    for seed in VALIDATION_SEEDS[:3]:
        picture = next(iter(Dive(seed)))
        murky = noisy(blurred(picture, 1 / 400) * 0.22 + MURK * 0.78, 1.5)
        excess = eye.excess(eye.measure(murky))
        assert (excess[:-1] < 0).all(), dict(zip(STATISTICS, excess.tolist(), strict=True))


def test_the_shape_is_that_of_the_file_as_it_is_shown() -> None:
    from PIL import Image

    eye, picture = Eye(Appearance(aspect=(1.2, 2.7))), np.full((90, 160, 3), 128, np.uint8)
    at = STATISTICS.index("aspect")
    for orientation, aspect, excess in ((1, 160 / 90, -1.0), (6, 90 / 160, 1.0)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(picture).save(file := io.BytesIO(), "JPEG", exif=exif)
        values = eye.measure(picture, file.getvalue())
        assert values[at] == pytest.approx(aspect)
        assert eye.excess(values)[at] == excess


def test_ranges_hold_the_training_recordings_with_a_margin() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = torch.tensor([180.0, 40, 140, 1.5, 16 / 9, 0.5])
    recordings = [usual + torch.randn(50, 6, generator=generator) * torch.tensor(UNITS) * 0.3 for _ in range(4)]
    recordings[1][:, 4] = torch.nan  # not known of one
    fitted = Appearance.fit(recordings)
    assert all((fitted.excess(values) < 0).all() for values in recordings[0])
    assert fitted.highlights[0] == pytest.approx(180 / 4, abs=3) and fitted.highlights[1] is None
    assert fitted.upright == (UPRIGHT, None)
    dark = Appearance.fit([usual * torch.tensor([0.1, 0, 0.1, 1, 1, -1]) + torch.zeros(5, 6)])
    assert (dark.highlights[0], dark.contrast[0]) == (DARK, FLAT)
    assert dark.upright[0] == pytest.approx(-0.6), "a camera that hangs upside down in training may do so"


def test_what_is_unusual_is_said_with_its_value_and_its_range() -> None:
    appearance = Appearance(highlights=(20, None), shadows=(None, 172.5), sharpness=(-0.45, 3.22))
    said = [appearance.said(STATISTICS.index(name), 7.4321) for name in ("highlights", "shadows", "sharpness")]
    assert said == [
        "highlights 7.4, usually at least 20",
        "shadows 7.4, usually at most 172.5",
        "sharpness 7.4, usually -0.45 to 3.22",
    ]
    values = torch.tensor([torch.nan, 180.0, 0, 9, 9, -9])
    assert appearance.excess(values).tolist()[1:] == pytest.approx([7.5 / 20, -1, 1, -1, -1])
    assert appearance.excess(values)[0].isnan()


@pytest.mark.parametrize("config", [SurpriseConfig, TouchConfig])
def test_a_config_keeps_them_and_an_older_one_knows_none(
    config: type[SurpriseConfig] | type[TouchConfig], tmp_path: Path
) -> None:
    appearance = Appearance(highlights=(20, None), upright=(-0.25, None))
    config(appearance=appearance).save(tmp_path)
    assert config.load(tmp_path).appearance == appearance
    config().save(tmp_path)
    assert config.load(tmp_path).appearance is None


def test_a_picture_of_another_size_measures_the_same() -> None:
    picture = next(iter(Dive(VALIDATION_SEEDS[1])))
    eye = Eye()
    assert eye.measure(picture)[:4].tolist() == pytest.approx(eye.measure(scaled(picture))[:4].tolist(), rel=0.02)
