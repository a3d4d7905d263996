"""Scores of alignments whose truth is known: pairs by gap and motion, and rigs whose camera is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.models.alignment.geometry import Matrix, corners, distance, moved, scaled
from tocsin.models.alignment.model import AlignmentModel, grey, shows_something
from tocsin.models.alignment.simulation.pairs import pair
from tocsin.models.alignment.simulation.scene import scene
from tocsin.models.alignment.simulation.sensors import SENSORS
from tocsin.models.folders import named
from tocsin.models.tables import read as read_table
from tocsin.models.vision.picture import decode

Grey = NDArray[np.uint8]
REACHES = {"small": 0.1, "medium": 0.5, "large": 1.0}
"""Motions by their size: shifts up to 7, 35 and 70 pixels of a frame that is 320 wide, turns of 2, 10 and 20 degrees."""
VALIDATION_SEEDS, TEST_SEEDS = range(10_000, 10_040), range(20_000, 20_040)
"""Scenes that no model is trained on."""
RIGHT = 3.0
"""Pixels to which an alignment is right."""
LOST = 999.0
"""Pixels that stand for no alignment at all."""
TRUTH = "pairs.csv"
AFFINE = ("a11", "a12", "a13", "a21", "a22", "a23")
PERSPECTIVE = ("a31", "a32")


class Case(NamedTuple):
    """Grey frames of two cameras, the homography between them, and the kind of pair."""

    first: Grey
    second: Grey
    homography: Matrix
    kind: str


@dataclass(frozen=True)
class Score:
    """How far an alignment is off, mean over the frame, in pixels; its confidence; and the kind of pair."""

    error: float
    confidence: float
    kind: str


def simulated(seeds: Sequence[int], size: tuple[int, int], *, each: int, seed: int = 0) -> Iterator[Case]:
    """Pairs of drawn scenes, `each` of every gap and size of motion."""
    rng = np.random.default_rng((seed, 3))
    scenes = [scene(number) for number in seeds[: max(2, min(len(seeds), 4 * each))]]
    for gap, sensor in SENSORS.items():
        for motion, reach in REACHES.items():
            for _ in range(each):
                still = scenes[int(rng.integers(len(scenes)))]
                p = pair(still, size, rng, second=sensor, reach=reach)
                yield Case(p.first, p.second, p.homography, f"{gap}, {motion}")


def strangers(seeds: Sequence[int], size: tuple[int, int], *, count: int, seed: int = 0) -> Iterator[tuple[Grey, Grey]]:
    """Frames of two scenes that have nothing in common."""
    rng = np.random.default_rng((seed, 4))
    for number in range(count):
        one, other = (scene(seeds[(number + shift) % len(seeds)]) for shift in (0, 1))
        yield pair(one, size, rng, reach=0.5).first, pair(other, size, rng, reach=0.5).second


def recorded(folder: Path, size: tuple[int, int]) -> Iterator[Case]:
    """The pairs of a folder: `pairs.csv` with the columns `first`, `second`, and the map of a pixel of the first to the second.

    The map is `a11` to `a23`, with `a31` and `a32` if it is a homography; without these columns the pictures lie over each other.
    A column `kind` is for people.

    Raises:
        ValueError: there is no table, a column is missing, a map is none, or a picture cannot be read.
    """
    if (table := named(folder, TRUTH)) is None:
        raise ValueError(f"{folder} has no {TRUTH}; expected one with the columns first, second, {', '.join(AFFINE)}")
    sheet = read_table(table)
    sheet.require("first", "second")
    if not len(sheet.cells):
        raise ValueError(f"{table}: expected pairs, got none; add a line for each")
    has = set(sheet.cells.columns)
    maps = np.tile(np.eye(3).ravel(), (len(sheet.cells), 1))
    if has & set(AFFINE):
        sheet.require(*AFFINE)
        if has & set(PERSPECTIVE):
            sheet.require(*PERSPECTIVE)
        names = [*AFFINE, *(PERSPECTIVE if set(PERSPECTIVE) <= has else ())]
        for at, name in enumerate(names):
            maps[:, at] = sheet.numbers(name).to_numpy()
    kinds = sheet.texts("kind", empty=True).fill_null("") if "kind" in has else [""] * len(maps)
    lines = zip(sheet.texts("first"), sheet.texts("second"), maps, kinds, strict=True)
    for row, (first, second, values, kind) in enumerate(lines):
        pictures = [_read(folder / name, table) for name in (first, second)]
        factors = [(size[1] / p.shape[1], size[0] / p.shape[0]) for p in pictures]
        homography = scaled(values.reshape(3, 3), factors[0], factors[1])
        if not _is_map(homography, size):
            raise ValueError(
                f"{table}, line {sheet.line(row)}: expected a homography that maps the whole frame, got "
                f"{' '.join(f'{value:g}' for value in values)}; correct or drop this row"
            )
        yield Case(grey(pictures[0], size), grey(pictures[1], size), homography, kind or "all")


def seen(case: Case) -> bool:
    """Whether both frames show something."""
    return shows_something(case.first) and shows_something(case.second)


def scored(cases: Iterable[Case], align: Callable[[Grey, Grey], tuple[Matrix | None, float]]) -> list[Score]:
    """Align each case and compare it with its truth."""
    scores = []
    for case in cases:
        found, confidence = align(case.first, case.second)
        off = LOST if found is None else distance(found, case.homography, case.first.shape)
        scores.append(Score(min(off, LOST) if np.isfinite(off) else LOST, confidence, case.kind))
    return scores


def by_model(model: AlignmentModel) -> Callable[[Grey, Grey], tuple[Matrix | None, float]]:
    """A model as `scored` calls it."""

    def align(first: Grey, second: Grey) -> tuple[Matrix | None, float]:
        found = model.align(first, second)
        return (found.homography if found.confidence else None), found.confidence

    return align


def figures(scores: Sequence[Score], *, confident: float | None = None) -> dict[str, float | None]:
    """Figures of pairs.

    Args:
        confident: the least confidence that counts; None: the method has no confidence.
    """
    errors = np.array([s.error for s in scores])
    found: dict[str, float | None] = {
        "error": float(np.median(errors)),
        "within_2": float((errors <= 2).mean()),
        "within_3": float((errors <= RIGHT).mean()),
    }
    if confident is None:
        return found
    sure = np.array([s.confidence >= confident for s in scores])
    right = float((errors[sure] <= RIGHT).mean()) if sure.any() else None
    return {**found, "confident": float(sure.mean()), "right_if_confident": right}


def kinds(scores: Sequence[Score], *, confident: float) -> dict[str, dict[str, float | None]]:
    """Figures of each kind of pair."""
    names = dict.fromkeys(s.kind for s in scores)
    return {name: figures([s for s in scores if s.kind == name], confident=confident) for name in names}


def _is_map(homography: Matrix, size: tuple[int, int]) -> bool:
    """Whether a homography maps a frame to an area: all of it is before the second camera, and it does not fall onto a line."""
    x, y = moved(homography, corners(size)).T
    area = 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) if np.isfinite([x, y]).all() else 0.0
    return abs(area) > 1


def _read(path: Path, table: Path) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes())
    except (ValueError, OSError) as reason:
        raise ValueError(f"{table}: {path.name}: {reason}; correct the table, or replace the picture") from None
