"""Turns recorded footage into the stream that its camera would have sent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

QUALITY = 90
"""The JPEG quality of encoded frames."""


class Frame(Protocol):
    """A picture `[H, W, 3]` uint8 RGB, and its message's fields besides camera, sequence and time."""

    @property
    def picture(self) -> NDArray[np.uint8]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...


def sent(
    frames: Iterable[Frame], *, camera: str, rate: float, live: bool = False, key: str = "camera", views: int = 1
) -> Iterator[pl.DataFrame]:
    """Frames for the feeder, one table each: `camera`, `sequence`, `time`, `jpeg` and their facts.

    Args:
        rate: frames a second; their times start now and advance at this rate.
        live: a frame's time is when it arrives instead.
        key: the column of the camera's name.
        views: so many frames in a row have one number and one time.
    """
    start, last = time.time(), 0
    for count, frame in enumerate(frames):
        number, of_the_same = divmod(count, views)
        if not of_the_same:
            at = time.time() if live else start + number * views / rate
            last = max(round(1000 * at), last + 1)  # a stream starts with a burst; equal times would be duplicates
        facts = {key: camera, "sequence": number, "time": last, **frame.facts, "jpeg": encoded(frame)}
        yield pl.DataFrame({name: [value] for name, value in facts.items()})


def encoded(frame: Frame) -> bytes:
    """A frame as a JPEG file."""
    import simplejpeg

    file: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame.picture), quality=QUALITY)
    return file
