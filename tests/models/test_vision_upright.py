"""Which way is up: the sign turns with the picture, and most recordings that the head has not seen are told apart."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import ROOT
from tocsin.models.surprise.simulation.scene import TEST_SEEDS as DIVES
from tocsin.models.surprise.simulation.scene import Dive
from tocsin.models.touch.simulation.scene import TEST_SEEDS as TABLES
from tocsin.models.touch.simulation.scene import Scene
from tocsin.models.vision import upright
from tocsin.models.vision.appearance import UPRIGHT
from tocsin.models.vision.upright import SIZE, Upright, load_upright, store
from tocsin.models.vision.upright_train import Recipe, fit, left_out
from tocsin.models.vision.video import read

DATA = Path(os.environ.get("TOCSIN_DATA", ROOT.parent / "shared" / "data"))
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def head() -> Upright:
    torch.set_num_threads(1)
    return load_upright("cpu")


def scaled(picture: Picture) -> Picture:
    return np.asarray(cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def mean(head: Upright, pictures: list[Picture]) -> float:
    return float(np.mean([head(scaled(picture)) for picture in pictures]))


def test_a_picture_turned_by_half_has_the_opposite_sign(head: Upright) -> None:
    picture = scaled(next(iter(Dive(DIVES[0]))))
    turned = np.ascontiguousarray(picture[::-1, ::-1])
    assert head(picture) == pytest.approx(-head(turned), abs=1e-5)
    assert head(picture) == head(picture)


def test_scenes_that_it_has_not_seen_are_upright(head: Upright) -> None:
    dives = [mean(head, list(islice(Dive(seed, rate=0.2), 4))) for seed in DIVES[:4]]
    tables = [mean(head, [shot.picture for shot in islice(Scene(seed, rate=0.5, seconds=8), 4)]) for seed in TABLES[:4]]
    assert min(dives) > 0 and min(tables) > 0


@pytest.mark.parametrize("clip", ["underwater_tank/fish.mp4", "ego_homes/trash.mp4", "ego_homes/folding_clothes.mp4"])
def test_a_real_recording_that_it_has_not_seen_is_told_from_one_upside_down(head: Upright, clip: str) -> None:
    if not (DATA / clip).exists():
        pytest.skip(f"needs {clip} in {DATA}")
    frames = list(read(DATA / clip, rate=None, size=SIZE))[::30]
    assert mean(head, frames) > -UPRIGHT, "and turned it is below UPRIGHT"


def test_a_head_learns_what_upright_clips_have_in_common_and_is_judged_without_the_folder() -> None:
    torch.manual_seed(0)
    up = torch.tensor([1.0, 0, 0])
    clips = {f"{folder}/{n}": up + 2 * torch.randn(30, 3) for folder in "abc" for n in range(3)}
    weight = fit(clips)
    assert torch.cat(list(clips.values())).matmul(weight).square().mean() == pytest.approx(1, abs=1e-4)
    assert weight[0] > 4 * weight[1:].abs().max()
    folders = {name: name[0] for name in clips}
    assert all(scores.mean() > 0 for scores in left_out(clips, list(clips), folders).values())
    clips |= {
        f"d/{n}": torch.tensor([-3.0, 0, 1]) + torch.randn(30, 3) for n in range(3)
    }  # only alone do they look upright
    scores = left_out(clips, ["d/0"], {**folders, "d/0": "d", "d/1": "d", "d/2": "d"})
    assert scores["d/0"].mean() < 0, "a clip of the same folder tells nothing of it"
    assert Recipe().real > 1


def test_a_head_of_another_encoder_is_refused(head: Upright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = upright.load(size=SIZE, device="cpu", layer=upright.LAYER)
    monkeypatch.setattr(upright, "WEIGHTS", tmp_path / "head.safetensors")
    store(torch.ones(3 * encoder.width), encoder, upright.WEIGHTS)
    assert load_upright("cpu")
    monkeypatch.setattr(type(encoder), "version", property(lambda self: "another"))
    with pytest.raises(ValueError, match=f"expected a head for encoder another, got one for {encoder_version()}"):
        load_upright("cpu")


def encoder_version() -> str:
    from tocsin.models.vision.efficientnet import SHA256

    return SHA256[:12]
