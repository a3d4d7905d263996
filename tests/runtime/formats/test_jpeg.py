"""Frames as records: which are decoded, which are refused before or during decoding, and where a claim check may point."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from PIL import Image
from pyarrow import fs

from tests.support.codec_samples import record
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats import jpeg
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.jpeg import frame_fields

HEIGHT, WIDTH = 36, 64
FACTS = [
    pa.field("camera", pa.string(), nullable=False, metadata={"from": "header:camera"}),
    pa.field("sequence", pa.int64(), nullable=False, metadata={"from": "header:sequence"}),
    pa.field("time", pa.timestamp("ms", tz="UTC"), metadata={"from": "header:time"}),
]
HEADERS = [("camera", b"stern"), ("sequence", b"7"), ("time", b"2026-01-31T12:00:00.5+01:00")]
TYPE = [("content-type", b"image/jpeg")]


def codec(*roots: str, **more: Any) -> Codec:
    return Codec(topic="video", schema=pa.schema([*FACTS, *frame_fields(HEIGHT, WIDTH, roots=roots)]), **more)


def picture(height: int = 72, width: int = 128, seed: int = 0) -> np.ndarray:
    """Return an image of soft colours, which JPEG preserves well."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def picture_bytes(image: np.ndarray | None = None, **options: Any) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture() if image is None else image), quality=95, **options)


def letters(made: Codec, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> list[tuple[str, str]]:
    """Return why a message between two good ones is refused. Checks that the good ones are decoded."""
    good = record(picture_bytes(), 0, [*TYPE, *HEADERS])
    bad = record(value, 1, [*headers, *HEADERS])
    batch, dead = made.decode([good, bad, record(picture_bytes(), 2, [*TYPE, *HEADERS])])
    assert batch["_offset"].to_pylist() == [o for o in range(3) if o not in {d.offset for d in dead}]
    assert all(d.offset == 1 and d.value == value for d in dead)
    return [(d.error, d.message) for d in dead]


def test_a_frame_is_a_row_with_its_facts_its_file_and_its_pixels_scaled() -> None:
    image = picture()
    batch, dead = codec().decode([record(picture_bytes(image), 5, [*TYPE, *HEADERS])])
    assert not dead
    (row,) = batch.to_pylist()
    assert (row["camera"], row["sequence"], row["time"].isoformat()) == ("stern", 7, "2026-01-31T11:00:00.500000+00:00")
    assert row["jpeg"] == picture_bytes(image)
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(HEIGHT, WIDTH, 3)
    wanted = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("kind", [b"image/jpeg", b"IMAGE/JPEG; quality=90", b"image/jpg", b"Image/Jpg", b"image/pjpeg"])
def test_a_frame_is_known_by_any_name_of_jpeg_and_its_facts_by_headers_in_any_case(kind: bytes) -> None:
    headers = [("Content-Type", kind), ("Camera", b"bow"), ("SEQUENCE", b"8"), ("Time", b"2026-01-31T12:00:00Z")]
    batch, dead = codec().decode([record(picture_bytes(), 5, headers)])
    assert not dead
    assert (batch["camera"].to_pylist(), batch["sequence"].to_pylist()) == (["bow"], [8])


@pytest.mark.parametrize("time", [b"1767225600000000", b"9223372036854775807", b"2200-01-01T00:00:00Z"])
def test_a_frame_of_a_time_beyond_all_calendars_is_refused(time: bytes) -> None:
    _, dead = codec().decode([record(picture_bytes(), 5, [*TYPE, *HEADERS[:2], ("time", time)])])
    assert [d.error for d in dead] == ["BadValue"]
    assert dead[0].message.endswith("; microseconds?") == (time == b"1767225600000000")
    _, dead = codec().decode([record(picture_bytes(), 5, [*TYPE, *HEADERS], timestamp=1_767_225_600_000_000)])
    assert [d.error for d in dead] == ["BadTimestamp"]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1080, 1920), (20, 20), (300, 40), (1, 1)])
def test_a_frame_of_any_size_and_shape_is_scaled_to_one(size: tuple[int, int]) -> None:
    colour = np.full((*size, 3), (200, 40, 90), np.uint8)
    batch, dead = codec().decode([record(picture_bytes(colour), 0, [*TYPE, *HEADERS])])
    assert not dead
    pixels = np.frombuffer(batch["pixels"][0].as_py(), np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - (200, 40, 90)).max() < 12


def test_grey_frames_have_three_equal_channels() -> None:
    grey = simplejpeg.encode_jpeg(picture()[:, :, :1].copy(), colorspace="GRAY", colorsubsampling="Gray")
    batch, _ = codec().decode([record(grey, 0, [*TYPE, *HEADERS])])
    pixels = np.frombuffer(batch["pixels"][0].as_py(), np.uint8).reshape(-1, 3)
    assert (pixels[:, :1] == pixels).all() and pixels.std() > 10


