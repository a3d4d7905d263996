"""What the network is trained on: real pictures, augmented, and simulated ones with known places, as the network sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.damage.frames import batch
from tocsin.models.damage.network import CLASSES, DAMAGES
from tocsin.models.damage.simulation.camera import taken
from tocsin.models.damage.simulation.flaws import FLAWS, distraction
from tocsin.models.damage.simulation.near import near
from tocsin.models.damage.simulation.walls import Canvas, stepped, wall
from tocsin.models.damage.trunk import CELL, Seen, Trunk
from tocsin.models.vision.picture import Picture, scaled

SHAPES = ((224, 224), (160, 320), (320, 160), (112, 448), (448, 112))
"""Rows and columns of the pictures to train on. All have as many places; a picture takes the nearest shape."""
TOGETHER = 8
UNKNOWN = -1.0
"""Stands for the damaged share of a place that nobody has marked."""
FAINT = 30
"""Pixels of drawn damage below which a picture is not used: nobody could tell."""
STEPPED = 0.25
"""Share of drawn cracks that follow the joints of bricks."""
NEAR = 0.33
"""Share of drawings that show a few bricks or stones from close by."""
GAPS = 0.75
"""Share of the cracks in these that are deep gaps."""


@dataclass(frozen=True)
class Lessons:
    """Pictures of one shape as the network sees them.

    Args:
        seen: in half precision.
        kinds: `[N] int64`, numbers of `CLASSES`.
        shares: `[N, h, w]`, the damaged share of each place, or `UNKNOWN`.
        source: `[N] int64`, which of several collections each is from.
        label: `[N] int64`, the number of its label, which copies of a picture share.
    """

    seen: Seen
    kinds: Tensor
    shares: Tensor
    source: Tensor
    label: Tensor


class Collected:
    """Collects pictures and looks at them in batches of one shape.

    Args:
        trunk: looks.
        progress: called for each picture.
    """

    def __init__(self, trunk: Trunk, progress: Callable[[], None] = lambda: None) -> None:
        self._trunk, self._progress = trunk, progress
        self._labels = 0
        self._waiting: dict[int, list[tuple[Picture, int, Tensor, int, int]]] = {n: [] for n in range(len(SHAPES))}
        self._looked: dict[int, list[Lessons]] = {n: [] for n in range(len(SHAPES))}

    def add(
        self,
        picture: Picture,
        kind: int,
        *,
        source: int,
        mask: NDArray[np.float32] | None = None,
        copy: bool = False,
    ) -> None:
        """Take up a picture of one of `SHAPES`.

        Args:
            mask: the damaged share of each of its pixels.
            copy: of the last picture, whose label it shares.
        """
        shape = SHAPES.index((picture.shape[0], picture.shape[1]))
        places = picture.shape[0] // CELL, picture.shape[1] // CELL
        shares = torch.full(places, UNKNOWN)
        if mask is not None:
            shares = torch.from_numpy(cv2.resize(mask, places[::-1], interpolation=cv2.INTER_AREA))
        self._labels += not copy
        self._waiting[shape].append((picture, kind, shares, source, self._labels - 1))
        self._progress()
        if len(self._waiting[shape]) == TOGETHER:
            self._look(shape)

    def _look(self, shape: int) -> None:
        waiting, self._waiting[shape] = self._waiting[shape], []
        pictures, kinds, shares, *numbers = zip(*waiting, strict=True)
        seen = self._trunk(batch(list(pictures)))
        half = Seen(seen.tokens.half().cpu(), seen.wide.half().cpu(), seen.grey.cpu())
        self._looked[shape].append(Lessons(half, torch.tensor(kinds), torch.stack(shares), *map(torch.tensor, numbers)))

    def lessons(self) -> list[Lessons]:
        """All pictures, by shape."""
        for shape, waiting in self._waiting.items():
            if waiting:
                self._look(shape)
        return [_joined(parts) for parts in self._looked.values() if parts]


def _joined(parts: Sequence[Lessons]) -> Lessons:
    seen = Seen(*(torch.cat(maps) for maps in zip(*(part.seen for part in parts), strict=True)))
    return Lessons(
        seen, *(torch.cat([getattr(part, name) for part in parts]) for name in ("kinds", "shares", "source", "label"))
    )


def fitted(picture: Picture) -> Picture:
    """A picture scaled to the nearest of `SHAPES`."""
    ratio = math.log(picture.shape[0] / picture.shape[1])
    return scaled(picture, min(SHAPES, key=lambda shape: abs(math.log(shape[0] / shape[1]) - ratio)))


def augmented(rng: np.random.Generator, picture: Picture) -> Picture:
    """A large part of a picture, turned, mirrored, in other light and of another camera, in one of `SHAPES`."""
    if rng.random() < 0.7:
        rows, columns = (min(n, max(16, int(n * rng.uniform(0.6, 1)))) for n in picture.shape[:2])
        top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(picture.shape, (rows, columns), strict=False))
        picture = picture[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if rng.random() < 0.3:
        picture = picture[::-1]
    if rng.random() < 0.3:
        picture = np.rot90(picture)
    return taken(rng, fitted(np.ascontiguousarray(picture)).astype(np.float32))


def drawn(rng: np.random.Generator, real: Sequence[Picture] = ()) -> tuple[Picture, int, NDArray[np.float32]]:
    """A simulated picture, its class and the damaged share of each pixel.

    Args:
        real: pictures of intact walls over which some of the damage is drawn.
    """
    while True:
        size = SHAPES[0] if rng.random() < 0.6 else SHAPES[int(rng.integers(1, len(SHAPES)))]
        image, kind, mask = _near(rng, size) if rng.random() < NEAR else _far(rng, size, real)
        if kind and (mask > 0.3).sum() < FAINT:
            continue
        return taken(rng, image), kind, mask


def _far(
    rng: np.random.Generator, size: tuple[int, int], real: Sequence[Picture]
) -> tuple[Canvas, int, NDArray[np.float32]]:
    """A wall as `wall` draws it, its class and the damaged share of each pixel."""
    image, kind, mask = wall(rng, size, real), 0, np.zeros(size, np.float32)
    if rng.random() < 0.5:
        image = distraction(rng, image)
    if rng.random() < 0.68:
        kind = int(rng.choice([1, 2, 3], p=[0.5, 0.25, 0.25]))
        if kind == 1 and rng.random() < STEPPED:
            image, mask = stepped(rng, size)
        else:
            image, mask = FLAWS[CLASSES[kind]](rng, image, float(np.exp(rng.normal(0, 0.35))))
    return image, kind, mask


def _near(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Canvas, int, NDArray[np.float32]]:
    """A few bricks or stones from close by, their class and the damaged share of each pixel."""
    kind = int(rng.choice(len(CLASSES), p=[0.4, 0.36, 0.12, 0.12]))
    gap = CLASSES[kind] == "crack" and rng.random() < GAPS
    image, mask = near(rng, size, gap=gap)
    if not gap and rng.random() < 0.25:
        image = distraction(rng, image)
    if kind and not gap:
        image, mask = FLAWS[CLASSES[kind]](rng, image, float(np.exp(rng.normal(0.2, 0.35))))
    return image, kind, mask


def targets(kinds: Tensor, shares: Tensor) -> Tensor:
    """What the places' logits should say, `[N, 3, h, w]`, 0 to 1; a crack fills little of a place."""
    wanted = shares.new_zeros(len(kinds), len(DAMAGES), *shares.shape[1:])
    rows = kinds.nonzero()[:, 0]
    if len(rows):
        gain = torch.where(kinds[rows] == CLASSES.index("crack"), 3.0, 1.0)[:, None, None]
        wanted[rows, kinds[rows] - 1] = (shares[rows] * gain).clamp(0, 1)
    return wanted


