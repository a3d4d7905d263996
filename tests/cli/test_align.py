"""`tocsin align`: two pictures or videos lie over each other, in their own pixels, and status 3 says that nothing is sure."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tocsin.models.alignment.geometry import distance, scaled
from tocsin.models.alignment.simulation.rig import SIZE, Rig
from tocsin.models.vision.video import read
from tocsin.pipelines.cli.align import UNSURE
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.declare.errors import ConfigError

SEED = 3


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A folder with three frames of each camera, those of the first at twice the size. Returns the true homography."""
    monkeypatch.chdir(tmp_path)
    sights = list(Rig(SEED, pairs=3, every=60, start=11))
    for number, sight in enumerate(sights):
        for name, frame in (("light", cv2.resize(sight.first, None, fx=2, fy=2)), ("heat", sight.second)):
            (folder := tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), frame)
    return scaled(sights[0].homography, (2.0, 2.0), (1.0, 1.0))


@pytest.mark.parametrize("pairs", [1, 3])
def test_pictures_and_folders_of_them_are_aligned_in_their_own_pixels(rig: np.ndarray, pairs: int) -> None:
    names = ["light/0.png", "heat/0.png"] if pairs == 1 else ["light", "heat"]
    done = CliRunner().invoke(app, ["align", *names, "--json"], catch_exceptions=False)
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and (said["pairs"], said["confident"]) == (pairs, pairs)
    assert distance(np.array(said["homography"]), rig, (2 * SIZE[0], 2 * SIZE[1])) < 2
    assert said["confidence"] > 0.5 and 0 < said["error"] < 5


def test_a_picture_shows_both_in_squares(rig: np.ndarray) -> None:
    text = CliRunner().invoke(
        app, ["align", "light/0.png", "heat/0.png", "--picture", "both.png"], catch_exceptions=False
    )
    assert "1 of 1 pairs are confident" in text.stdout and len(text.stdout.splitlines()) == 4
    (both,), (first,) = read(Path("both.png"), rate=None, size=None), read(Path("light/0.png"), rate=None, size=None)
    assert both.shape == first.shape
    assert np.array_equal(both[:40, :40], first[:40, :40]) and not np.array_equal(both[:40, 40:80], first[:40, 40:80])


def test_frames_that_have_nothing_in_common_end_with_status_3(rig: np.ndarray) -> None:
    other = next(iter(Rig(99, pairs=1, every=60, start=11)))
    cv2.imwrite("other.png", other.second)
    done = CliRunner().invoke(app, ["align", "light/0.png", "other.png", "--json"])
    assert done.exit_code == UNSURE and json.loads(done.stdout)["confident"] == 0
    assert "no pair is confident" in done.stderr


def test_a_file_that_is_no_clip_is_refused(rig: np.ndarray) -> None:
    done = CliRunner().invoke(app, ["align", "light/0.png", "none.png"])
    assert isinstance(done.exception, ConfigError) and "none.png" in str(done.exception)
