"""Triage: which of what the predictor did not expect is something new, from how it looks in the error and how it goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.surprise.network import Expected, warped

CALM = 0.2
"""Error of a frame in which nothing moves, below which the rest of a frame makes a place stand out no more."""
LARGE = 12.0
"""Deviations beyond which a token is just as far off."""
RARE = -4.0
"""Logit of a place of which nothing is known."""


@dataclass(frozen=True)
class TriageConfig:
    """Sizes of the network.

    Args:
        hidden: channels of its convolutions.
        memory: channels of what it remembers of each place.
        top: places of a frame, the most suspect ones, whose mean is the frame's score.
    """

    hidden: int = 32
    memory: int = 8
    top: int = 6


class Triage(nn.Module):
    """A recurrent network over the error, place by place: caustics, particles and a bottom that nobody has seen before are off as
    well, but look and last otherwise than what has come into the picture.

    It sees errors, not the picture: what it learns from simulated novelties has to hold for kinds that it has never met.
    Source: "event triage" after a surprise is DINO-Explorer's (arXiv 2604.12933); that it is learnt is this project's choice.

    Args:
        config: sizes.
        tokens: channels of a token.
        compensates: whether its memory moves along with the camera.
    """

    def __init__(self, config: TriageConfig, *, tokens: int, compensates: bool) -> None:
        super().__init__()
        self.config, self._compensates = config, compensates
        c = config
        self.look = nn.Conv2d(tokens + 3 + c.memory, c.hidden, 3, padding=1)
        self.around = nn.Conv2d(c.hidden, c.hidden, 3, padding=2, dilation=2)
        self.say = nn.Conv2d(c.hidden, 1 + 2 * c.memory, 1)
        begins = torch.zeros(1 + 2 * c.memory)
        begins[0], begins[1 + c.memory :] = RARE, -1.0  # of what is remembered most stays
        self.say.bias = nn.Parameter(begins)

    def forward(self, seen: Tensor, evidence: Tensor, warp: Tensor) -> tuple[Tensor, Tensor]:
        """Judge a frame.

        Args:
            seen: `[B, memory, h, w]`, what it remembers; zeros before a camera's second frame.
            evidence: `[B, C + 1, h, w]`, from `evidence`; warp: into the frame, as of `Motion`.

        Returns:
            Logits of each place's being part of something new, `[B, h, w]`, and what it remembers from now on.
        """
        off = evidence[:, :-1]
        error = F.avg_pool2d(off.square().mean(1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
        usual = error.flatten(1).median(1).values[:, None, None, None]
        if self._compensates:
            seen = warped(seen, warp)
        # In units of what the rest of the frame has, too: blur, flicker and a jerk are everywhere.
        looks = [off / (1 + off.abs() / 4), error.log1p(), (error / (usual + CALM)).log1p(), evidence[:, -1:], seen]
        said = self.say(F.gelu(self.around(F.gelu(self.look(torch.cat(looks, 1))))))
        logits, fresh, share = said.split([1, self.config.memory, self.config.memory], 1)
        return logits[:, 0], seen + share.sigmoid() * (fresh.tanh() - seen)

    def score(self, logits: Tensor) -> Tensor:
        """Of each frame, `[B, h, w]` -> `[B]`: the mean logit of its most suspect places."""
        return logits.flatten(1).topk(self.config.top, 1).values.mean(1)


def evidence(expected: Expected, tokens: Tensor) -> Tensor:
    """How far each token `[B, C, h, w]` is off, in deviations, and `1 - cosine` of it: `[B, C + 1, h, w]`."""
    off = (tokens - expected.mean) * torch.exp(-expected.log_variance / 2)
    angle = 1 - F.cosine_similarity(tokens, expected.mean, eps=1e-6)
    return torch.cat([off.clamp(-LARGE, LARGE), angle[:, None]], 1)
