"""Triage: decides which prediction errors are something new, from how they look and how they develop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.surprise.network import Expected, warped

CALM = 0.2
"""Error of a frame in which nothing moves. A lower error in the rest of a frame does not make a place stand out more."""
LARGE = 12.0
"""Deviations at which a token's error is clipped."""
RARE = -4.0
"""Initial logit of a place, before anything is known of it."""


@dataclass(frozen=True)
class TriageConfig:
    """Sizes of the network.

    Args:
        hidden: channels of its convolutions.
        memory: channels of its state for each place.
        heads: networks, each trained by itself, whose logits are averaged. A recording that one errs on is seldom another's.
        top: number of places, the most suspect ones, whose mean logit is the frame's score.
    """

    hidden: int = 32
    memory: int = 8
    heads: int = 2
    top: int = 6

    @property
    def state(self) -> int:
        """Channels of all states together."""
        return self.heads * self.memory


class Head(nn.Module):
    """One network of triage."""

    def __init__(self, config: TriageConfig, *, tokens: int) -> None:
        super().__init__()
        c = config
        self.look = nn.Conv2d(tokens + 3 + c.memory, c.hidden, 3, padding=1)
        self.around = nn.Conv2d(c.hidden, c.hidden, 3, padding=2, dilation=2)
        self.say = nn.Conv2d(c.hidden, 1 + 2 * c.memory, 1)
        begins = torch.zeros(1 + 2 * c.memory)
        begins[0], begins[1 + c.memory :] = RARE, -1.0  # gates start low: most of the state stays
        self.say.bias = nn.Parameter(begins)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of each place, `[B, h, w]`, and the new state `[B, memory, h, w]`."""
        output = self.say(F.gelu(self.around(F.gelu(self.look(torch.cat([inputs, state], 1))))))
        logits, update, share = output.split([1, state.shape[1], state.shape[1]], 1)
        return logits[:, 0], state + share.sigmoid() * (update.tanh() - state)


class Triage(nn.Module):
    """Recurrent networks over the prediction error of each place.

    Caustics, particles and an unseen bottom cause errors, too. Their errors differ from those of a novelty in look and duration.
    The network sees errors, not the picture: what it learns from simulated novelties must hold for kinds that it has never seen.

    Source: "event triage" after a surprise is DINO-Explorer's (arXiv 2604.12933). Learning it is this project's choice.

    Args:
        config: sizes.
        tokens: channels of a token.
        compensates: whether its state is warped by the camera's motion.
    """

    def __init__(self, config: TriageConfig, *, tokens: int, compensates: bool) -> None:
        super().__init__()
        self.config, self.compensates = config, compensates
        self.heads = nn.ModuleList(Head(config, tokens=tokens) for _ in range(config.heads))

    def forward(self, state: Tensor, evidence: Tensor, warp: Tensor) -> tuple[Tensor, Tensor]:
        """Score the places of a frame.

        Args:
            state: `[B, heads * memory, h, w]`; zeros before a camera's second frame.
            evidence: `[B, C + 1, h, w]`, from `evidence`.
            warp: into the frame, as in `Motion`.

        Returns:
            The logit that each place is part of something new, `[B, h, w]`; and the new state.
        """
        deviation = evidence[:, :-1]
        error = F.avg_pool2d(deviation.square().mean(1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
        usual = error.flatten(1).median(1).values[:, None, None, None]
        if self.compensates:
            state = warped(state, warp)
        # The error is also given relative to the frame's median: blur, flicker and a jerk affect the whole frame.
        inputs = [
            deviation / (1 + deviation.abs() / 4),
            error.log1p(),
            (error / (usual + CALM)).log1p(),
            evidence[:, -1:],
        ]
        seen, states = torch.cat(inputs, 1), state.chunk(len(self.heads), 1)
        logits, states = zip(*(head(seen, own) for head, own in zip(self.heads, states, strict=True)), strict=True)
        return torch.stack(logits).mean(0), torch.cat(states, 1)

    def score(self, logits: Tensor) -> Tensor:
        """Score each frame, `[B, h, w]` -> `[B]`: the mean logit of its most suspect places."""
        return logits.flatten(1).topk(self.config.top, 1).values.mean(1)


def evidence(expected: Expected, tokens: Tensor) -> Tensor:
    """The error of each token `[B, C, h, w]`, in deviations, and `1 - cosine` to its prediction: `[B, C + 1, h, w]`."""
    deviation = (tokens - expected.mean) * torch.exp(-expected.log_variance / 2)
    angle = 1 - F.cosine_similarity(tokens, expected.mean, eps=1e-6)
    return torch.cat([deviation.clamp(-LARGE, LARGE), angle[:, None]], 1)
