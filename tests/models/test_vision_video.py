"""Footage is read at the rate and size asked for, within limits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tocsin.models.vision.video import read


def film(path: Path, *, frames: int = 30, rate: int = 15, size: tuple[int, int] = (48, 64)) -> Path:
    """Write a video whose frame n has the grey level 8 n."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * number, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [5, 15, 30])
def test_a_video_is_sampled_at_the_rate_asked_for(tmp_path: Path, rate: int) -> None:
    levels = [frame.mean() / 8 for frame in read(film(tmp_path / "a.mp4"), rate=rate, size=(24, 32))]
    wanted = [int(at / rate * 15 + 1e-6) for at in range(2 * rate) if at / rate <= 29 / 15]  # up to the last frame
    assert np.abs(np.array(levels) - wanted).max() < 0.6


def test_without_a_rate_each_frame_comes(tmp_path: Path) -> None:
    levels = [frame.mean() / 8 for frame in read(film(tmp_path / "a.mp4"), rate=None)]
    assert np.abs(np.array(levels) - np.arange(30)).max() < 0.6


def test_a_frame_is_cut_to_the_aspect_and_not_squeezed(tmp_path: Path) -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    cv2.circle(picture, (150, 50), 40, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (frame,) = read(tmp_path, size=(50, 50))
    across, down = (frame[25, :, 0] > 128).sum(), (frame[:, 25, 0] > 128).sum()
    assert across == down == pytest.approx(40, abs=1)


def test_pictures_come_in_the_order_of_their_names_in_rgb(tmp_path: Path) -> None:
    for name, color in (("10.png", (0, 0, 255)), ("9.png", (255, 0, 0))):  # OpenCV writes BGR
        cv2.imwrite(str(tmp_path / name), np.full((20, 20, 3), color, np.uint8))
    (tmp_path / "._9.png").write_bytes(b"\0\5\x16\7")  # macOS metadata, not a picture
    assert [frame[5, 5].tolist() for frame in read(tmp_path, size=(10, 10))] == [[0, 0, 255], [255, 0, 0]]


def test_reading_is_lazy_and_stops_at_the_limits(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    frames = read(path, rate=15, max_frames=3)
    assert [next(frames) is not None for _ in range(3)] == [True] * 3
    with pytest.raises(ValueError, match="more than 3 frames"):
        next(frames)
    with pytest.raises(ValueError, match="64 x 48, over 3000 pixels"):
        next(read(path, max_pixels=3000))


def test_what_is_no_clip_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    for path, words in (
        (tmp_path / "broken.mp4", "can decode"),
        (tmp_path / "none.mp4", "not there"),
        (tmp_path, "no pictures"),
    ):
        with pytest.raises(ValueError, match=words):
            next(read(path))


def test_a_truncated_video_gives_what_it_has(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mkv")
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert 0 < len(list(read(tmp_path / "cut.mkv", rate=15))) < 30
