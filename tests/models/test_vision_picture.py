"""A picture is decoded whole and with its file's orientation, or refused, on every input path."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.models.test_vision_video import film
from tests.support.codec_samples import record
from tocsin.models.vision import picture
from tocsin.models.vision.video import read
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.jpeg import frame_fields, readings

SCHEMA = pa.schema(
    [pa.field("camera", pa.string(), nullable=False, metadata={"from": "header:camera"}), *frame_fields(32, 48)]
)
Pixels = NDArray[np.uint8]


def seen(height: int = 32, width: int = 48) -> Pixels:
    """A picture with four different corners."""
    corners = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_NEAREST)


def stored(orientation: int, kind: str = "JPEG") -> bytes:
    """A file that shows `seen` once its EXIF orientation is applied."""
    back = {5: 5, 6: 8, 8: 6, 7: 7}.get(orientation, orientation)
    image = Image.fromarray(picture.TURNS.get(back, picture.Turn())(seen()))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file := io.BytesIO(), kind, exif=exif.tobytes(), quality=95, lossless=True)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert _like(np.asarray(shown), seen()), "the test's own file"
    return file.getvalue()


def _like(a: Pixels, b: Pixels) -> bool:
    return a.shape == b.shape and bool(np.abs(a.astype(int) - b).mean() < 12)


def _by_a_folder(file: bytes, folder: Path) -> Pixels:
    (folder / "a.jpg").write_bytes(file)
    (frame,) = read(folder, size=None)
    return frame


def _by_its_path(file: bytes, folder: Path) -> Pixels:
    (folder / "a.JPG").write_bytes(file)
    (frame,) = read(folder / "a.JPG", size=(32, 48))
    return frame


def _by_a_message(file: bytes, folder: Path) -> Pixels:
    headers = [("camera", b"a"), ("content-type", b"image/jpeg")]
    batch, dead = Codec(topic="t", schema=SCHEMA).decode([record(file, 0, headers)])
    if dead:
        assert dead[0].error == "BadFrame"
        raise ValueError(dead[0].message)
    return np.frombuffer(batch["pixels"][0].as_py(), np.uint8).reshape(32, 48, 3)


def _by_a_claim_check(file: bytes, folder: Path) -> Pixels:
    (folder / "a.jpg").write_bytes(file)
    schema = pa.schema([SCHEMA.field("camera"), *frame_fields(32, 48, roots=[str(folder)])])
    headers = [("camera", b"a"), ("frame-uri", f"{folder}/a.jpg".encode())]
    headers.append(("frame-sha256", hashlib.sha256(file).hexdigest().encode()))
    batch, dead = Codec(topic="t", schema=schema).decode([record(None, 0, headers)])
    if dead:
        raise ValueError(dead[0].message)
    return np.frombuffer(batch["pixels"][0].as_py(), np.uint8).reshape(32, 48, 3)


def _by_replay(file: bytes, folder: Path) -> Pixels:
    from tocsin.pipelines.runtime.formats.rows import RejectedError

    try:
        table = readings(SCHEMA, [file], [{"camera": "a"}])
    except RejectedError as reason:
        raise ValueError(str(reason)) from None
    return np.frombuffer(table["pixels"][0].as_py(), np.uint8).reshape(32, 48, 3)


WAYS = [_by_a_folder, _by_its_path, _by_a_message, _by_a_claim_check, _by_replay]
Way = Callable[[bytes, Path], Pixels]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_upright_whichever_way_it_comes(orientation: int, way: Way, tmp_path: Path) -> None:
    assert _like(way(stored(orientation), tmp_path), seen())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [3, 200, 0.5, 0.9, -1])
def test_a_jpeg_that_is_cut_off_is_refused_whichever_way_it_comes(cut: float, way: Way, tmp_path: Path) -> None:
    file = stored(6)
    with pytest.raises(ValueError, match="expected a whole JPEG, got"):
        way(file[: int(cut * len(file)) if isinstance(cut, float) else int(cut)], tmp_path)


def test_the_file_of_a_folder_that_is_refused_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(stored(1))
    (tmp_path / "2.jpg").write_bytes(stored(1)[:400])
    frames = read(tmp_path, size=None)
    assert _like(next(frames), seen())
    with pytest.raises(
        ValueError, match=r"2\.jpg: expected a whole JPEG, got 400 bytes: .*; remove it from the folder"
    ):
        next(frames)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_other_pictures_are_upright_too(kind: str, orientation: int) -> None:
    assert _like(picture.decode(stored(orientation, kind)), seen())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_other_pictures_that_are_cut_off_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), kind)
    assert picture.decode(file.getvalue()).shape == (32, 48, 3)
    with pytest.raises(ValueError, match="expected a whole JPEG, PNG, BMP or WebP, got"):
        picture.decode(file.getvalue()[: int(share * len(file.getvalue()))])


def test_what_is_too_large_or_no_picture_is_refused() -> None:
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ValueError, match="expected at most 1000 pixels, got 48 x 32"):
            picture.decode(stored(1, kind), max_pixels=1000)
    for junk in (b"", b"GIF89a" + bytes(100), b"\xff\xd8" + bytes(100)):
        with pytest.raises(ValueError, match="expected a whole JPEG"):
            picture.decode(junk)


def test_grey_palettes_depths_and_transparency_are_seen_as_they_are() -> None:
    deep = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    for image, wanted in (
        (Image.fromarray(deep), np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)),
        (Image.fromarray(seen()).convert("P", palette=Image.Palette.ADAPTIVE), seen()),
        (Image.fromarray(np.dstack([seen(), np.full((32, 48), 255, np.uint8)])), seen()),
        (Image.fromarray(seen()[..., 0]), np.repeat(seen()[..., :1], 3, 2)),
    ):
        image.save(file := io.BytesIO(), "PNG")
        assert _like(picture.decode(file.getvalue()), wanted), image.mode


def test_exif_that_is_damaged_or_says_nothing_known_leaves_a_jpeg_as_it_is() -> None:
    file = stored(6)
    at = file.index(b"Exif\0\0") + 6
    for damaged in (b"\xff" * 8, b"II*\0\xff\xff\xff\xff"):
        assert picture.decode(file[:at] + damaged + file[at + 8 :]).shape == (48, 32, 3)
    image = Image.fromarray(seen())
    for orientation in (0, 9, 65535):
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(out := io.BytesIO(), "JPEG", exif=exif.tobytes(), quality=95)
        assert _like(picture.decode(out.getvalue()), seen())


@pytest.mark.parametrize("turn", [picture.Turn(), *picture.TURNS.values()])
def test_a_video_is_upright(turn: picture.Turn, tmp_path: Path) -> None:
    """As with phones, the file's display matrix says how to turn its frames."""
    import av

    wanted = seen(64, 96)
    back = picture.Turn(turn.swap, *((turn.rows, turn.columns) if turn.swap else (turn.columns, turn.rows)))
    raw = back(wanted)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.height, stream.width), stream.pix_fmt, stream.bit_rate = raw.shape[:2], "yuv420p", 8_000_000
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(raw, format="rgb24")))
        container.mux(stream.encode(None))
    across, down = (-1 if turn.columns else 1), (-1 if turn.rows else 1)
    matrix = (0, down, 0, across, 0, 0) if turn.swap else (across, 0, 0, 0, down, 0)
    one = 1 << 16
    plain = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    file = path.read_bytes()
    at = file.index(plain, file.index(b"tkhd"))
    told = struct.pack(">9i", *(one * x for x in matrix), 0, 0, 1 << 30)
    path.write_bytes(file[:at] + told + file[at + len(plain) :])
    frames = list(read(path, rate=None, size=None))
    assert len(frames) == 3 and all(_like(frame, wanted) for frame in frames)


def test_a_video_whose_frames_say_what_pyav_does_not_know_is_turned_by_its_angle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tocsin.models.vision import video

    monkeypatch.setattr(video, "_display_matrix", lambda frame: None)
    path = film(tmp_path / "a.mp4")
    file = path.read_bytes()
    one = 1 << 16
    plain = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = file.index(plain, file.index(b"tkhd"))
    path.write_bytes(file[:at] + struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30) + file[at + 36 :])
    assert next(read(path, rate=None, size=None)).shape == (64, 48, 3)
