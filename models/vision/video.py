"""Recorded footage and live streams, decoded frame by frame.

A clip is a video file (`VIDEOS`) or a directory of pictures (`PICTURES`). Pictures are sorted by name, and numbers in names by
value: `frame2` before `frame10`. Hidden files are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.folders import listed
from tocsin.models.vision.picture import Turn, decode

if TYPE_CHECKING:
    from av import VideoFrame

Frame = NDArray[np.uint8]

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MAX_PIXELS = 1 << 24  # per frame, checked before it is decoded: 4096 x 4096
_BY_DEGREES = {-90: Turn(swap=True, columns=True), 90: Turn(swap=True, rows=True)} | dict.fromkeys(
    (-180, 180), Turn(columns=True, rows=True)
)
MAX_FRAMES = 36_000  # per clip: an hour at ten frames a second


def read(
    path: Path | str,
    *,
    rate: float | None = 10,
    size: tuple[int, int] | None = (180, 320),
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> Iterator[Frame]:
    """Decode a clip one frame at a time.

    Args:
        path: a video file, a picture, a directory of pictures, or the URL of a live stream that FFmpeg can open, such as
            `rtsp://host/camera`.
        rate: frames a second to yield. From a video, these are the frames visible at each multiple of 1 / `rate`. Pictures are
            assumed to be at this rate already. None yields each frame as it is stored.
        size: rows and columns to yield. Frames are cropped around their middle to this aspect ratio, then scaled. None leaves
            them unchanged.
        max_pixels: limit on the pixels of a stored frame.
        max_frames: limit on the frames yielded; it does not apply to a live stream.

    Yields:
        `[H, W, 3]` uint8 RGB, turned upright by the file's orientation.

    Raises:
        ValueError: `path` is not a clip, cannot be decoded, or exceeds a limit.
    """
    is_stream = isinstance(path, str) and "://" in path
    source = path if is_stream else Path(path)
    if isinstance(source, Path) and (source.is_dir() or source.suffix.lower() in PICTURES):
        frames = _pictures(source, max_pixels)
    else:
        timed = _video(source, max_pixels)
        frames = (frame for _, frame in timed) if rate is None else _sampled(timed, rate)
    for count, frame in enumerate(frames):
        if count >= max_frames and not is_stream:
            raise ValueError(f"{path} has more than {max_frames} frames; cut it into shorter clips")
        yield frame if size is None else _fitted(frame, size)


def is_clip(path: Path) -> bool:
    """Whether a path is a video file, by its suffix, or a directory that holds pictures."""
    if path.is_dir():
        return bool(listed(path, *PICTURES))
    return path.suffix.lower() in VIDEOS


def _video(path: Path | str, max_pixels: int) -> Iterator[tuple[float, Frame]]:
    """Decode a video: each frame with its time in s."""
    import av

    if isinstance(path, Path) and not path.is_file():
        raise ValueError(f"{path} is not there; expected a video file or a directory of pictures")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream; expected one of {', '.join(VIDEOS)}")
            stream = container.streams.video[0]
            _within(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
            stream.codec_context.options = {"max_pixels": str(max_pixels)}  # in case headers within the stream differ
            stream.thread_type = "NONE"
            for number, frame in enumerate(container.decode(stream)):
                _within(path, frame.width, frame.height, max_pixels)
                time = number / float(stream.average_rate or 1) if frame.time is None else frame.time
                yield time, _turn(frame)(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError as reason:
        raise ValueError(f"{path}: {reason.strerror}; expected a video that FFmpeg can decode") from None


def _turn(frame: VideoFrame) -> Turn:
    """How to turn a frame upright; cameras and phones store this in the file's display matrix."""
    if (matrix := _display_matrix(frame)) is None:
        return _BY_DEGREES.get(frame.rotation, Turn())
    a, b, c, d = (matrix[at] for at in (0, 1, 3, 4))  # x' = a x + c y, y' = b x + d y
    swap = abs(b) > abs(a)
    return Turn(swap, columns=(c if swap else a) < 0, rows=(b if swap else d) < 0)


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The 3 x 3 display matrix; None if there is none, or if PyAV fails on other side data of a type that it does not know."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        return None
    return struct.unpack("9i", bytes(data)) if data is not None else None


def _sampled(frames: Iterator[tuple[float, Frame]], rate: float) -> Iterator[Frame]:
    """Yield the frame that is visible at each multiple of 1 / `rate`, counted from the first frame."""
    start, time, due = 0.0, 0.0, 0
    current: Frame | None = None
    for time, frame in frames:
        start = time if current is None else start
        while current is not None and time - start > due / rate + 1e-6:
            yield current
            due += 1
        current = frame
    if current is not None and time - start > due / rate - 1e-6:
        yield current


def _pictures(path: Path, max_pixels: int) -> Iterator[Frame]:
    found = listed(path, *PICTURES)
    if not found:
        raise ValueError(f"{path} has no pictures; expected files {', '.join(PICTURES)}")
    for picture in found:
        try:
            frame = decode(picture.read_bytes(), max_pixels=max_pixels)
        except (ValueError, OSError) as reason:
            raise ValueError(
                f"{picture}: {reason}; remove it from the folder, or replace it with a whole one"
            ) from None
        yield frame


def _within(path: Path | str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{path} is {width} x {height}, over {max_pixels} pixels; scale it down first")


def _fitted(frame: Frame, size: tuple[int, int]) -> Frame:
    rows, columns = frame.shape[:2]
    scale = min(rows / size[0], columns / size[1])
    tall, wide = min(rows, round(size[0] * scale)), min(columns, round(size[1] * scale))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return cv2.resize(frame[top : top + tall, left : left + wide], size[::-1], interpolation=cv2.INTER_AREA)
