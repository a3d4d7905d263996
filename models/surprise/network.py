"""The predictor: predicts a frame's tokens from the frames before it and the camera's motion."""

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
        state: width of the GRU's state.
        hidden: channels between the two convolutions.
        memory: weight of each new frame in the running picture of what is usually there.
        compensates: whether it uses the camera's motion; False is the uncompensated baseline.
    """

    tokens: int = 16
    state: int = 32
    hidden: int = 32
    memory: float = 0.15
    compensates: bool = True


class PredictorState(NamedTuple):
    """The predictor's state for B cameras; tokens have C channels on a grid h x w.

    Args:
        last: `[B, C, h, w]`, the frame before.
        usual: `[B, C, h, w]`, the running picture, warped by the camera's motion.
        state: `[B, S]`, the GRU's.
        known: `[B]`, 0 before a camera's first frame, else 1.
    """

    last: Tensor
    usual: Tensor
    state: Tensor
    known: Tensor


class Expected(NamedTuple):
    """The prediction of a frame, a Gaussian per token and channel: `mean` and `log_variance`, `[B, C, h, w]`."""

    mean: Tensor
    log_variance: Tensor


class Predictor(nn.Module):
    """Predicts the next frame's tokens and their variance.

    The frame before and the running picture are warped to the camera's new position. A GRU over pooled tokens and actions encodes
    the kind of water and motion. Two convolutions correct the warped picture and predict its variance.

    Source: DINO-Explorer (arXiv 2604.12933): an action-conditioned GRU that predicts the next latent. Predicting a map instead of
    one vector, warping it, and the variance are this project's choices. The variance discounts the errors that a fast pan causes.

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
        self.say.weight.data.zero_()  # at first the prediction is the warped frame before

    def blank(self, count: int, grid: tuple[int, int]) -> PredictorState:
        """The state before the first frame."""
        c = self.config
        zeros = torch.zeros(count, c.tokens, *grid)
        return PredictorState(zeros, zeros, torch.zeros(count, c.state), torch.zeros(count))

    def whitened(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Project an encoder's tokens `[B, h * w, width]` to principal components `[B, C, h, w]`, of variance 1 in training."""
        return ((tokens - self.centre) @ self.basis).mT.unflatten(2, grid)

    def expect(self, state: PredictorState, motion: Motion, adapter: Tensor) -> tuple[Expected, PredictorState, Tensor]:
        """Predict as `forward` does, and add each camera's own correction.

        Args:
            adapter: `[B, C, rank]`.

        Returns:
            The prediction and the warped state, as of `forward`; and the adapter's input, `[B, rank, h, w]`.
        """
        expected, warped_state = self(state, motion)
        adapter_input = self.looks_at @ torch.cat([warped_state.last, warped_state.usual], 1).flatten(2)
        correction = (adapter @ adapter_input).view_as(expected.mean)
        return (
            Expected(expected.mean + correction, expected.log_variance),
            warped_state,
            adapter_input.unflatten(2, correction.shape[2:]),
        )

    def forward(self, state: PredictorState, motion: Motion) -> tuple[Expected, PredictorState]:
        """Predict the next frame.

        Args:
            state: so far.
            motion: into the next frame.

        Returns:
            The prediction, and the state warped to the next frame; `update` adds the frame itself.
        """
        warp, action = motion.warp, motion.action * self.scale
        if not self.config.compensates:
            warp, action = torch.eye(2, 3, device=warp.device).expand_as(warp), torch.zeros_like(action)
        gru_state = self.gru(torch.cat([state.last.mean((2, 3)), action], 1), state.state)
        width = state.last.shape[1]
        moved = warped(torch.cat([state.last, state.usual, torch.ones_like(state.last[:, :1])], 1), warp)
        last, usual, inside = moved.split([width, width, 1], 1)
        h = (
            self.look(torch.cat([last, usual, inside, _places(last)], 1))
            + self.told(torch.cat([gru_state, action], 1))[:, :, None, None]
        )
        change, log_variance = self.say(F.gelu(h)).chunk(2, 1)
        expected = Expected(last + change, log_variance.clamp(-6, 4))
        return expected, PredictorState(last, usual + (1 - inside) * expected.mean.detach(), gru_state, state.known)

    def update(self, state: PredictorState, tokens: Tensor) -> PredictorState:
        """Add a frame's tokens `[B, C, h, w]` to the warped state."""
        share = torch.where(state.known > 0, self.config.memory, 1.0)[:, None, None, None]
        usual = state.usual + share * (tokens - state.usual)
        return PredictorState(tokens, usual, state.state, torch.ones_like(state.known))


def warped(maps: Tensor, warp: Tensor) -> Tensor:
    """Warp maps `[B, C, h, w]` to the camera's new position; zero outside the frame before. `warp` is as in `Motion`."""
    grid = F.affine_grid(warp, [len(maps), 1, *maps.shape[2:]], align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False, padding_mode="zeros")


def _places(like: Tensor) -> Tensor:
    """Coordinates of each place, y and x from -1 to 1, `[B, 2, h, w]`."""
    b, _, h, w = like.shape
    y = torch.linspace(-1, 1, h, device=like.device)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w, device=like.device)[None].expand(h, w)
    return torch.stack([y, x]).expand(b, 2, h, w)


def surprise(expected: Expected, tokens: Tensor, *, cosine: float) -> Tensor:
    """The surprise of each place of a frame, `[B, h, w]`.

    It mixes the squared error, in units of the predicted variance, with the angle, and averages over 3 x 3 places.

    Args:
        tokens: `[B, C, h, w]`, the frame's.
        cosine: weight of the angle, which is 1 minus the cosine similarity; the error has weight `1 - cosine`.
    """
    mean = expected.mean
    error = ((tokens - mean).square() * torch.exp(-expected.log_variance)).mean(1)
    # Written out: torch's cosine similarity takes norms across channels, which is twenty times slower.
    lengths = tokens.square().sum(1).sqrt() * mean.square().sum(1).sqrt()
    angle = 1 - (tokens * mean).sum(1) / lengths.clamp(min=1e-8)
    mixed = (1 - cosine) * error + cosine * angle
    # A novelty covers adjacent places; caustics and particles are scattered.
    return F.avg_pool2d(mixed, 3, stride=1, padding=1, count_include_pad=False)
