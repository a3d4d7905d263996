"""The alignment model: outlines that an inversion leaves alone, unseen scenes, confidence, training, recorded pairs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tocsin.models.alignment import evaluate
from tocsin.models.alignment.baselines import BASELINES
from tocsin.models.alignment.config import AlignmentConfig
from tocsin.models.alignment.geometry import distance, moved
from tocsin.models.alignment.model import AlignmentModel, grey, greys, load
from tocsin.models.alignment.network import FINE, Network, NetworkConfig, brightness, outlines
from tocsin.models.alignment.simulation.pairs import pair
from tocsin.models.alignment.simulation.scene import scene
from tocsin.models.alignment.simulation.sensors import SENSORS
from tocsin.models.alignment.train import Recipe, fit
from tocsin.models.alignment.trust import logistic, trusted

SMALL = NetworkConfig(width=16, layers=1, heads=2, radius=2)


@pytest.fixture(scope="module")
def model() -> AlignmentModel:
    torch.set_num_threads(1)  # two threads on busy cores are far slower
    return load()


def test_outlines_are_the_same_for_the_negative_and_brightness_is_not() -> None:
    frame = torch.from_numpy(scene(1).mean(2)[:128, :160]).view(1, 1, 128, 160)
    torch.testing.assert_close(outlines(frame), outlines(255 - frame), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(outlines(frame), outlines(frame + 20), atol=1e-3, rtol=1e-3)
    assert outlines(frame).shape == (1, 6, 64, 80)
    assert not torch.allclose(brightness(frame), brightness(255 - frame), atol=0.5)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene(seed) for seed in range(90_000, 90_004)]


@pytest.mark.parametrize(("gap", "limit"), [("same", 1.5), ("inverted", 3.0), ("heat", 5.0)])
def test_unseen_scenes_are_aligned_where_cameras_differ(
    model: AlignmentModel, scenes: list[np.ndarray], gap: str, limit: float
) -> None:
    rng = np.random.default_rng(7)
    errors = []
    for still in scenes:
        p = pair(still, model.size, rng, second=SENSORS[gap], reach=0.4)
        found = model.align(p.first, p.second)
        errors.append(distance(found.homography, p.homography, model.size))
    assert np.median(errors) < limit


def test_the_flow_says_where_places_are_and_how_sure_that_is(model: AlignmentModel, scenes: list[np.ndarray]) -> None:
    p = pair(scenes[0], model.size, np.random.default_rng(1), second=SENSORS["same"], reach=0.4)
    found = model.align(p.first, p.second)
    rows, columns = found.widths.shape
    assert (rows * FINE, columns * FINE) == model.size
    y, x = np.mgrid[:rows, :columns] * FINE + (FINE - 1) / 2
    places = np.stack([x, y], -1)
    off = np.linalg.norm(places + found.flow.transpose(1, 2, 0) - moved(p.homography, places), axis=-1)
    sure = found.widths < np.quantile(found.widths, 0.3)
    assert np.median(off[sure]) < 1.5 and np.median(off[sure]) < np.median(off[~sure])


@pytest.mark.slow
def test_frames_of_different_scenes_and_blank_ones_have_no_confidence(
    model: AlignmentModel, scenes: list[np.ndarray]
) -> None:
    least, blank = model.config.watch.confident, np.full(model.size, 128, np.uint8)
    for first, second in evaluate.strangers(range(91_000, 91_002), model.size, count=2):
        assert model.align(first, second).confidence < least
    p = pair(scenes[1], model.size, np.random.default_rng(2))
    assert model.align(p.first, blank).confidence == model.align(blank, blank // 2).confidence == 0


def test_a_model_is_saved_and_loaded_whole(model: AlignmentModel, scenes: list[np.ndarray], tmp_path: Path) -> None:
    model.save(tmp_path)
    p = pair(scenes[2], model.size, np.random.default_rng(3))
    again, found = (m.align(p.first, p.second) for m in (load(tmp_path), model))
    assert np.array_equal(again.homography, found.homography) and again.confidence == found.confidence
    assert (tmp_path / "model.safetensors").stat().st_size < 5_000_000
    (tmp_path / "config.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match="expected the config of an alignment model"):
        AlignmentConfig.load(tmp_path)


def test_frames_are_of_a_multiple_of_8_pixels() -> None:
    with pytest.raises(ValueError, match="expected frames of a multiple of 8 pixels, got 100 x 160"):
        AlignmentConfig(height=100, width=160)


def test_colours_become_grey_as_opencv_does() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    assert np.array_equal(greys(pixels)["grey"][0].numpy(), grey(picture, (48, 64)))


def test_training_lowers_the_loss_and_a_seed_gives_the_same_weights() -> None:
    torch.set_num_threads(1)
    losses: list[float] = []
    stills = [scene(seed) for seed in range(2)]
    recipe = Recipe(steps=16, pairs=2, size=(64, 80))
    one = fit(stills, SMALL, recipe, seed=1, progress=lambda _, loss: losses.append(loss))
    other = fit(stills, SMALL, Recipe(steps=2, pairs=2, size=(64, 80)), seed=1)
    again = fit(stills, SMALL, Recipe(steps=2, pairs=2, size=(64, 80)), seed=1)
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4])
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), again.parameters(), strict=True))
    assert isinstance(one, Network)


def test_a_logistic_function_says_how_often_it_is_right() -> None:
    rng = np.random.default_rng(0)
    known = np.stack([rng.normal(size=4000), np.ones(4000)], 1)
    chance = 1 / (1 + np.exp(-(2 * known[:, 0] - 1)))
    weights = logistic(known, (rng.random(4000) < chance).astype(float))
    assert weights == pytest.approx([2, -1], abs=0.2)


def test_without_any_alignment_the_confidence_stays(model: AlignmentModel) -> None:
    assert trusted(model, [], []) is model


@pytest.mark.slow
def test_confidence_is_fitted_on_pairs_and_strangers(model: AlignmentModel) -> None:
    cases = list(evaluate.simulated(range(92_000, 92_002), model.size, each=1))[:6:2]
    strange = list(evaluate.strangers(range(92_000, 92_002), model.size, count=2))
    fitted = trusted(model, cases, strange)
    sure = [fitted.align(case.first, case.second).confidence for case in cases]
    unsure = [fitted.align(*pair_).confidence for pair_ in strange]
    assert np.mean(sure) > np.mean(unsure) + 0.3


def test_recorded_pairs_are_read_with_their_maps(tmp_path: Path) -> None:
    p = pair(scene(90_040), (240, 320), np.random.default_rng(4), second=SENSORS["same"], first=SENSORS["same"])
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(p.first, (640, 480)))
    cv2.imwrite(str(tmp_path / "b.png"), p.second)
    (tmp_path / "pairs.csv").write_text(
        "first,second,a11,a12,a13,a21,a22,a23,kind\na.png,b.png,0.5,0,-0.25,0,0.5,-0.25,k\n"
    )
    (case,) = evaluate.recorded(tmp_path, (240, 320))
    assert case.kind == "k" and case.first.shape == case.second.shape == (240, 320)
    assert distance(case.homography, np.eye(3), (240, 320)) < 1e-6  # the map is that of the sizes alone
    (tmp_path / "pairs.csv").write_text("first,second\na.png,gone.png\n")
    with pytest.raises(ValueError, match=r"gone\.png"):
        list(evaluate.recorded(tmp_path, (240, 320)))
    (tmp_path / "pairs.csv").write_text(f"first,second,{','.join(evaluate.AFFINE)}\na.png,b.png,1,0,0,1,0,0\n")
    with pytest.raises(
        ValueError, match="line 2: expected a homography that maps the whole frame, got 1 0 0 1 0 0 0 0 1"
    ):
        list(evaluate.recorded(tmp_path, (240, 320)))
    with pytest.raises(ValueError, match=r"no pairs\.csv"):
        list(evaluate.recorded(tmp_path / "none", (240, 320)))


@pytest.mark.parametrize("name", BASELINES)
def test_each_baseline_finds_a_shift_of_the_same_camera(name: str) -> None:
    frame = scene(5).mean(2).astype(np.uint8)
    first, second = np.ascontiguousarray(frame[40:280, 40:360]), np.ascontiguousarray(frame[34:274, 45:365])
    found = BASELINES[name](first, second)
    assert found is not None
    shift = np.array([[1, 0, -5], [0, 1, 6], [0, 0, 1]], float)
    assert distance(found, shift, (240, 320)) < 1.0


def test_a_baseline_that_sees_nothing_finds_nothing() -> None:
    blank = np.full((240, 320), 99, np.uint8)
    assert [BASELINES[name](blank, blank) for name in ("SIFT + RANSAC", "ORB + RANSAC")] == [None, None]
