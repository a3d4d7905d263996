"""The trained part: a vector a frame from tokens of scene and hands, and what a window of them says of each frame."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tocsin.models.touch.config import NetworkConfig
from tocsin.models.touch.mixer import Mixer
from tocsin.models.touch.moving import MOTION
from tocsin.models.touch.truth import HANDS, KINDS
from tocsin.operators.hands import HandCrossAttention
from tocsin.operators.pooling import AdditiveAttentionPool
from tocsin.operators.shapes import match

PART = 16
"""Channels of each of a hand's tokens that go into its one vector."""
RARE = 0.02
"""What an untrained network takes for the share of frames at an event."""


class Tokens(NamedTuple):
    """What `tocsin.models.touch.model.Eyes` give of one part of the picture.

    Args:
        width: of a token, whose last channels tell of motion, see `tocsin.models.touch.moving`.
        grid: rows and columns of the tokens.
    """

    width: int
    grid: tuple[int, int]


class Judgement(NamedTuple):
    """What is said of each frame, a hand (left, right) and kind (contact, release) each: `[B, L, 2, 2]` both.

    Args:
        logits: of there being an event.
        displacement: frames since it; negative before it.
    """

    logits: Tensor
    displacement: Tensor


class Projection(nn.Module):
    """Tokens, each channel standardised by what it had in training, brought to as many channels as the network has.

    None of their last channels, which tell of motion, is dropped: there are few, and they tell most.
    """

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.drop, self.reduce = nn.Dropout(dropout), nn.Linear(width, dim)

    def fit(self, tokens: Tensor) -> None:
        """Take centre and scale from some tokens, `[..., width]`."""
        scale, centre = torch.std_mean(tokens.flatten(0, -2).float(), 0)
        self.centre.copy_(centre)
        self.scale.copy_(scale.clamp(min=1e-3))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., width]` -> `[..., dim]`."""
        seen, moved = ((tokens - self.centre) / self.scale).split([tokens.shape[-1] - MOTION, MOTION], -1)
        reduced: Tensor = self.reduce(torch.cat([self.drop(seen), moved], -1))
        return reduced


class Glance(nn.Module):
    """One frame becomes one vector: its scene, told of the hands; each hand; and where the hands are.

    Source: HiCE (arXiv 2604.12343) for the scene's attention to the hands. That tokens tell of motion, and that each hand's own
    tokens and box come along (a grip is finer than the scene's tokens, and boxes tell velocities), are this project's choices.

    Args:
        config: sizes.
        scene, hands: what is given of the whole frame and of a hand's crop.
    """

    def __init__(self, config: NetworkConfig, *, scene: Tokens, hands: Tokens) -> None:
        super().__init__()
        c, self.scene_tokens, self.hand_tokens = config, scene, hands
        self.scene, self.hands = (Projection(kind.width, c.tokens, c.dropout) for kind in (scene, hands))
        self.told = HandCrossAttention(
            dim=c.tokens,
            heads=c.heads,
            grid=scene.grid,
            hand_grid=hands.grid,
            expansion=c.expansion,
            dropout=c.dropout,
        )
        self.pool = AdditiveAttentionPool(dim=c.tokens, hidden=c.tokens)
        self.grip = nn.Sequential(
            nn.GELU(),
            nn.Linear(c.tokens, c.tokens),
            nn.GELU(),
            nn.Linear(c.tokens, PART),
            nn.Flatten(),
            nn.Linear(PART * math.prod(hands.grid), 2 * c.tokens),
            nn.GELU(),
            nn.Linear(2 * c.tokens, c.tokens),
        )
        self.absent = nn.Parameter(0.02 * torch.randn(c.tokens))
        self.join = nn.Linear(c.tokens + len(HANDS) * (c.tokens + 5), c.dim)

    def fit(self, scene: Tensor, hands: Tensor, present: Tensor) -> None:
        """Take centre and scale of the tokens' channels from some frames, as `forward` gets them; of hands if there are any."""
        self.scene.fit(scene)
        if present.any():
            self.hands.fit(hands[present])

    def forward(self, scene: Tensor, hands: Tensor, present: Tensor, boxes: Tensor) -> Tensor:
        """Look at frames. What is given of an absent hand changes nothing, be it NaN.

        Args:
            scene: `[B, N, C1]`, the frame's tokens.
            hands: `[B, 2, M, C2]`, those of the left hand's crop and of the right one's.
            present: `[B, 2] bool`, True where a hand is to be seen.
            boxes: `[B, 2, 4]`, left, top, right and bottom of a hand, as shares of the frame's width and height.

        Returns:
            `[B, dim]`.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        s, h = self.scene_tokens, self.hand_tokens
        match(
            scene=(scene, f"B {math.prod(s.grid)} {s.width}"),
            hands=(hands, f"B 2 {math.prod(h.grid)} {h.width}"),
            present=(present, "B 2"),
            boxes=(boxes, "B 2 4"),
        )
        some = present.flatten().nonzero()[:, 0]  # only hands that are there are computed
        reduced = self.hands(hands.flatten(0, 1).index_select(0, some))  # [H, M, C]
        grips = self.absent.expand(present.numel(), -1).index_copy(0, some, self.grip(reduced))
        every = reduced.new_zeros(present.numel(), *reduced.shape[1:]).index_copy(0, some, reduced)
        told, _ = self.pool(self.told(self.scene(scene), every.unflatten(0, present.shape), present))
        places = _places(boxes, present[..., None])
        seen: Tensor = self.join(torch.cat([told, grips.unflatten(0, present.shape).flatten(1), places.flatten(1)], 1))
        return seen


class TouchNet(nn.Module):
    """`look` at each frame once; `judge` windows of what was seen.

    `holding`, of a frame's vector, are logits of each hand's touching something. Only training asks for them: there is far more to
    learn from in what each frame is than in the few events, as HiCE's auxiliary head for grasps has it.

    Args:
        config: sizes.
        scene, hands: what is given of the whole frame and of a hand's crop.
    """

    def __init__(self, config: NetworkConfig, *, scene: Tokens, hands: Tokens) -> None:
        super().__init__()
        c = self.config = config
        self.look = Glance(c, scene=scene, hands=hands)
        self.moments = nn.Parameter(0.02 * torch.randn(c.window, c.dim))
        self.mixer = Mixer(
            layers=c.layers, dim=c.dim, kernel=c.kernel, reach=c.reach, expansion=c.expansion, dropout=c.dropout
        )
        self.holding = nn.Linear(c.dim, len(HANDS))
        events = len(HANDS) * len(KINDS)
        self.before_saying = nn.Sequential(nn.LayerNorm(c.dim), nn.Dropout(c.dropout))
        self.say = nn.Linear(c.dim, 2 * events)
        self.say.bias.data[:events] = math.log(RARE / (1 - RARE))

    def judge(self, window: Tensor, there: Tensor) -> Judgement:
        """What a window says of its frames; the one that a stream asks about is at `config.past`.

        Args:
            window: `[B, L, dim]`, from `look`, oldest first; what absent frames hold changes nothing, be it NaN.
            there: `[B, L] bool`, False before a camera's first frame and after its last.

        Returns:
            Of no meaning where no frame is.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        c = self.config
        match(window=(window, f"B {c.window} {c.dim}"), there=(there, f"B {c.window}"))
        mixed = self.mixer(window + self.moments, there)
        said = self.say(self.before_saying(mixed)).unflatten(2, (2, len(HANDS), len(KINDS)))
        return Judgement(said[:, :, 0], said[:, :, 1])


def _places(boxes: Tensor, there: Tensor) -> Tensor:
    """Centre, size and presence of hands: `[B, 2, 4]` -> `[B, 2, 5]`, about -2 to 2; zeros where none is."""
    low, high = boxes[..., :2], boxes[..., 2:]
    places = 4 * torch.cat([(low + high) / 2 - 0.5, high - low], dim=-1)
    return torch.cat([torch.where(there, places, 0), there.to(boxes.dtype)], dim=-1)
