"""`tocsin train`, `evaluate` and `feed` for damage: on small folders, in this process."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from typer.testing import CliRunner

from tocsin.models.damage import domain as module
from tocsin.models.damage.domain import Damage
from tocsin.models.damage.lessons import augmented, drawn
from tocsin.models.damage.model import load
from tocsin.models.damage.network import CLASSES
from tocsin.pipelines.cli.app import app


def pictures(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(1)
    for number in range(count):
        picture, kind, _ = drawn(rng)
        (place := folder / CLASSES[kind]).mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(picture))
    return folder


@pytest.mark.slow
def test_a_model_is_trained_on_pictures_and_drawings_and_judges_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VALIDATION", "USUAL"):
        monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr("tocsin.models.damage.train.Recipe.copies", 1)
    data = pictures(tmp_path / "walls", 6)
    command = ["--set", "mlflow.enabled=false", "train", "damage", "--data", str(data), "--data", "sim", "--json"]
    done = CliRunner().invoke(app, [*command, "--steps", "4", "--drawn", "2", "--out", "model"], catch_exceptions=False)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["model"] == "model" and 0 <= said["seeds"][0]["macro_f1"] <= 1
    model = load(tmp_path / "model", "cpu")
    assert model.config.appearance is not None and model.parameters == 31_362
    command = ["evaluate", "damage", "--data", str(data), "--model", "model", "--force", "--json"]
    told = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert told["counted"]["pictures"] == 6 and told["figures"]["parameters"] == 31_362
    assert told["parts"]["classes"].keys() <= set(CLASSES)
    refused = CliRunner().invoke(app, [*command, "--budget", "2"])
    assert refused.exit_code and "--budget: expected a share from 0 to 1, got 2.0" in str(refused.exception)


def test_a_picture_of_each_class_is_too_few_to_train_on_and_a_dot_is_a_picture(tmp_path: Path) -> None:
    for name in ("crack", "intact"):
        (place := tmp_path / "walls" / name).mkdir(parents=True)
        (place / "0.jpg").write_bytes(simplejpeg.encode_jpeg(np.zeros((1, 1, 3), np.uint8)))
    command = ["--set", "mlflow.enabled=false", "train", "damage", "--data", str(tmp_path / "walls"), "--steps", "1"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code and "expected two pictures or more of a class" in str(refused.exception)
    rng = np.random.default_rng(0)
    assert {augmented(rng, np.zeros((1, 5, 3), np.uint8)).shape[2] for _ in range(5)} == {3}


def test_pictures_of_any_size_videos_and_the_simulation_are_fed_alike(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in ((2, (40, 60)), (10, (30, 30)), (1, (20, 90))):
        file = simplejpeg.encode_jpeg(np.full((*size, 3), 9 * number, np.uint8))
        (folder / f"wall{number}.jpg").write_bytes(file)
    with av.open(str(tmp_path / "film.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for shade in range(10):
            picture = np.full((48, 64, 3), 20 * shade, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode())

    def fed(source: str, most: int | None = None) -> list[tuple[int, ...]]:
        feed = Damage().feed(source, seed=0, rate=None, model=None)
        assert feed.shots is not None and feed.rate == 2 and not feed.live
        return [shot.picture.shape for shot in islice(feed.shots, most)]

    assert fed(str(folder)) == [(20, 90, 3), (40, 60, 3), (30, 30, 3)]
    assert fed(str(tmp_path / "film.mp4")) == [(48, 64, 3)] * 2
    assert fed("sim", 2) == [(360, 640, 3)] * 2
    assert Damage().feed("rtsp://127.0.0.1:1/pier", seed=0, rate=None, model=None).live
