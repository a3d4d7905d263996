"""Surprise on the command line: feed clips and a live stream, process them, draw contact sheets, evaluate and train."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch
from kafka.consumer.fetcher import ConsumerRecord
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.cli.test_cli import Cli, committed
from tests.cli.test_surprise_sheet import FRAME_HEIGHT, LINE, WIDTH, tocsin
from tests.conftest import Once
from tests.support.cameras import LEVELS, camera
from tests.support.dives import SEEN, SIZE, pan, small_model
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.surprise.model import load as load_model
from tocsin.models.surprise.simulation.scene import Dive
from tocsin.models.vision.encoder import Encoded, Encoder
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.query import results
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.lake.storage import Lake


@pytest.fixture(scope="module")
def weights(once: Once) -> Path:
    return once("surprise-model", small_model)


@pytest.fixture
def settings(kafka: KafkaServer, tmp_path: Path, weights: Path) -> dict[str, str]:
    return {
        "kafka.bootstrap_servers": kafka.bootstrap_servers,
        "lake.path": str(tmp_path / "lake"),
        "mlflow.enabled": "false",
        "mlflow.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "pipelines.surprise.model": str(weights),
        "pipelines.surprise.topic": f"video.{uuid.uuid4().hex[:8]}",
    }


def fed(settings: dict[str, str], *arguments: str) -> tuple[dict[str, Any], list[ConsumerRecord]]:
    """Run `tocsin feed`. Returns its report and the records in the topic."""
    called = tocsin(settings, "feed", "surprise", *arguments, "--json")
    assert not called.why
    kafka = {"bootstrap_servers": settings["kafka.bootstrap_servers"]}
    return called.said[0], list(clients.committed(kafka, [settings["pipelines.surprise.topic"]]))


def film(path: Path, frames: Sequence[np.ndarray], *, rate: int = 10, codec: str = "mpeg4") -> Path:
    """Write a video of frames `[H, W, 3]` uint8 RGB."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def pictures(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04}.png"), frame[..., ::-1])
    return folder


def greys() -> list[np.ndarray]:
    return [np.full((*SIZE, 3), level, np.uint8) for level in LEVELS]


def seen(count: int, **how: Any) -> list[np.ndarray]:
    """Frames of a moving camera, see `tests.support.dives.pan`."""
    return list(pan(count, **how).permute(0, 2, 3, 1).contiguous().numpy())


def facts(records: Sequence[ConsumerRecord]) -> list[dict[str, bytes]]:
    return [dict(record.headers) for record in records]


def levels(records: Sequence[ConsumerRecord]) -> np.ndarray:
    return np.array([simplejpeg.decode_jpeg(record.value).mean() for record in records])


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_a_clip_is_fed_frame_by_frame_with_its_facts_in_headers(
    settings: dict[str, str], tmp_path: Path, kind: str
) -> None:
    source = film(tmp_path / "a.mp4", greys()) if kind == "video" else pictures(tmp_path / "a", greys())
    before = time.time() * 1000
    report, records = fed(settings, "--from", str(source), "--camera", "bow", "--rate", "0", "--partitions", "3")
    assert (report["rows"], report["messages"]) == (len(LEVELS), len(LEVELS)) == (25, len(records))
    assert len({record.partition for record in records}) == 1 and {record.key for record in records} == {b"bow"}
    said = facts(records)
    assert {(s["content-type"], s["camera"]) for s in said} == {(b"image/jpeg", b"bow")}
    assert [int(s["sequence"]) for s in said] == list(range(25))
    times = np.array([int(s["time"]) for s in said])
    assert before <= times[0] <= time.time() * 1000
    assert np.abs(np.diff(times) - 100).max() <= 1
    assert np.abs(levels(records) - LEVELS).max() < 3


