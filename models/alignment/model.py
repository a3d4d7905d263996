"""A trained alignment model: two grey frames in, the homography between them out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.alignment.config import AlignmentConfig
from tocsin.models.alignment.geometry import Matrix, moved
from tocsin.models.alignment.network import COARSE, FINE, Network
from tocsin.models.alignment.robust import NOTHING, Fitted, plausible, ransac, refined
from tocsin.models.trained import Stored, placed, restore

SHIPPED = Path(__file__).parent / "weights" / "rigs"
BEST = 400
"""Coarse matches from which the first homography is fitted, the most likely ones."""
LIKELY = 0.02
"""Least probability of a coarse match."""
PASSES = 2
"""Coarse passes: in the second one, the frames lie over each other already, but for what the first one missed."""
NEAR = 8.0
"""Pixels to which coarse matches agree."""
BLANK = 1.0
"""Levels of contrast below which a frame shows nothing."""
FINE_NEAR = 3.0
"""Pixels to which fine matches agree."""


@dataclass(frozen=True)
class Alignment:
    """How two frames lie over each other.

    Args:
        homography: `[3, 3]`, from a pixel (x, y) of the first frame to its place in the second.
        confidence: probability that it is right to within 3 pixels of a frame 320 wide.
        error: pixels that it is expected to be off; infinite if nothing was found.
        flow: `[2, h, w] float32`, from each fourth pixel of the first frame to its place in the second, pixels in x and y.
        widths: `[h, w] float32`, the error to be expected of the flow, pixels.
    """

    homography: Matrix
    confidence: float
    error: float
    flow: NDArray[np.float32]
    widths: NDArray[np.float32]


class AlignmentModel(Stored[AlignmentConfig]):
    """The network and the robust fit in one.

    Args:
        config: sizes, and how a result is judged.
        network: is set to evaluation mode and frozen.
        device: of the network; "auto" is a GPU if there is one.
    """

    def __init__(self, config: AlignmentConfig, network: Network, device: str = "cpu") -> None:
        super().__init__(config, network.requires_grad_(False), placed(device))
        self.network = network

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the frames."""
        return self.config.size

    def align(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Alignment:
        """Align two grey frames `[H, W]` of the model's size."""
        found, coarse, flow, widths = self._found(first, second)
        return Alignment(
            found.homography, self.confidence(found, coarse), self.config.spread * found.error, flow, widths
        )

    def confidence(self, found: Fitted, coarse: Fitted) -> float:
        """The probability that what was found is right."""
        if not math.isfinite(found.error) or not plausible(found.homography, self.size):
            return 0.0
        weights, known = self.config.trust, _evidence(found, coarse)
        return 1 / (1 + math.exp(-sum(w * k for w, k in zip(weights, known, strict=True))))

    def evidence(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8]
    ) -> tuple[tuple[float, float, float, float], Matrix] | None:
        """What the confidence is computed from, see `AlignmentConfig.trust`, and the homography; None: nothing was found."""
        found, coarse, _, _ = self._found(first, second)
        if not math.isfinite(found.error) or not plausible(found.homography, self.size):
            return None
        return _evidence(found, coarse), found.homography

    @torch.inference_mode()
    def _found(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8]
    ) -> tuple[Fitted, Fitted, NDArray[np.float32], NDArray[np.float32]]:
        """The fine homography, the coarse one, the flow and its widths."""
        grid = tuple(-(-side // FINE) for side in self.size)
        blank = np.zeros((2, *grid), np.float32), np.full(grid, np.inf, np.float32)
        if not (shows_something(first) and shows_something(second)):  # the features of the frames' edges would agree
            return NOTHING, NOTHING, *blank
        one = self.network.features(self._tensor(first))
        coarse, near = NOTHING, self.network.features(self._tensor(second))
        for _ in range(PASSES):
            found = self._coarse(one[0], near[0])
            homography = coarse.homography @ found.homography
            if found is NOTHING or not plausible(homography, self.size):
                break
            coarse = found._replace(homography=homography)
            near = self.network.features(self._tensor(self._brought(second, homography)))
        if coarse is NOTHING:
            return NOTHING, coarse, *blank
        places = _places(grid, FINE)
        step, width = self._nearby(one[1], near[1], np.zeros((2, *grid), np.float32))
        found = _fit(places, step, width, self.size)
        if found is NOTHING:
            return NOTHING, coarse, *blank
        rest = (moved(found.homography, places) - places).transpose(2, 0, 1)
        step, width = self._nearby(one[1], near[1], np.nan_to_num(rest, posinf=0).astype(np.float32))
        found = _fit(places, step, width, self.size)
        at = moved(coarse.homography, places + step.transpose(1, 2, 0)) - places
        whole = coarse.homography @ found.homography
        flow = np.nan_to_num(at.transpose(2, 0, 1), posinf=0).astype(np.float32)
        return found._replace(homography=whole / whole[2, 2]), coarse, flow, width

    def _brought(self, second: NDArray[np.uint8], homography: Matrix) -> NDArray[np.uint8]:
        """The second frame as the first camera would see it."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpPerspective(second, homography, self.size[::-1], flags=flags), np.uint8)

    def _coarse(self, one: Tensor, other: Tensor) -> Fitted:
        forth, back = self.network.everywhere(one, other)
        grid = one.shape[2:]
        joint = (forth + back)[0]
        chance, best = joint.exp().max(1)
        mutual = joint.argmax(0)[best] == torch.arange(len(best), device=best.device)
        around = _around(joint.exp(), best, grid)
        order = torch.argsort(chance * mutual, descending=True, stable=True)[:BEST]
        order = order[(chance * mutual)[order] > LIKELY].cpu()
        first = _places(grid, COARSE).reshape(-1, 2)[order.numpy()]
        second = around.cpu().numpy()[order.numpy()] * COARSE + (COARSE - 1) / 2
        return ransac(first, second, threshold=NEAR)

    def _nearby(
        self, one: Tensor, near: Tensor, flow: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start = torch.from_numpy(flow / FINE)[None].to(one)
        step, log_width, _ = self.network.nearby(one, near, start)
        return step[0].cpu().numpy() * FINE, log_width[0].exp().cpu().numpy() * FINE

    def _tensor(self, frame: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(frame).to(self.device).float()[None, None]

    def trusting(self, trust: tuple[float, float, float, float], spread: float) -> AlignmentModel:
        """The same network with another confidence, and another scale of errors."""
        return AlignmentModel(replace(self.config, trust=trust, spread=spread), self.network, self.device.type)


def load(directory: Path | str = SHIPPED, device: str = "cpu") -> AlignmentModel:
    """Read a model.

    Raises:
        ValueError: the config has unknown settings.
    """
    config = AlignmentConfig.load(Path(directory))
    network = Network(config.network)
    restore(network, Path(directory))
    return AlignmentModel(config, network, device)


def shows_something(frame: NDArray[np.uint8]) -> bool:
    """Whether a grey frame has any contrast."""
    return bool(frame.std() > BLANK)


def grey(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture `[H, W, 3]` RGB or `[H, W]` as a grey frame of the model's size."""
    shade = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(shade, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def greys(pixels: Tensor) -> dict[str, Tensor]:
    """`[B, 3, H, W] uint8` -> `grey`, `[B, H, W] uint8`."""
    shades = np.empty((len(pixels), *pixels.shape[2:]), np.uint8)
    for frame, shade in zip(pixels.permute(0, 2, 3, 1).contiguous().numpy(), shades, strict=True):
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=shade)
    return {"grey": torch.from_numpy(shades)}


def _evidence(found: Fitted, coarse: Fitted) -> tuple[float, float, float, float]:
    return math.log(min(max(found.error, 0.01), 100.0)), found.support, coarse.support, 1.0


def _places(grid: tuple[int, ...] | torch.Size, pitch: int) -> Matrix:
    """The pixels in the middle of each place, `[h, w, 2]`."""
    y, x = np.mgrid[: grid[0], : grid[1]].astype(float)
    return np.stack([x, y], -1) * pitch + (pitch - 1) / 2


def _around(chance: Tensor, best: Tensor, grid: torch.Size) -> Tensor:
    """The mean place of the 3 x 3 about each best one, by their probabilities: `[N, M]` and `[N]` -> `[N, 2]`."""
    rows, columns = grid
    y, x = best // columns, best % columns
    total, at = torch.zeros_like(chance[:, 0]), torch.zeros(len(best), 2, device=best.device)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            v, u = y + dy, x + dx
            inside = (v >= 0) & (v < rows) & (u >= 0) & (u < columns)
            index = (v.clamp(0, rows - 1) * columns + u.clamp(0, columns - 1))[:, None]
            share = chance.gather(1, index)[:, 0] * inside
            total = total + share
            at = at + share[:, None] * torch.stack([u, v], 1)
    return at / total[:, None].clamp(min=1e-9)


def _fit(places: Matrix, step: NDArray[np.float32], width: NDArray[np.float32], size: tuple[int, int]) -> Fitted:
    """The homography that fine matches agree with."""
    first = places.reshape(-1, 2)
    second = first + step.transpose(1, 2, 0).reshape(-1, 2)
    widths = np.maximum(width.reshape(-1).astype(float), 0.1)
    sure = np.argsort(widths, kind="stable")[: len(widths) // 2]
    start = ransac(first[sure], second[sure], threshold=FINE_NEAR)
    if start is NOTHING:
        return NOTHING
    return refined(first, second, widths, start.homography, size)
