"""By hand: the same loop with an encoder on each frame."""

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import loop_windows
import numpy as np
import polars as pl
import simplejpeg
import torch

from benchmarks.peers.jobs.frames_network import CONFIG, mean

THREADS = ThreadPoolExecutor(2)


def decoded(file):
    """A frame of the encoder's size."""
    smaller = simplejpeg.decode_jpeg(file, min_height=CONFIG.height, min_width=CONFIG.width)
    return cv2.resize(smaller, (CONFIG.width, CONFIG.height), interpolation=cv2.INTER_AREA)


def judge(messages):
    """The rows of a poll."""
    frames = torch.from_numpy(np.stack(list(THREADS.map(decoded, (value for value, _ in messages)))))
    facts = {name: [int(headers[name]) for _, headers in messages] for name in ("unit", "cycle")}
    return pl.DataFrame({**facts, "mean": mean(frames.permute(0, 3, 1, 2))["mean"].numpy()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop_windows.POLL, loop_windows.ROWS = 64, 1000
    loop_windows.main(sys.argv[1], list, judge, content=loop_windows.with_headers)