def test_a_progressive_frame_is_read_and_cmyk_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(picture())
    image.save(tmp_path / "a.jpg", progressive=True)
    assert not letters(codec(), (tmp_path / "a.jpg").read_bytes(), TYPE)
    image.convert("CMYK").save(tmp_path / "b.jpg")
    why = [("BadFrame", "expected colours in one of Gray, YCbCr, RGB, got CMYK")]
    assert letters(codec(), (tmp_path / "b.jpg").read_bytes(), TYPE) == why


@pytest.mark.parametrize("cut", [2, 100, 1000, -100, -1])
def test_a_frame_that_is_cut_off_anywhere_is_refused(cut: int) -> None:
    ((error, message),) = letters(codec(), picture_bytes()[:cut], TYPE)
    assert error == "BadFrame" and message.startswith("expected a whole JPEG, got ")


def test_damage_inside_a_frame_and_what_is_no_jpeg_at_all_are_refused() -> None:
    whole = picture_bytes()
    damaged = whole[: len(whole) // 2] + b"\xff\xd9" + whole[len(whole) // 2 + 2 :]
    assert [error for error, _ in letters(codec(), damaged, TYPE)] == ["BadFrame"]
    assert [error for error, _ in letters(codec(), b"GIF89a" + bytes(500), TYPE)] == ["BadFrame"]


def test_a_header_that_promises_too_many_pixels_is_refused_before_they_are_decoded(monkeypatch) -> None:
    bomb = picture_bytes(np.zeros((10_000, 10_000, 3), np.uint8))
    assert len(bomb) < 4 << 20
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    ((_, error, message),) = [
        (d.offset, d.error, d.message) for d in codec().decode([record(bomb, 1, [*TYPE, *HEADERS])])[1]
    ]
    assert (error, message) == ("BadFrame", "expected at most 36000000 pixels, got 10000 x 10000")


@pytest.mark.parametrize(
    ("value", "headers", "why"),
    [
        (b"x", [], ("UnknownContentType", "expected content-type image/jpeg, or a header frame-uri, got null")),
        (b"{}", [("content-type", b"application/json")], ("UnknownContentType", None)),
        (None, TYPE, ("EmptyValue", "expected a JPEG, got null")),
        (b"", TYPE, ("EmptyValue", "expected a JPEG, got no bytes")),
        (bytes(3_000_001), TYPE, ("TooLarge", "expected at most 3000000 bytes, got 3000001")),
        (
            None,
            [("frame-uri", b"/etc/passwd")],
            ("SchemaMismatch", "missing header frame-sha256, which frame-uri requires"),
        ),
    ],
)
def test_a_message_without_a_frame_says_what_it_lacks(value, headers, why) -> None:
    ((error, message),) = letters(codec(max_bytes=3_000_000), value, headers)
    assert error == why[0] and why[1] in (None, message)


def test_a_frame_without_its_facts_is_refused() -> None:
    _, dead = codec().decode(
        [record(picture_bytes(), 0, [*TYPE, *HEADERS[:1]]), record(picture_bytes(), 1, [*TYPE, *HEADERS])]
    )
    assert [(d.offset, d.error, d.message) for d in dead] == [(0, "SchemaMismatch", "missing header sequence")]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (folder := tmp_path / "store").mkdir()
    (folder / "1.jpg").write_bytes(picture_bytes())
    (tmp_path / "secret.jpg").write_bytes(picture_bytes())
    return folder


def ownership(uri: str, content: bytes | None = None) -> list[tuple[str, bytes]]:
    digest = hashlib.sha256(picture_bytes() if content is None else content).hexdigest()
    return [("frame-uri", uri.encode()), ("frame-sha256", digest.encode())]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_claim_check_is_the_same_row_as_the_frame_in_the_message(store: Path, scheme: str) -> None:
    made = codec(f"{scheme}{store}")
    referred = record(None, 0, [*ownership(f"{scheme}{store}/1.jpg"), *HEADERS])
    batch, dead = made.decode([referred, record(picture_bytes(), 1, [*TYPE, *HEADERS])])
    assert not dead
    first, second = (row for row in batch.drop_columns(["_offset"]).to_pylist())
    assert first == second


def test_a_claim_check_that_fails_says_why(store: Path) -> None:
    made, other = codec(str(store)), hashlib.sha256(b"other").hexdigest()
    ((error, message),) = letters(made, None, ownership(f"{store}/2.jpg"))
    assert (error, message) == ("FrameMissing", f"expected a file at {store}/2.jpg, got none")
    ((error, message),) = letters(made, None, ownership(f"{store}/1.jpg", b"other"))
    assert error == "FrameAltered" and other in message
    (store / "3.jpg").write_bytes(b"no picture")
    assert [e for e, _ in letters(made, None, ownership(f"{store}/3.jpg", b"no picture"))] == ["BadFrame"]
    (store / "4.jpg").write_bytes(bytes(100_001))
    assert [e for e, _ in letters(codec(str(store), max_bytes=100_000), None, ownership(f"{store}/4.jpg"))] == [
        "TooLarge"
    ]


def test_a_store_that_does_not_answer_is_asked_again_and_then_given_up(store: Path, monkeypatch) -> None:
    asked = []

    class Away(fs.FileSystemHandler):
        def __getattribute__(self, name: str) -> Any:
            if name == "open_input_stream":
                asked.append(name)
                raise OSError("connection reset")
            return object.__getattribute__(self, name)

    Away.__abstractmethods__ = frozenset()
    monkeypatch.setattr(jpeg, "PAUSE_S", 0.0)
    monkeypatch.setattr(jpeg, "_root", lambda *_: (fs.PyFileSystem(Away()), str(store)))
    ((error, message),) = letters(codec(str(store)), None, ownership(f"{store}/1.jpg"))
    assert error == "FrameUnreachable" and "connection reset" in message
    assert len(asked) == jpeg.ATTEMPTS


@pytest.mark.parametrize("name", ["Line 1", "Prüfstand", "100%", "a%20b", "a#b?c"])
def test_a_root_of_any_name_is_a_path_or_a_uri_and_so_is_what_lies_in_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "1 %.jpg").write_bytes(file := picture_bytes())
    digest = ("frame-sha256", hashlib.sha256(file).hexdigest().encode())
    for root in (str(folder), folder.as_uri()):
        for uri in (f"{folder}/1 %.jpg", (folder / "1 %.jpg").as_uri()):
            batch, dead = codec(root).decode([record(None, 0, [*HEADERS, ("frame-uri", uri.encode()), digest])])
            assert (dead, batch["jpeg"].to_pylist()) == ([], [file]), (root, uri)
        for uri in (f"{folder.as_uri()}/%2e%2e/1.jpg", f"{folder.as_uri()}/a%5c..%5cb", f"{folder}/../{name}/1 %.jpg"):
            _, (letter,) = codec(root).decode([record(None, 0, [*HEADERS, ("frame-uri", uri.encode()), digest])])
            assert letter.error == "ForbiddenPlace", uri


