"""The frames' job: JPEG frames of 640 x 360 from 16 cameras, and an encoder on each."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import polars as pl
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.engine import Bench
from benchmarks.frames import SIZES, files
from benchmarks.peers.jobs.frames_network import CONFIG, mean
from benchmarks.watches import WATCHES
from tocsin.pipelines.runtime.formats.jpeg import decode
from tocsin.pipelines.runtime.kafka import feeder

CAMERAS, TIMED = 16, 512


def feed(bench: Bench, name: str, frames: int) -> str:
    """Create a topic with the frames. Returns its name."""
    bench.provision(name)
    sent = _files()
    rows = (
        pl.DataFrame({"unit": unit, "cycle": cycle, "jpeg": sent[(unit + cycle) % len(sent)]})
        for cycle, unit in (divmod(n, CAMERAS) for n in range(frames))
    )
    feeder.feed(rows, kafka=bench.kafka, topic=name, key="unit", format="jpeg")
    return name


def truth(frames: int) -> pl.DataFrame:
    """Each frame's mean feature."""
    by_file = mean(_pixels())["mean"].numpy()
    cycle, unit = np.divmod(np.arange(frames), CAMERAS)
    expected = by_file[(unit + cycle) % len(by_file)].astype(float)
    return pl.DataFrame({"unit": unit, "cycle": cycle, "expected": expected})


def limits(bench: Bench, topic: str, frames: int) -> dict[str, float]:
    """Frames/s of each step, in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = _pixels().repeat(2, 1, 1, 1)[:64]
    found = {
        "the encoder alone": _rate(len(pixels), lambda: mean(pixels)),
        "decoding alone": _rate(len(_files()), lambda: [simplejpeg.decode_jpeg(file) for file in _files()]),
    }
    torch.set_num_threads(threads)
    return found


@cache
def _files() -> list[bytes]:
    return [sent.file for sent in files(WATCHES["surprise"], SIZES[0])]


@cache
def _pixels() -> Tensor:
    pixels: NDArray[np.uint8] = np.empty((len(_files()), CONFIG.height, CONFIG.width, 3), np.uint8)
    for file, frame in zip(_files(), pixels, strict=True):
        decode(file, frame)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _rate(frames: int, call: Callable[[], object]) -> float:
    call()
    done, started = 0, time.perf_counter()
    while done < TIMED:
        call()
        done += frames
    return done / (time.perf_counter() - started)
