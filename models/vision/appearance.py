"""How a camera's pictures look, beside those that a model was trained on: light, contrast, sharpness, shape, and which way is up.

It is to tell a camera that is covered, blinded, out of focus, dark at night or upside down from one whose pictures the model can
judge. It is not to tell one place from another: the ranges are wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.vision.picture import shape_of
from tocsin.models.vision.upright import SIZE, Upright, load_upright

Bounds = tuple[float | None, float | None]
"""The lowest and the highest usual value; None: there is no limit."""

UPRIGHT = -0.25
"""The lowest usual `upright`, unless a training recording is lower. No recording that the head had not seen is lower on average."""


DARK, FLAT = 20.0, 8.0
"""Highlights and contrast below which nothing can be seen, whatever the training pictures were like."""


@dataclass(frozen=True)
class Appearance:
    """The usual range of each statistic of a picture, stored in a model's config.

    Args:
        highlights, shadows: the brightness that 5 % of the pixels exceed, and that 95 % do, 0 to 255.
        contrast: the difference of both.
        sharpness: the logarithm to base 10 of the variance of the Laplacian.
        aspect: width over height, as the camera sends it.
        upright: see `tocsin.models.vision.upright`.
    """

    highlights: Bounds = (None, None)
    shadows: Bounds = (None, None)
    contrast: Bounds = (None, None)
    sharpness: Bounds = (None, None)
    aspect: Bounds = (None, None)
    upright: Bounds = (None, None)

    @classmethod
    def fit(cls, recordings: Sequence[Tensor]) -> Self:
        """The ranges in which the pictures of recordings lie, with a margin.

        Args:
            recordings: each `[N, S]`, from `Eye.looks`; NaN: not known.
        """
        ends = torch.stack([of.nanquantile(torch.tensor([0.05, 0.95]), dim=0) for of in recordings])
        low, high = (
            dict(zip(STATISTICS, end.tolist(), strict=True)) for end in (_least(ends[:, 0]), -_least(-ends[:, 1]))
        )
        means = torch.stack([of.nanmean(0) for of in recordings])
        return cls(
            highlights=(_rounded(max(low["highlights"] / 4, DARK)), None),
            shadows=(None, _rounded((high["shadows"] + 255) / 2)),
            contrast=(_rounded(max(low["contrast"] / 5, FLAT)), None),
            sharpness=(_rounded(low["sharpness"] - 1), _rounded(high["sharpness"] + 0.5)),
            aspect=(_rounded(low["aspect"] / 1.5), _rounded(high["aspect"] * 1.5)),
            upright=(_rounded(min(UPRIGHT, _least(means).tolist()[STATISTICS.index("upright")] - 0.1)), None),
        )

    @classmethod
    def of(cls, **stored: Sequence[float | None]) -> Self:
        """What a model's config holds."""
        return cls(**{name: (low, high) for name, (low, high) in stored.items()})

    def excess(self, values: Tensor) -> Tensor:
        """How far statistics `[S]` are outside their ranges, `[S]` from -1 (well inside) to 1 (well outside); NaN stays."""
        excess = torch.full_like(values, -1.0)
        for at, (low, high) in enumerate(asdict(self).values()):
            above = [low - values[at]] if low is not None else []
            above += [values[at] - high] if high is not None else []
            if above:
                excess[at] = torch.stack(above).amax() / UNITS[at]
        return excess.clamp(-1, 1)

    def said(self, at: int, value: float) -> str:
        """A statistic outside its range, for a person."""
        name = STATISTICS[at]
        low, high = getattr(self, name)
        usual = (
            f"{low:g} to {high:g}"
            if None not in (low, high)
            else f"at least {low:g}"
            if high is None
            else f"at most {high:g}"
        )
        return f"{name} {value:.2g}, usually {usual}"


STATISTICS = tuple(field.name for field in fields(Appearance))
UNITS = (10.0, 20.0, 5.0, 0.3, 0.1, 0.4)
"""How far beyond its range each statistic is well outside."""


class Eye:
    """Measures pictures, and compares them with what is usual.

    Args:
        usual: of the pictures that it is asked about.
        upright: the head; None: the shipped one.
    """

    statistics = STATISTICS

    def __init__(self, usual: Appearance | None = None, upright: Upright | None = None) -> None:
        self._usual, self._upright = usual or Appearance(), upright or load_upright()
        self.excess, self.said = self._usual.excess, self._usual.said

    def measure(self, picture: NDArray[np.uint8], file: bytes | None = None) -> Tensor:
        """The `STATISTICS` of a picture, `[S] float32`.

        Args:
            picture: `[H, W, 3]` RGB, of any size.
            file: as the camera sent it, in another shape perhaps.
        """
        height, width = shape_of(file) if file else picture.shape[:2]
        small = np.asarray(cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        shadows, highlights = np.percentile(grey, (5, 95))
        edges = cv2.Laplacian(cv2.GaussianBlur(grey.astype(np.float32), (3, 3), 0), cv2.CV_32F)
        sharpness = math.log10(float(edges.var()) + 0.01)
        values = (highlights, shadows, highlights - shadows, sharpness, width / height, self._upright(small))
        return torch.tensor(values, dtype=torch.float32)

    def looks(self, pictures: Iterable[NDArray[np.uint8]]) -> Tensor:
        """The statistics of a recording's pictures, `[N, S]`."""
        return torch.stack([self.measure(picture) for picture in pictures])


def _least(values: Tensor) -> Tensor:
    """The least of each column of `[R, S]`, `[S]`; NaN does not count."""
    return values.nan_to_num(math.inf, math.inf, -math.inf).amin(0)


def _rounded(value: float) -> float:
    return round(value, 2)
