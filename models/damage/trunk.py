"""What the network sees of a picture: maps of the shared encoder at three strides, and the picture's fine relief."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.vision import efficientnet

CELL = 8
"""Pixels of a place's side: maps are at this stride."""
MULTIPLE = 16
"""The sides of a picture are multiples of this many pixels."""
BLOCKS = {2: "fine", 4: "middle", 10: "coarse"}
"""The last block of the encoder's stages at strides 4, 8 and 16."""
WIDTH = 2 * 24 + 40 + 112
"""Channels of the tokens: of stride 4, the mean and the maximum over a place."""


class Seen(NamedTuple):
    """B pictures as the network takes them, h x w places.

    Args:
        tokens: `[B, 48 + 40, h, w]`, of the encoder's strides 4 and 8.
        wide: `[B, 112, h / 2, w / 2]`, of its stride 16.
        grey: `[B, 1, 8 h, 8 w] uint8`.
    """

    tokens: Tensor
    wide: Tensor
    grey: Tensor


class Trunk:
    """The shared encoder, EfficientNet-Lite0 with its frozen weights, asked for three of its layers in one pass.

    One network serves pictures of all sizes: where both sides are multiples of 16, its padding is the same for all.
    """

    def __init__(self, device: torch.device) -> None:
        backbone = efficientnet.backbone((224, 224), layer="stride16")
        network = backbone.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: nn.Module = network.eval().requires_grad_(False)
        self.device, self.version, self.name = device, backbone.version, backbone.name

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Seen:
        """Look at pictures `[B, 3, H, W] uint8`, RGB.

        Raises:
            ValueError: a side is not a multiple of 16.
        """
        if frames.dtype != torch.uint8 or frames.shape[2] % MULTIPLE or frames.shape[3] % MULTIPLE:
            raise ValueError(
                f"frames are {list(frames.shape)} {frames.dtype}, expected uint8 and sides in multiples of 16"
            )
        moved = frames.to(self.device).to(torch.float32, memory_format=torch.channels_last)
        x = (moved - efficientnet.MEAN) / efficientnet.STD
        x = F.relu6(self._network.stem(x), inplace=True)  # type: ignore[operator]
        maps: dict[str, Tensor] = {}
        for number, block in enumerate(self._network.blocks):  # type: ignore[arg-type]
            x = block(x)
            if number in BLOCKS:
                maps[BLOCKS[number]] = x.clone()
        fine = maps["fine"]
        tokens = torch.cat([F.avg_pool2d(fine, 2), F.max_pool2d(fine, 2), maps["middle"]], 1)
        weights = torch.tensor([0.299, 0.587, 0.114], device=self.device)[:, None, None]
        grey = (moved * weights).sum(1, keepdim=True).round().to(torch.uint8)
        return Seen(tokens, maps["coarse"], grey)
