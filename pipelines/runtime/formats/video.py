"""Recorded footage as the stream that it would have been: to be sent to a topic, or judged at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.jpeg import readings

QUALITY = 90
"""Of the JPEG files that frames become."""


class Frame(NamedTuple):
    """A picture `[H, W, 3]` uint8 RGB, and what its message says of it beside camera, sequence and time."""

    picture: NDArray[np.uint8]
    facts: Mapping[str, Any] = {}


class Judged(NamedTuple):
    """A pipeline's table and alarms, as of `replay`, and the bytes of all frames as JPEG."""

    table: pl.DataFrame
    alerts: list[Alert]
    size: int


def sent(frames: Iterable[Frame], *, camera: str, rate: float, live: bool = False) -> Iterator[pl.DataFrame]:
    """Frames for the feeder, one a table: `camera`, `sequence`, `time`, `jpeg` and their facts.

    Args:
        rate: frames a second; they are timed from now on as they would have been taken.
        live: they are timed when they come.
    """
    start, last = time.time(), 0
    for number, frame in enumerate(frames):
        at = time.time() if live else start + number / rate
        last = max(round(1000 * at), last + 1)  # a stream's first frames come all at once; two of one time pass for one
        facts = {"camera": camera, "sequence": number, "time": last, **frame.facts, "jpeg": _file(frame)}
        yield pl.DataFrame({name: [value] for name, value in facts.items()})


def judged(pipeline: Pipeline, frames: Iterable[Frame], *, rate: float, after: str = "0s") -> Judged:
    """What a pipeline makes of a clip, a frame after the other, as from a topic.

    Args:
        rate: frames a second.
        after: see `replay`.
    """
    size = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal size
        numbered = enumerate(frames)
        while some := list(islice(numbered, pipeline.batch.rows)):
            files = [_file(frame) for _, frame in some]
            size += sum(map(len, files))
            facts = [
                {"camera": "clip", "sequence": number, "time": round(1000 * number / rate), **frame.facts}
                for number, frame in some
            ]
            yield readings(pipeline.schema, files, facts)

    table, alerts = replay(pipeline, tables(), after=after)
    return Judged(table, alerts, size)


def _file(frame: Frame) -> bytes:
    import simplejpeg

    file: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame.picture), quality=QUALITY)
    return file
