"""The network: two grey frames in, where the places of the first are in the second, coarse and fine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.flow import flow_attention, global_flow_attention

COARSE, FINE = 8, 4
"""Pixels between the places of the two levels."""
CALM = 4.0
"""Levels of contrast below which an outline counts less: noise has no direction."""
KERNEL = (1, 4, 6, 4, 1)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        outlines: whether it sees the strength and direction of outlines, the same for bright on dark as for dark on bright;
            False: brightness, normalised.
        width: channels at an eighth; the fine level has half as many.
        layers: of attention within and between the frames.
        heads: of each.
        radius: places of the fine level that a match may be off.
    """

    outlines: bool = True
    width: int = 64
    layers: int = 2
    heads: int = 4
    radius: int = 4


class Network(nn.Module):
    """Features of frames, matched everywhere at an eighth of the resolution, and nearby at a quarter.

    Source: CRFT (arXiv 2604.05689): features at several levels of normalised frames, a coarse transformer as in LoFTR, a global
    softmax of correlations, refinement by feature-flow attention with confidence. Outlines as input, one frame warped by a robust
    fit between the levels, and errors that the network predicts itself are this project's choices.

    Args:
        config: sizes.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        wide, half = config.width, config.width // 2
        self.stem = _Block(6 if config.outlines else 2, half - half // 4, stride=1)
        self.quarter = nn.Sequential(_Block(half - half // 4, half, stride=2), _Rest(half))
        self.eighth = nn.Sequential(_Block(half, wide, stride=2), _Rest(wide), _Rest(wide))
        self.layers = nn.ModuleList(_Layer(wide, config.heads) for _ in range(2 * config.layers))
        self.coarse = nn.Conv2d(wide, wide, 1)
        self.down, self.side = nn.Conv2d(wide, half, 1), nn.Conv2d(half, half, 1)
        self.fine = nn.Sequential(nn.ReLU(), nn.Conv2d(half, half, 3, padding=1))
        self.sure = nn.Sequential(nn.Conv2d(half + 3, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, 1, 1))
        self.coarse_scale, self.fine_scale = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(2.3))

    def features(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features of grey frames `[B, 1, H, W]` from 0 to 255, at an eighth and at a quarter; H and W are multiples of 8."""
        seen = outlines(frames) if self.config.outlines else brightness(frames)
        quarter = self.quarter(self.stem(seen))
        eighth = self.eighth(quarter)
        up = F.interpolate(self.down(eighth), scale_factor=2.0, mode="bilinear", align_corners=False)
        return eighth, F.normalize(self.fine(up + self.side(quarter)), dim=1)

    def everywhere(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Match features at an eighth, each with all; see `global_flow_attention`."""
        for within, between in zip(self.layers[::2], self.layers[1::2], strict=True):
            first, second = within(first, first), within(second, second)
            first, second = between(first, second), between(second, first)
        one, other = (F.normalize(self.coarse(f), dim=1) for f in (first, second))
        return global_flow_attention(one, other, scale=self.coarse_scale.exp())

    def nearby(self, first: Tensor, second: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Correct a flow `[B, 2, h, w]` between features at a quarter, in places.

        Returns:
            The flow `[B, 2, h, w]`; the logarithm of its usual error in places `[B, h, w]`; and the weights `[B, K, h, w]`.
        """
        found = flow_attention(first, second, flow, radius=self.config.radius, scale=self.fine_scale.exp())
        weights = found.weights
        entropy = -(weights * (weights + 1e-6).log()).sum(1, keepdim=True)
        step = (found.flow - flow).norm(dim=1, keepdim=True)
        known = torch.cat([first, weights.amax(1, keepdim=True), entropy / 4, step / 4], 1)
        return found.flow, self.sure(known)[:, 0].clamp(-4, 4), weights


class _Block(nn.Module):
    """Convolution, normalisation of each channel over the frame, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x)))


class _Rest(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Block(width, width, stride=1), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class _Layer(nn.Module):
    """Attention of one frame's places to those of another, or to its own; then a mix of each place and its neighbours."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.query, self.both, self.out = (
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        q = self.query(self.before(x))
        k, v = self.both(self.before(source)).chunk(2, 1)
        # [B, C, H, W] -> [B, heads, H W, C / heads]
        q, k, v = (t.flatten(2).unflatten(1, (self.heads, -1)).mT for t in (q, k, v))
        q, k = F.elu(q) + 1, F.softmax(k, 2)  # [B, heads, N, D]
        found = (q @ (k.mT @ v) / q.sum(3, keepdim=True)).mT.flatten(1, 2).unflatten(2, x.shape[2:])
        x = x + self.out(found)
        return x + self.mix(self.after(x))


def outlines(frames: Tensor) -> Tensor:
    """Strength and direction of outlines at three scales, the same for bright on dark as for dark on bright: `[B, 6, H/2, W/2]`.

    The direction of a slope is doubled, so that opposite slopes have one direction, summed over a small window and divided by the
    strength of slopes nearby. An intensity map or its inverse changes little of it.

    Args:
        frames: `[B, 1, H, W]` from 0 to 255.
    """
    found, level = [], frames
    for scale in range(3):
        right, down = _slopes(level)
        pair = torch.cat([right.square() - down.square(), 2 * right * down], 1)
        strength = (right.square() + down.square() + 1e-6).sqrt()
        pair = _smooth(pair / strength)  # the strength once, the direction doubled
        usual = _around(strength)
        pair = pair / (usual + CALM / 2**scale)
        if scale == 0:
            found.append(F.avg_pool2d(pair, 2))
        else:
            size = [frames.shape[2] // 2, frames.shape[3] // 2]
            found.append(F.interpolate(pair, size=size, mode="bilinear", align_corners=False) if scale > 1 else pair)
        level = F.avg_pool2d(_smooth(level), 2)
    return torch.cat(found, 1)


def brightness(frames: Tensor) -> Tensor:
    """Brightness, normalised over the frame and over the neighbourhood: `[B, 2, H/2, W/2]`."""
    half = F.avg_pool2d(frames, 2)
    whole = (half - half.mean((2, 3), keepdim=True)) / (half.std((2, 3), keepdim=True) + 1)
    near = half - _around(half)
    deviation = (_around(near.square()) + CALM**2).sqrt()
    return torch.cat([whole, near / deviation], 1)


def _slopes(level: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes along x and y."""
    padded = F.pad(level, [1] * 4, mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def _around(x: Tensor) -> Tensor:
    """The mean over 15 x 15 pixels about each."""
    return F.avg_pool2d(F.avg_pool2d(x, (15, 1), 1, (7, 0), False, False), (1, 15), 1, (0, 7), False, False)


def _smooth(x: Tensor) -> Tensor:
    """Binomial smoothing of each channel."""
    kernel = x.new_tensor(KERNEL) / 16
    channels = x.shape[1]
    padded = F.pad(x, [2] * 4, mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(across, kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)
