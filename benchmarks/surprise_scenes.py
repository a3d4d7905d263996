"""Real pictures with something new in them, whose truth is known: pans over stills, and footage, of four recordings.

What is new is drawn by the simulator, or cut out of another recording than the one that it appears in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tocsin.models.surprise.composites import cut_out, injected, panned
from tocsin.models.surprise.simulation.novelties import SIZES
from tocsin.models.surprise.simulation.scene import Clip
from tocsin.models.surprise.simulation.shapes import Sprite
from tocsin.models.vision.video import Frame, read

RATE = 10.0
STILL = (720, 1280)
"""Stills are at most this large."""


class Recording(NamedTuple):
    """A recording: its clips in the data folder, and the frames of them that serve as stills."""

    paths: tuple[str, ...]
    stills: tuple[tuple[int, int], ...]
    swims: bool = False


RECORDINGS = {
    "fish": Recording(("underwater_fish/fish.mp4",), ((0, 0), (0, 100), (0, 161), (0, 222)), swims=True),
    "subvo": Recording(("underwater_subvo/frames_640x360",), ((0, 0), (0, 79), (0, 119), (0, 199))),
    "mbari": Recording(
        tuple(f"underwater_mbari/V4361_20211006T16{minute}56Z_h265_1sec.mp4" for minute in (26, 32, 38)),
        ((0, 0), (2, 0)),
    ),
    "tank": Recording(("underwater_tank/fish.mp4",), ((0, 0), (0, 111), (0, 175)), swims=True),
}
"""Stills: number of the clip, number of the frame at ten a second."""
CUTS = {
    "trout": ("fish", 0, 20, (276, 2, 407, 82), 0.04, True),
    "white trout": ("fish", 0, 60, (258, 86, 378, 142), 0.04, False),
    "dark trout": ("fish", 0, 161, (168, 262, 322, 313), 0.04, True),
    "goldfish": ("tank", 0, 0, (254, 202, 347, 272), 0.04, False),
    "red goldfish": ("tank", 0, 0, (438, 242, 535, 318), 0.04, False),
    "white goldfish": ("tank", 0, 111, (316, 208, 417, 284), 0.04, True),
    "shell": ("tank", 0, 0, (428, 376, 503, 456), 0.0, False),
    "cone": ("subvo", 0, 139, (188, 128, 247, 274), 0.0, False),
    "tile": ("subvo", 0, 119, (270, 162, 395, 213), 0.0, False),
    "shovel": ("subvo", 0, 59, (396, 8, 490, 94), 0.0, False),
    "net": ("subvo", 0, 159, (375, 10, 490, 75), 0.0, False),
    "coral": ("mbari", 0, 0, (560, 0, 870, 1040), 0.0, False),
}
"""Things cut out: recording, clip, frame, box around it (left, top, right, bottom; pixels), how it bends, whether it faces left."""
ANIMALS = ("fish", "school", "eel", "reef fish", "ray", "squid")
"""Drawn kinds that are not new where fish swim."""


def stills(data: Path, name: str) -> list[Frame]:
    """The stills of a recording."""
    found = []
    for clip, at in RECORDINGS[name].stills:
        frame = _frame(data, name, clip, at)
        scale = min(1.0, STILL[1] / frame.shape[1])
        found.append(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return found


def cutouts(data: Path, *, without: Sequence[str]) -> dict[str, list[Sprite]]:
    """The things that are cut out of the recordings, but for those `without`."""
    found = {}
    for kind, (name, clip, at, box, bend, flip) in CUTS.items():
        if name not in without:
            found[kind] = [_cut(_frame(data, name, clip, at), box, bend, flip)]
    return found


def pans(data: Path, name: str, seeds: Sequence[int], *, seconds: float = 60) -> list[Clip]:
    """Pans over each still of a recording: of every two seeds, the first has drawn novelties, the second cut-outs."""
    cut, clips = cutouts(data, without=[name]), []
    for number, still in enumerate(stills(data, name)):
        for seed in seeds:
            kinds = tuple(cut) if seed % 2 else tuple(SIZES)
            own = 10_000 * list(RECORDINGS).index(name) + 100 * number + seed
            clips.append(panned(still, own, seconds=seconds, rate=RATE, kinds=kinds, cutouts=cut))
    return clips


def footage_of(data: Path, name: str, seeds: Sequence[int], *, count: int = 600) -> list[Clip]:
    """The clips of a recording, played to and fro for `count` frames, with novelties; seeds are as in `pans`, and -1 adds none."""
    recording, cut, clips = RECORDINGS[name], cutouts(data, without=[name]), []
    drawn = tuple(kind for kind in SIZES if not (recording.swims and kind in ANIMALS))
    real = tuple(kind for kind, sprites in cut.items() if not (recording.swims and sprites[0].bend))
    for path in recording.paths:
        frames = list(read(data / path, rate=RATE))
        there_and_back = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
        played = [frames[there_and_back[at % len(there_and_back)]] for at in range(count)]
        for seed in seeds:
            kinds = real if seed % 2 else drawn
            if seed < 0:
                clips.append(Clip(np.stack(played), np.arange(count) / RATE, None))
            else:
                clips.append(injected(played, seed, rate=RATE, kinds=kinds, cutouts=cut))
    return clips


_FRAMES: dict[tuple[Path, str, int, int], Frame] = {}


def _frame(data: Path, name: str, clip: int, at: int) -> Frame:
    key = (data, name, clip, at)
    if key not in _FRAMES:
        for number, frame in enumerate(read(data / RECORDINGS[name].paths[clip], rate=RATE, size=None)):
            if number == at:
                _FRAMES[key] = frame
                break
    return _FRAMES[key]


def _cut(frame: Frame, box: tuple[int, int, int, int], bend: float, flip: bool) -> Sprite:
    """Cut out what differs from the surroundings of a box, by GrabCut."""
    left, top, right, bottom = box
    mask = np.full(frame.shape[:2], cv2.GC_BGD, np.uint8)
    inside = (left, top, right - left, bottom - top)
    cv2.setRNGSeed(0)
    cv2.grabCut(frame[..., ::-1].copy(), mask, inside, np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_RECT)
    found = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return cut_out(frame, labels == largest, bend=bend, flip=flip)
