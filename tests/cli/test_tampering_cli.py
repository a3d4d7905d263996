"""`tocsin train`, `evaluate` and `feed` for tampering: on small folders, in this process."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.cli.test_surprise_cli import pictures
from tocsin.models.tampering import domain as module
from tocsin.models.tampering.domain import Tampering
from tocsin.models.tampering.model import load
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.pipelines.cli.app import app


def cameras(folder: Path, count: int = 2, frames: int = 75) -> Path:
    """Clips of simulated cameras, in a folder below."""
    for number in range(count):
        film = Camera(seed=20 + number, frames=frames, size=(90, 160), things=1 + number)
        pictures(folder / "site" / f"gate{number}", list(film))
    return folder


@pytest.mark.slow
def test_a_model_is_trained_on_attacks_and_judges_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = cameras(tmp_path / "cameras")
    command = ["--set", "mlflow.enabled=false", "train", "tampering", "--data", str(data), "--data", "sim", "--json"]
    done = CliRunner().invoke(
        app, [*command, "--steps", "4", "--series", "2", "--out", "model"], catch_exceptions=False
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["model"] == "model" and 0 <= said["seeds"][0]["auroc"] <= 1
    model = load(tmp_path / "model")
    command = ["evaluate", "tampering", "--data", str(data), "--model", "model", "--attacks", "2", "--json"]
    told = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert told["counted"] == {"clips": 2, "attacks": 4, "frames": 6 * 75}
    assert told["figures"]["parameters"] == model.parameters
    assert told["parts"]["kinds"].keys() == {"frozen", "loop", "splice", "reencoded"}
    assert told["baselines"].keys() == {"hashes", "frame differences", "blur"}
    monkeypatch.setattr(module, "CAMERAS", 1)
    command = ["evaluate", "tampering", "--data", "sim", "--model", "model", "--attacks", "1", "--json"]
    assert json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)["counted"]["clips"] == 1


def test_clips_that_are_too_short_are_refused_in_one_line(tmp_path: Path) -> None:
    data = cameras(tmp_path / "cameras", count=1, frames=10)
    refused = CliRunner().invoke(app, ["evaluate", "tampering", "--data", str(data)])
    assert refused.exit_code and "expected clips of at least 65 frames at 10 a second, got 1 shorter ones" in str(
        refused.exception
    )
    missing = CliRunner().invoke(app, ["evaluate", "tampering", "--data", str(tmp_path / "nothing")])
    assert missing.exit_code and "nothing" in str(missing.exception)


def test_clips_that_are_too_short_to_train_on_and_frames_too_small_to_attack_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "short", [np.zeros((20, 30, 3), np.uint8)] * 3)
    pictures(tmp_path / "dot", [np.zeros((1, 1, 3), np.uint8)] * 66)
    lines = {
        "train tampering --data short": "expected a clip of 70 frames or more, got none; add sim",
        "evaluate tampering --data dot": "dot: expected frames of 16 x 16 pixels or more, got 1 x 1",
    }
    for words, line in lines.items():
        command = [str(tmp_path / word) if word in ("short", "dot") else word for word in words.split()]
        refused = CliRunner().invoke(app, ["--set", "mlflow.enabled=false", *command])
        assert refused.exit_code and line in str(refused.exception)


def test_a_camera_that_changes_its_size_is_judged_at_its_first(tmp_path: Path) -> None:
    sizes = ((60, 80), (40, 100))
    rng = np.random.default_rng(0)
    pictures(tmp_path / "clip", [rng.integers(0, 255, (*sizes[n % 2], 3), np.uint8) for n in range(66)])
    (recording,) = module._recordings(str(tmp_path / "clip"))
    assert {frame.shape for frame in recording.frames} == {(60, 80, 3)}


def test_pictures_and_the_simulation_are_fed_alike(tmp_path: Path) -> None:
    cameras(tmp_path, count=1, frames=3)
    feed = Tampering(lambda *_: None).feed(str(tmp_path / "site" / "gate0"), seed=0, rate=None, model=None)  # type: ignore[arg-type, return-value]
    assert feed.shots is not None and feed.rate == 10 and not feed.live
    assert [shot.picture.shape for shot in feed.shots] == [(90, 160, 3)] * 3
    sim = Tampering(lambda *_: None).feed("sim", seed=1, rate=4, model=None)  # type: ignore[arg-type, return-value]
    assert sim.shots is not None and sim.rate == 4
    assert [shot.picture.shape for shot in islice(sim.shots, 2)] == [(270, 480, 3)] * 2
    live = Tampering(lambda *_: None).feed("rtsp://127.0.0.1:1/gate", seed=0, rate=None, model=None)  # type: ignore[arg-type, return-value]
    assert live.live
