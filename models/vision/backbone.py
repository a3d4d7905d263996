"""What an encoder needs of a pretrained network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network, with the facts needed to use it.

    Args:
        network: standardised frames `[B, 3, H, W]` -> tokens `[B, N, D]` and pooled `[B, D]`.
        name: of the network, with the options that change its output.
        version: the first digits of a sha256 over its weights.
        size: (H, W) of a frame in pixels.
        grid: (h, w) of the patches; N = h * w.
        width: D.
        mean, std: of red, green and blue in its training data, on a scale of 0 to 255.
    """

    network: nn.Module
    name: str
    version: str
    size: tuple[int, int]
    grid: tuple[int, int]
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
