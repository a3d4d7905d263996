"""The trained network: encodes each frame's tokens of scene and hands as a vector, and predicts events from windows of vectors."""

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
"""Channels to which each token of a hand is reduced before they are joined into the hand's vector."""
RARE = 0.02
"""Share of frames at an event that an untrained network assumes."""


class Tokens(NamedTuple):
    """Shape of the tokens that `tocsin.models.touch.model.Eyes` extracts from one part of the picture.

    Args:
        width: channels of a token; the last ones hold motion, see `tocsin.models.touch.moving`.
        grid: rows and columns of the tokens.
    """

    width: int
    grid: tuple[int, int]


class Prediction(NamedTuple):
    """Predictions per frame, hand (left, right) and kind (contact, release): `[B, L, 2, 2]` both.

    Args:
        logits: logits of an event.
        displacement: frames since the event; negative before it.
    """

    logits: Tensor
    displacement: Tensor


class Projection(nn.Module):
    """Standardises each channel of tokens by its statistics in training, and projects tokens to the network's channels.

    Dropout skips the last channels, which hold motion: they are few, and the most informative.
    """

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.drop, self.reduce = nn.Dropout(dropout), nn.Linear(width, dim)

    def fit(self, tokens: Tensor) -> None:
        """Set centre and scale from sample tokens, `[..., width]`."""
        scale, centre = torch.std_mean(tokens.flatten(0, -2).float(), 0)
        self.centre.copy_(centre)
        self.scale.copy_(scale.clamp(min=1e-3))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., width]` -> `[..., dim]`."""
        appearance, motion = ((tokens - self.centre) / self.scale).split([tokens.shape[-1] - MOTION, MOTION], -1)
        reduced: Tensor = self.reduce(torch.cat([self.drop(appearance), motion], -1))
        return reduced


class FrameEncoder(nn.Module):
    """Encodes a frame as one vector, from the scene after its attention to the hands, each hand's tokens, and the hands' boxes.

    Source: HiCE (arXiv 2604.12343) for the scene's attention to the hands. This project added motion to the tokens, and each hand's
    own tokens and box to the vector: a grip is finer than the scene's tokens, and boxes show velocities.

    Args:
        config: sizes.
        scene, hands: shapes of the tokens of the whole frame and of a hand's crop.
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
        """Set centre and scale of the tokens' channels from sample frames, given as to `forward`; of hands if any is present."""
        self.scene.fit(scene)
        if present.any():
            self.hands.fit(hands[present])

    def forward(self, scene: Tensor, hands: Tensor, present: Tensor, boxes: Tensor) -> Tensor:
        """Encode frames. The values of an absent hand, even NaN, are ignored.

        Args:
            scene: `[B, N, C1]`, the frame's tokens.
            hands: `[B, 2, M, C2]`, the tokens of the left and the right hand's crop.
            present: `[B, 2] bool`, True where a hand is visible.
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
        index = present.flatten().nonzero()[:, 0]  # compute present hands only
        reduced = self.hands(hands.flatten(0, 1).index_select(0, index))  # [H, M, C]
        grips = self.absent.expand(present.numel(), -1).index_copy(0, index, self.grip(reduced))
        all_tokens = reduced.new_zeros(present.numel(), *reduced.shape[1:]).index_copy(0, index, reduced)
        scene_vector, _ = self.pool(self.told(self.scene(scene), all_tokens.unflatten(0, present.shape), present))
        places = _places(boxes, present[..., None])
        vector: Tensor = self.join(
            torch.cat([scene_vector, grips.unflatten(0, present.shape).flatten(1), places.flatten(1)], 1)
        )
        return vector


class TouchNet(nn.Module):
    """Encodes each frame once with `look`, and predicts events from windows of vectors with `predict`.

    `holding` predicts from a frame's vector the logits that each hand touches something. Only training uses it. Every frame has
    such a label, while events are few, so there is far more to learn from. HiCE's auxiliary grasp head does the same.

    Args:
        config: sizes.
        scene, hands: shapes of the tokens of the whole frame and of a hand's crop.
    """

    def __init__(self, config: NetworkConfig, *, scene: Tokens, hands: Tokens) -> None:
        super().__init__()
        c = self.config = config
        self.look = FrameEncoder(c, scene=scene, hands=hands)
        self.moments = nn.Parameter(0.02 * torch.randn(c.window, c.dim))
        self.mixer = Mixer(
            layers=c.layers, dim=c.dim, kernel=c.kernel, reach=c.reach, expansion=c.expansion, dropout=c.dropout
        )
        self.holding = nn.Linear(c.dim, len(HANDS))
        events = len(HANDS) * len(KINDS)
        self.before_saying = nn.Sequential(nn.LayerNorm(c.dim), nn.Dropout(c.dropout))
        self.say = nn.Linear(c.dim, 2 * events)
        self.say.bias.data[:events] = math.log(RARE / (1 - RARE))

    def predict(self, window: Tensor, mask: Tensor) -> Prediction:
        """Predict the frames of windows. A stream uses the one at `config.past`.

        Args:
            window: `[B, L, dim]`, from `look`, oldest first; values of absent frames, even NaN, are ignored.
            mask: `[B, L] bool`, False before a camera's first frame and after its last.

        Returns:
            The predictions, undefined for absent frames.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        c = self.config
        match(window=(window, f"B {c.window} {c.dim}"), mask=(mask, f"B {c.window}"))
        mixed = self.mixer(window + self.moments, mask)
        output = self.say(self.before_saying(mixed)).unflatten(2, (2, len(HANDS), len(KINDS)))
        return Prediction(output[:, :, 0], output[:, :, 1])


def _places(boxes: Tensor, visible: Tensor) -> Tensor:
    """Centre, size and presence of hands: `[B, 2, 4]` -> `[B, 2, 5]`, about -2 to 2; zeros for an absent hand."""
    low, high = boxes[..., :2], boxes[..., 2:]
    places = 4 * torch.cat([(low + high) / 2 - 0.5, high - low], dim=-1)
    return torch.cat([torch.where(visible, places, 0), visible.to(boxes.dtype)], dim=-1)
