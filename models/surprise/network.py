"""The predictor: a frame's tokens from those before it and from what the camera did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.surprise.motion import ACTION, Motion


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        tokens: channels to which the encoder's tokens are reduced, whitened.
        state: of the GRU.
        hidden: channels of the two convolutions.
        memory: share of the frame in the running picture of what is usually there.
        compensates: whether it is told of the camera's motion; without, it is the uncompensated baseline.
    """

    tokens: int = 16
    state: int = 32
    hidden: int = 32
    memory: float = 0.15
    compensates: bool = True


class Seen(NamedTuple):
    """What a camera's predictor remembers: B cameras, tokens C wide on a grid h x w.

    Args:
        last: `[B, C, h, w]`, the frame before.
        usual: `[B, C, h, w]`, the running picture, moved along with the camera.
        state: `[B, S]`, the GRU's.
        known: `[B]`, 0 before a camera's first frame, else 1.
    """

    last: Tensor
    usual: Tensor
    state: Tensor
    known: Tensor


class Expected(NamedTuple):
    """What is expected of a frame, as a Gaussian a token and channel: `mean` and `log_variance`, `[B, C, h, w]`."""

    mean: Tensor
    log_variance: Tensor


class Predictor(nn.Module):
    """Both the frame before and the running picture are moved to where the camera is now; a GRU over pooled tokens and actions
    says what kind of water and motion it is; two convolutions correct the picture and say how far it may be off.

    Source: DINO-Explorer (arXiv 2604.12933): an action-conditioned GRU that predicts the next latent. Predicting a map instead of
    one vector, warping it, and the variance (what a fast pan may get wrong surprises nobody) are this project's choices.

    Args:
        config: sizes.
        width: of the encoder's tokens.
        rank: of the cameras' adapters.
    """

    def __init__(self, config: NetworkConfig, *, width: int, rank: int) -> None:
        super().__init__()
        c = config
        self.config = c
        self.centre: Tensor
        self.basis: Tensor
        self.scale: Tensor
        self.looks_at: Tensor
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, c.tokens))
        self.register_buffer("scale", torch.ones(len(ACTION)))
        self.register_buffer("looks_at", torch.zeros(rank, 2 * c.tokens))
        self.gru = nn.GRUCell(c.tokens + len(ACTION), c.state)
        self.look = nn.Conv2d(2 * c.tokens + 3, c.hidden, 3, padding=1)
        self.told = nn.Linear(c.state + len(ACTION), c.hidden)
        self.say = nn.Conv2d(c.hidden, 2 * c.tokens, 3, padding=1)
        self.say.weight.data.zero_()  # begins as: all is where it was

    def blank(self, count: int, grid: tuple[int, int]) -> Seen:
        """What is remembered before a first frame."""
        c = self.config
        nothing = torch.zeros(count, c.tokens, *grid)
        return Seen(nothing, nothing, torch.zeros(count, c.state), torch.zeros(count))

    def whitened(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """An encoder's tokens `[B, h * w, width]` as `[B, C, h, w]`: their main directions, each of variance 1 in training."""
        return ((tokens - self.centre) @ self.basis).mT.unflatten(2, grid)

    def expect(self, seen: Seen, motion: Motion, adapter: Tensor) -> tuple[Expected, Seen, Tensor]:
        """As `forward`, with each camera's own correction on top.

        Args:
            adapter: `[B, C, rank]`.

        Returns:
            Expectation and what was seen, as of `forward`; and `[B, rank, h, w]`, what the adapter looks at.
        """
        expected, moved = self(seen, motion)
        looks = self.looks_at @ torch.cat([moved.last, moved.usual], 1).flatten(2)
        own = (adapter @ looks).view_as(expected.mean)
        return Expected(expected.mean + own, expected.log_variance), moved, looks.unflatten(2, own.shape[2:])

    def forward(self, seen: Seen, motion: Motion) -> tuple[Expected, Seen]:
        """What the next frame should look like.

        Args:
            seen: so far.
            motion: into the next frame.

        Returns:
            The expectation, and what was seen, moved to the next frame's place; `update` adds the frame itself.
        """
        warp, action = motion.warp, motion.action * self.scale
        if not self.config.compensates:
            warp, action = torch.eye(2, 3, device=warp.device).expand_as(warp), torch.zeros_like(action)
        state = self.gru(torch.cat([seen.last.mean((2, 3)), action], 1), seen.state)
        width = seen.last.shape[1]
        moved = warped(torch.cat([seen.last, seen.usual, torch.ones_like(seen.last[:, :1])], 1), warp)
        last, usual, inside = moved.split([width, width, 1], 1)
        h = (
            self.look(torch.cat([last, usual, inside, _places(last)], 1))
            + self.told(torch.cat([state, action], 1))[:, :, None, None]
        )
        change, log_variance = self.say(F.gelu(h)).chunk(2, 1)
        expected = Expected(last + change, log_variance.clamp(-6, 4))
        return expected, Seen(last, usual + (1 - inside) * expected.mean.detach(), state, seen.known)

    def update(self, moved: Seen, tokens: Tensor) -> Seen:
        """What is remembered once a frame's tokens `[B, C, h, w]` are there."""
        share = torch.where(moved.known > 0, self.config.memory, 1.0)[:, None, None, None]
        usual = moved.usual + share * (tokens - moved.usual)
        return Seen(tokens, usual, moved.state, torch.ones_like(moved.known))


def warped(maps: Tensor, warp: Tensor) -> Tensor:
    """Maps `[B, C, h, w]` moved to where the camera is now, zero where it has not been; `warp` as of `Motion`."""
    grid = F.affine_grid(warp, [len(maps), 1, *maps.shape[2:]], align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False, padding_mode="zeros")


def _places(like: Tensor) -> Tensor:
    """How far from the middle each place is, up and down and to the sides, `[B, 2, h, w]`."""
    b, _, h, w = like.shape
    y = torch.linspace(-1, 1, h, device=like.device)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w, device=like.device)[None].expand(h, w)
    return torch.stack([y, x]).expand(b, 2, h, w)


def surprise(expected: Expected, tokens: Tensor, *, cosine: float) -> Tensor:
    """How much each place of a frame, with those around it, surprises, `[B, h, w]`: squared error in units of what is expected,
    and angle.

    Args:
        tokens: `[B, C, h, w]`, what came.
        cosine: weight of `1 - cosine`, the other being that of the error.
    """
    mean = expected.mean
    error = ((tokens - mean).square() * torch.exp(-expected.log_variance)).mean(1)
    # By hand, since torch's own takes norms across channels, which it does twenty times as slowly.
    lengths = tokens.square().sum(1).sqrt() * mean.square().sum(1).sqrt()
    angle = 1 - (tokens * mean).sum(1) / lengths.clamp(min=1e-8)
    mixed = (1 - cosine) * error + cosine * angle
    # What is new covers places that touch; caustics and particles are here and there.
    return F.avg_pool2d(mixed, 3, stride=1, padding=1, count_include_pad=False)