def test_a_clip_is_sampled_and_sent_at_the_rate_asked_for(settings: dict[str, str], tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", greys())
    started = time.monotonic()
    report, records = fed(settings, "--from", str(source), "--rate", "5")
    assert time.monotonic() - started > 13 / 5 - 0.3 and report["rows"] == 13
    assert np.abs(levels(records) - LEVELS[::2]).max() < 3
    assert np.abs(np.diff([int(s["time"]) for s in facts(records)]) - 200).max() <= 1


def test_a_simulated_dive_is_fed_as_its_seed_makes_it_and_no_further_than_the_limit(settings: dict[str, str]) -> None:
    report, records = fed(settings, "--from", "sim", "--seed", "3", "--limit", "4", "--rate", "0")
    assert report["rows"] == len(records) == 4
    for record, frame in zip(records, islice(Dive(3, rate=10), 4), strict=True):
        assert np.abs(simplejpeg.decode_jpeg(record.value).astype(int) - frame).mean() < 6


@pytest.mark.parametrize("scheme", ["tcp", "rtsp"])
def test_a_live_stream_is_fed_until_it_ends(settings: dict[str, str], scheme: str) -> None:
    with camera(scheme) as url:
        called = tocsin(settings, "feed", "surprise", "--from", url, "--rate", "0", "--json")
    assert not called.why
    topic = settings["pipelines.surprise.topic"]
    records = list(clients.committed({"bootstrap_servers": settings["kafka.bootstrap_servers"]}, [topic]))
    assert called.said[0]["rows"] == len(records) == len(LEVELS)
    assert np.abs(levels(records) - LEVELS).max() < 3
    said = facts(records)
    assert [int(s["sequence"]) for s in said] == list(range(len(LEVELS)))
    assert (np.diff([int(s["time"]) for s in said]) > 0).all()  # frames of equal time would count as one


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nowhere.mp4", "nowhere.mp4 is not there; expected a video file or a directory of pictures"),
        (".", "has no pictures; expected files .bmp, .jpeg"),
        ("broken.mp4", "expected a video that FFmpeg can decode"),
        ("tcp://127.0.0.1:9", "expected a video that FFmpeg can decode"),
    ],
)
def test_what_is_no_clip_is_one_line(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if source == "broken.mp4":
        Path(source).write_bytes(b"no video" * 100)
    if source == ".":
        Path("readme.txt").touch()
    said = tocsin(settings, "feed", "surprise", "--from", source).why
    assert why in said and "\n" not in said


@pytest.fixture
def running(settings: dict[str, str], tmp_path: Path) -> Cli:
    """`tocsin` in a folder with these settings and a commit every 500 ms."""
    (tmp_path / "tocsin.toml").write_text(
        "".join(f'{name} = "{value}"\n' for name, value in settings.items() if value != "false")
        + 'mlflow.enabled = false\nray.num_cpus = 0\npipelines.surprise.every = "500ms"\n'
    )
    return Cli(tmp_path)


@pytest.mark.slow
def test_clips_are_fed_judged_and_seen(settings: dict[str, str], running: Cli, tmp_path: Path) -> None:
    """Two cameras; a fish enters the view of one at frame 40."""
    for name, frames in (("bow", seen(60, fish=(40, 50), seed=3)), ("stern", seen(60, seed=4, speed=6.0))):
        clip = pictures(tmp_path / name, frames)
        fed(settings, "--from", str(clip), "--camera", name, "--rate", "0", "--partitions", "2")
    with running.run("surprise") as run:
        running.eventually(lambda said: committed(said) == 120, "status", "surprise")
        run.stop()
    rows = results("surprise", lake=Lake(settings["lake.path"])).sort("key", "sequence").collect()
    assert rows.select("key", "sequence").rows() == [(c, n) for c in ("bow", "stern") for n in range(60)]
    raised = [e for e in running.json("alerts", "surprise") if e["type"].endswith("raised")]
    assert [e["subject"] for e in raised] == ["bow"] and 40 <= raised[0]["data"]["sequence"] <= 43

    sheet = tmp_path / "surprise.png"  # the default path
    (said,) = running.json("frames", "surprise")
    image = cv2.imread(str(sheet)).astype(int)
    count = rows["frame"].count()
    assert said["frames"] == count >= 1
    columns = min(count, 4)
    assert image.shape == (-(-count // 4) * (FRAME_HEIGHT + LINE), columns * WIDTH, 3)
    first = rows.filter(pl.col("frame").is_not_null()).row(0, named=True)
    assert first["frame"] == raised[0]["data"]["frame"]
    sent = cv2.imread(str(tmp_path / "bow" / f"{first['sequence']:04}.png"))
    plain = cv2.resize(sent, (WIDTH, FRAME_HEIGHT), interpolation=cv2.INTER_AREA).astype(int)
    changed = np.abs(image[:FRAME_HEIGHT, :WIDTH] - plain).max(2)
    h, w = len(first["map"]), len(first["map"][0])
    y, x = divmod(int(np.argmax(first["map"])), w)
    tall, wide = FRAME_HEIGHT / h, WIDTH / w
    hot = changed[round(y * tall) : round((y + 1) * tall), round(x * wide) : round((x + 1) * wide)]
    assert hot.mean() > 40 and hot.mean() > 2 * np.median(changed)


def recordings(folder: Path, start: float, end: float) -> Path:
    """Write two clips and a table. A fish enters one clip after 4 s, for 1 s; the table puts it at `start` to `end`, in s."""
    pictures(folder / "bow", seen(60, fish=(40, 50), seed=3))
    film(folder / "stern.mp4", seen(60, seed=4, speed=3.0))
    (folder / "novelties.csv").write_text(f"clip,start_s,end_s,kind\nbow,{start},{end},fish\n")
    return folder


@pytest.mark.parametrize(("start", "found"), [(4.0, True), (0.5, False)])
def test_clips_are_evaluated_against_their_table(
    settings: dict[str, str], tmp_path: Path, weights: Path, start: float, found: bool
) -> None:
    data = recordings(tmp_path / "data", start, start + 1)
    called = tocsin(settings, "evaluate", "surprise", "--data", str(data), "--model", str(weights), "--json")
    assert not called.why
    (said,) = called.said
    figures = said["figures"]
    assert {
        "precision",
        "recall",
        "recall_covered",
        "f1",
        "false_per_hour",
        "saved",
        "saved_bytes",
        "parameters",
    } <= figures.keys()
    assert said["counted"] == {"clips": 2, "frames": 118, "seconds": 12.0, "novelties": 1}
    assert list(said["left_out"].values()) == [2], "the first frame of each clip"
    assert said["baselines"]["an alert every 10 s"]["recall"] == 0, "the clips are shorter"
    assert figures["precision"] == figures["recall"] == figures["f1"] == (1.0 if found else 0.0)
    assert figures["false_per_hour"] == pytest.approx(0 if found else 3600 / 12)
    assert 0.7 < figures["saved"] < 0.95 and figures["saved"] < figures["saved_bytes"] < 1  # one frame in five is kept
    bow, stern = said["parts"]["clips"]["bow"], said["parts"]["clips"]["stern.mp4"]
    assert (bow["novelties"], bow["recall"], bow["false_per_hour"]) == (1, float(found), 0 if found else 3600 / 6)
    assert (stern["novelties"], stern["false_per_hour"], stern["saved"]) == (0, 0, 1)
    assert stern["recall"] is stern["precision"] is stern["f1"] is None  # nothing is new, and nothing rang


@pytest.mark.slow
def test_anyone_can_compare_the_model_with_itself_without_motion_and_with_baselines(
    settings: dict[str, str], tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.TRAIN_SEEDS", (100,))
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.Dive", partial(Dive, seconds=4, size=SIZE))
    data = recordings(tmp_path / "data", 4.0, 5.0)
    command = ("evaluate", "surprise", "--data", str(data), "--model", str(weights), "--uncompensated", "--baselines")
    encode, encoded = Encoder.__call__, dict[str, int]()

    def counting(encoder: Encoder, frames: torch.Tensor) -> Encoded:
        encoded[encoder.name] = encoded.get(encoder.name, 0) + len(frames)
        return encode(encoder, frames)

    monkeypatch.setattr(Encoder, "__call__", counting)
    (said,) = tocsin(settings, *command, "--json").said
    figures, beside = said["figures"], said["baselines"]
    assert list(beside) == ["uncompensated", "kNN novelty", "frame difference", "an alert every 10 s"]
    assert figures["false_per_hour_at_recall"] == figures["false_per_hour"]
    assert encoded[load_model(weights).encoder.name] == 120 + 40, (
        "each frame of the clips once, and the dive of the kNN"
    )
    for name in list(beside)[:3]:
        assert set(beside[name]) == {
            "precision", "recall", "recall_covered", "f1", "f2", "false_per_hour", "saved", "false_per_hour_at_recall",
        }  # fmt: skip
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    printed = CliRunner().invoke(app, [*given, *command], catch_exceptions=False).stdout
    assert "uncompensated" in printed and "stern.mp4: 0 novelties, precision n/a, recall n/a" in printed


def test_what_cannot_be_evaluated_is_one_line(settings: dict[str, str], tmp_path: Path, weights: Path) -> None:
    pictures(tmp_path / "data" / "bow", greys()[:3])
    command = ("evaluate", "surprise", "--data", str(tmp_path / "data"), "--model", str(weights), "--json")
    assert "has no novelties.csv; expected one with the columns clip, start_s" in tocsin(settings, *command).why
    (tmp_path / "data" / "novelties.csv").write_text("clip,start_s,end_s,kind\nport,1,2,fish\n")
    assert "line 2: no clip 'port' in" in tocsin(settings, *command).why


@pytest.mark.slow
def test_training_on_clips_registers_a_champion_that_judges(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use small frames, one short dive for training beside the clips, and one for validation."""
    clips = tmp_path / "clips"
    for number in range(2):
        pictures(clips / f"dive{number}", seen(30, seed=number, speed=3.0 + 3 * number))
    monkeypatch.setattr(
        "tocsin.models.surprise.config.EncoderConfig", partial(type(SEEN), height=SIZE[0], width=SIZE[1])
    )
    for name, seed in (("TRAIN_SEEDS", 100), ("VALIDATION_SEEDS", 700)):
        monkeypatch.setattr(f"tocsin.models.surprise.simulation.scene.{name}", (seed,))
    for name, value in (("PANS", 1), ("VALIDATION", 1), ("TEXTURES", 1), ("TOGETHER", 1), ("SECONDS", 4.0)):
        monkeypatch.setattr(f"tocsin.models.surprise.pans.{name}", value)
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.Dive", partial(Dive, seconds=4, size=SIZE))
    given = {**settings, "mlflow.enabled": "true", "pipelines.surprise.model": "surprise@champion"}
    out = tmp_path / "trained"
    command = ("train", "surprise", "--data", "sim", "--data", str(clips), "--steps", "5", "--seed", "0", "--seed", "1")
    called = tocsin(given, *command, "--out", str(out), "--json")
    assert not called.why
    (made,) = called.said
    assert (made["model"], made["name"], made["version"]) == (str(out), "surprise", "1")
    assert [tried["seed"] for tried in made["seeds"]] == [0, 1] and made["seed"] in (0, 1)
    assert all({"f1", "false_per_hour"} <= set(tried) for tried in made["seeds"])

    from mlflow import MlflowClient

    registry = MlflowClient(given["mlflow.tracking_uri"], registry_uri=given["mlflow.tracking_uri"])
    champion = registry.get_model_version_by_alias("surprise", "champion")
    run = registry.get_run(champion.run_id).data
    assert run.params["data"] == f"sim {clips}" and run.params["seed"] == str(made["seed"])
    assert "validation_f1" in run.metrics
    again = tocsin(given, *command[:-2], "--out", str(out), "--json")  # equals the champion on the same clips
    assert not again.why and (again.said[0]["version"], again.said[0]["refused"]) == ("2", None)
    kept = tocsin(given, *command[:-2], "--predictor", str(out), "--out", str(tmp_path / "kept"), "--json")
    assert not kept.why
    one, other = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "kept"))
    same = {name for name, t in one.items() if torch.equal(t, other[name])}
    assert {name for name in one if not name.startswith("triage.")} <= same and same != set(one)
    monkeypatch.undo()  # the champion runs without the patches
    report, records = fed(given, "--from", str(clips / "dive0"), "--rate", "0")
    assert report["rows"] == len(records) == 30
    data = recordings(tmp_path / "data", 4, 5)
    called = tocsin(given, "evaluate", "surprise", "--data", str(data), "--model", "surprise@champion", "--json")
    assert not called.why and called.said[0]["counted"]["novelties"] == 1


def test_training_on_nothing_is_one_line(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.models.surprise.simulation.scene.VALIDATION_SEEDS", ())
    (tmp_path / "empty").mkdir()
    said = tocsin(settings, "train", "surprise", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "m")).why
    assert "expected clips to train on, got none" in said and "\n" not in said