def sampled(
    rng: np.random.Generator,
    lessons: Sequence[Lessons],
    weights: Sequence[float],
    count: int,
    *,
    often: Tensor | None = None,
) -> tuple[Seen, Tensor, Tensor, Tensor]:
    """A batch of one shape: from each source by its weight, mirrored at random.

    Args:
        often: `[M]`, how often each label is drawn beside the others of its source; None: each class of a source is drawn as often.

    Returns:
        What is seen, the classes, the damaged shares and the numbers of the labels.
    """
    sizes = np.array([len(of.kinds) for of in lessons], float)
    of = lessons[int(rng.choice(len(lessons), p=sizes / sizes.sum()))]
    chance = torch.zeros(len(of.kinds))
    for source, weight in enumerate(weights):
        mine = of.source == source
        if often is not None:
            chance[mine] = weight * often[of.label[mine]] / often[of.label[mine]].sum()
            continue
        for kind in of.kinds[mine].unique().tolist():
            chosen = mine & (of.kinds == kind)
            chance[chosen] = weight / int(chosen.sum()) / len(of.kinds[mine].unique())
    share = chance.double() / chance.double().sum()
    at = torch.from_numpy(rng.choice(len(share), count, p=share.numpy()))
    maps = [*(maps[at].float() for maps in of.seen[:2]), of.seen.grey[at], of.shares[at]]
    flips = [axis for axis, often in ((-1, 0.5), (-2, 0.3)) if rng.random() < often]
    if flips:
        maps = [part.flip(flips) for part in maps]
    return Seen(*maps[:3]), of.kinds[at], maps[3], of.label[at]