@pytest.mark.parametrize(
    "uri",
    [
        "{tmp}/secret.jpg",
        "{tmp}/store/../secret.jpg",
        "{tmp}/store/%2e%2e/secret.jpg",
        "{tmp}/storesecret.jpg",
        "1.jpg",
    ],
)
def test_a_message_cannot_have_a_file_read_outside_the_roots(store: Path, tmp_path: Path, uri: str) -> None:
    (tmp_path / "storesecret.jpg").write_bytes(picture_bytes())
    ((error, message),) = letters(codec(str(store)), None, ownership(uri.format(tmp=tmp_path)))
    assert error == "ForbiddenPlace" and f"inside {store}" in message
    ((_, message),) = letters(codec(), None, ownership(f"{store}/1.jpg"))
    assert "inside `roots`, which is not set" in message


@pytest.mark.parametrize("root", ["frames", "nosuch://bucket"])
def test_a_root_that_is_no_place_is_refused_at_once(root: str) -> None:
    with pytest.raises(ConfigError, match=r"^video: roots: expected absolute paths or URIs of folders, got "):
        codec(root)


def test_a_frame_beside_fields_of_a_value_is_refused_at_once() -> None:
    schema = pa.schema([pa.field("camera", pa.string(), nullable=False), *frame_fields(2, 2)])
    with pytest.raises(
        ConfigError, match="expected all fields of a frame from headers, got \\['camera'\\] from the value"
    ):
        Codec(topic="video", schema=schema)


def test_many_frames_keep_their_order_and_their_pixels() -> None:
    shades = [np.full((40, 70, 3), 5 * i, np.uint8) for i in range(50)]
    values = [picture_bytes(shade) if i % 7 else b"broken" for i, shade in enumerate(shades)]
    batch, dead = codec().decode([record(v, i, [*TYPE, *HEADERS]) for i, v in enumerate(values)])
    assert [d.offset for d in dead] == list(range(0, 50, 7))
    assert batch["_offset"].to_pylist() == [i for i in range(50) if i % 7]
    means = [np.frombuffer(p.as_py(), np.uint8).mean() for p in batch["pixels"]]
    assert means == pytest.approx([5 * i for i in range(50) if i % 7], abs=2)
