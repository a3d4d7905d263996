"""Ego-motion between two frames: dense flow with its fit, which surprise uses, and the alignment model's homography.

    python -m benchmarks.ego_motion CLIP...

Each pair is a still of a clip and the same still moved by a known similarity, with noise. The error is the mean distance over the
frame between where a place is and where it is said to be, in pixels of a frame 128 wide.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.alignment.model import AlignmentModel, load
from tocsin.models.surprise.motion import SIZE, ego_motion
from tocsin.models.surprise.pans import stills
from tocsin.models.vision.flow import grey_frame

Array = NDArray[np.float64]
EACH, NOISE, SEED = 12, 2.0, 0
REACH = {"small": 0.01, "medium": 0.04, "large": 0.12}
"""Shift of a pair in frame widths; it is turned by as much in rad / 2, and zoomed by as much / 2."""
POINTS = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 5), np.linspace(-0.8, 0.8, 5)), -1).reshape(-1, 2)
"""Places at which the error is taken, -1 to 1."""


def moved(still: NDArray[np.uint8], rng: np.random.Generator, reach: float) -> tuple[list[NDArray[np.uint8]], Array]:
    """Two frames of a still, and the map `[3, 3]` from a pixel of the second to its place in the first."""
    rows, columns = still.shape[:2]
    angle, scale = reach / 2 * rng.choice([-1, 1]), 1 + reach / 2 * rng.choice([-1, 1])
    way = rng.uniform(0, 2 * np.pi)
    matrix = np.vstack(
        [cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), np.degrees(angle), scale), [0, 0, 1]]
    )
    matrix[:2, 2] += reach * columns * np.array([np.cos(way), np.sin(way)])
    other = cv2.warpPerspective(
        still, matrix, (columns, rows), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    noisy = [np.clip(frame + rng.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8) for frame in (still, other)]
    return noisy, matrix


def error(found: Array, true: Array, shape: tuple[int, int]) -> float:
    """The mean distance of both maps, pixels of a frame 128 wide."""
    rows, columns = shape
    places = (POINTS + 1) / 2 * [columns - 1, rows - 1]
    ends = [cv2.perspectiveTransform(places[None], matrix)[0] for matrix in (found, true)]
    return float(np.linalg.norm(ends[0] - ends[1], axis=1).mean() * 128 / columns)


def by_flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Array:
    """The similarity of `ego_motion`, as a map of pixels."""
    rows, columns = after.shape[:2]
    greys = (torch.from_numpy(grey_frame(frame, SIZE))[None] for frame in (before, after))
    warp = np.vstack([ego_motion(*greys).warp[0].double().numpy(), [0, 0, 1]])
    to_pixels = np.array([[columns / 2, 0, (columns - 1) / 2], [0, rows / 2, (rows - 1) / 2], [0, 0, 1]])
    return np.asarray(to_pixels @ warp @ np.linalg.inv(to_pixels))


def by_alignment(model: AlignmentModel, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Array:
    """The homography of the alignment model, as a map of pixels."""
    rows, columns = after.shape[:2]
    found = model.align(grey_frame(after, model.size), grey_frame(before, model.size)).homography
    scale = np.diag([columns / model.size[1], rows / model.size[0], 1])
    return np.asarray(scale @ found @ np.linalg.inv(scale))


def main(clips: list[Path]) -> None:
    """Print a row for each clip and motion."""
    torch.set_num_threads(1)
    model, rng = load(device="cpu"), np.random.default_rng(SEED)
    print("| clip | motion | flow | within 1 px | ms | alignment | within 1 px | ms |\n|" + "---|" * 8)
    for clip in clips:
        pictures = stills(clip, EACH, rate=10)
        for name, reach in REACH.items():
            errors: dict[str, list[float]] = {"flow": [], "alignment": []}
            spent = dict.fromkeys(errors, 0.0)
            for still in pictures:
                (before, after), true = moved(still, rng, reach)
                for form in errors:
                    started = time.perf_counter()
                    found = by_flow(before, after) if form == "flow" else by_alignment(model, before, after)
                    spent[form] += time.perf_counter() - started
                    errors[form].append(error(found, true, still.shape[:2]))
            cells = [
                f"{np.median(found):.2f} | {np.mean(np.array(found) < 1):.2f} | {1000 * spent[form] / len(found):.0f}"
                for form, found in errors.items()
            ]
            print(
                f"| {clip.parent.name}/{clip.name} | {name} | " + " | ".join(cells) + " |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    main(parser.parse_args().clips)
