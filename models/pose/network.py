"""The network: which correspondences to trust, and which motion to expect, from the frames so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.pose.geometry import fitted, nearness, turn, unit
from tocsin.models.pose.motion import Pairs
from tocsin.operators.context import context_mask

SPECIAL = 2
"""Tokens of a frame that stay when it leaves the window: of the motion, and of the depth."""
FEATURES = 10
AGREED = 3.0
"""Initial logit of the share of the two-view estimate in the expected direction."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        places: rows and columns of the flow vectors.
        patches: rows and columns of the tokens of a frame.
        hidden: channels of the convolutions.
        width, heads, layers: of the transformer.
        window: latest frames that are kept whole; memory: frames before these of which `SPECIAL` tokens are kept.
        anchored: whether the first frame is kept whole for good.
        steps: of the fit.
    """

    places: tuple[int, int] = (15, 20)
    patches: tuple[int, int] = (3, 4)
    hidden: int = 24
    width: int = 64
    heads: int = 4
    layers: int = 2
    window: int = 8
    memory: int = 24
    anchored: bool = True
    steps: int = 3

    @property
    def tokens(self) -> int:
        """Of a frame."""
        return SPECIAL + self.patches[0] * self.patches[1]


class Steps(NamedTuple):
    """The motion from each of B frames to the frame before.

    Args:
        turn: `[B, 3, 3]`; direction: `[B, 3]`, of the shift, length 1.
        length: `[B]`, the log of the step's length, in units of the mean depth of the first frame.
        depth: `[B]`, the log of the mean depth in these units.
        confidence: `[B]`, the logit that the step is about right.
    """

    turn: Tensor
    direction: Tensor
    length: Tensor
    depth: Tensor
    confidence: Tensor


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class PoseState(NamedTuple):
    """What is remembered of B cameras: keys and values of the first frame, the window and the memory.

    Args:
        stored: `[B, layers, 2, heads, S, D]`, see `PoseNetwork.room`.
        frames: `[B]` int64, number of frames so far.
    """

    stored: Tensor
    frames: Tensor


class Block(nn.Module):
    """A layer of the transformer; attention itself is given."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm, self.after = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attended = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.ReLU(), nn.Linear(2 * config.width, config.width)
        )

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """`[..., P, C]` -> `[..., P, C]`; `attend` maps queries, keys and values `[..., heads, P, D]`."""
        q, k, v = self.attended(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).movedim(-2, -4).unbind(-2)
        tokens = tokens + self.out(attend(q, k, v).movedim(-3, -2).flatten(-2))
        output: Tensor = tokens + self.feed(self.after(tokens))
        return output


class PoseNetwork(nn.Module):
    """Predicts each frame's step from the measurements of its pair and of the frames before.

    Convolutions look at the flow field. A transformer with geometric context attention sees a few patches of it and two special
    tokens for each frame: those of the first frame and of a window of the latest ones, and the special tokens of a memory. It says
    how far each correspondence can be trusted, and which motion it expects how surely; the step is what fits both best.

    Source: geometric context attention is LingBot-Map's (arXiv 2604.14141), whose network regresses poses from pixels.
    Correspondences as input, the fit, and a memory of a limited number of frames are this project's choices.

    Args:
        config: sizes.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = self.config = config
        self.look = nn.Conv2d(FEATURES, c.hidden, 3, padding=1)
        self.around = nn.Conv2d(c.hidden, c.hidden, 3, padding=1)
        self.patch = nn.Linear(c.hidden, c.width)
        self.place = nn.Parameter(0.02 * torch.randn(c.patches[0] * c.patches[1], c.width))
        self.special = nn.Parameter(0.02 * torch.randn(SPECIAL, c.width))
        self.told = nn.Linear(8 + c.hidden, SPECIAL * c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.trusting = nn.Linear(c.width, c.hidden)
        self.trust = nn.Conv2d(c.hidden, 1, 1)
        self.motion = nn.Linear(c.width, 11)
        self.depth = nn.Linear(c.width, 1)
        begins = torch.zeros(11)
        begins[:2] = AGREED
        self.motion.bias = nn.Parameter(begins)
        self.motion.weight.data *= 0.1

    @property
    def room(self) -> int:
        """Tokens S that are remembered of a camera: the first frame's, the window's and the memory's."""
        c = self.config
        return (1 + c.window) * c.tokens + c.memory * SPECIAL

    def blank(self, count: int) -> PoseState:
        """The state before the first pair."""
        c = self.config
        stored = torch.zeros(count, c.layers, 2, c.heads, self.room, c.width // c.heads)
        return PoseState(stored, torch.zeros(count, dtype=torch.int64))

    def forward(self, pairs: Pairs) -> Steps:
        """The steps of clips, whose pairs are those of `[B, F, ...]` frames in order: `[B, F, ...]`. The form for training."""
        clips, frames = pairs.now.shape[:2]
        flat = Pairs(*(t.flatten(0, 1) for t in vars(pairs).values()))
        local, tokens = self._looked(flat)
        at, mask = torch.arange(frames), self.seen(frames)
        first = (at == 0) & self.config.anchored

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = _rotated(q, at[None]), _rotated(k, at[None], none=first[None])
            q, k, v = (t.movedim(-3, 1).flatten(2, 3) for t in (q, k, v))
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return seen.unflatten(2, (frames, -1)).movedim(1, -3)

        tokens = tokens.unflatten(0, (clips, frames))
        for block in self.blocks:
            tokens = block(tokens, attend)
        steps = self._step(flat, local, tokens.flatten(0, 1))
        return Steps(*(t.unflatten(0, (clips, frames)) for t in steps))

    def seen(self, frames: int) -> Tensor:
        """Which tokens of a clip see which, `[F P, F P]`."""
        c = self.config
        mask = context_mask(frames, tokens=c.tokens, anchor=1, window=c.window, special=SPECIAL, memory=c.memory)
        if not c.anchored:
            age, whole = torch.arange(frames).repeat_interleave(c.tokens), torch.arange(c.tokens) >= SPECIAL
            mask[:, : c.tokens] &= (age[:, None] < c.window) | ((age[:, None] < c.window + c.memory) & ~whole)
        return mask

    @torch.no_grad()
    def step(self, state: PoseState, pairs: Pairs) -> tuple[Steps, PoseState]:
        """The step of each camera's next pair, and the new state. It gives what `forward` gives for the whole clip."""
        c, count = self.config, len(pairs.now)
        local, tokens = self._looked(pairs)
        stored, number = state.stored.clone(), state.frames
        first = (number == 0) & c.anchored
        ring = number - int(c.anchored)
        begin = torch.where(first, 0, c.tokens * (1 + ring % c.window))
        places = begin[:, None] + torch.arange(c.tokens)  # [B, P]
        leaving = c.tokens * (1 + c.window) + SPECIAL * ((ring - c.window) % max(c.memory, 1))
        kept = leaving[:, None] + torch.arange(SPECIAL)
        leaves = (ring >= c.window) & (c.memory > 0)
        known = self._known(number)

        for layer, block in enumerate(self.blocks):
            held = stored[:, layer]  # [B, 2, H, S, D]; a view

            def attend(q: Tensor, k: Tensor, v: Tensor, held: Tensor = held) -> Tensor:
                q, k = _rotated(q, number), _rotated(k, number, none=first)
                for camera in range(count):
                    if leaves[camera]:
                        held[camera][..., kept[camera], :] = held[camera][..., places[camera, :SPECIAL], :]
                    held[camera][..., places[camera], :] = torch.stack([k[camera], v[camera]])
                return F.scaled_dot_product_attention(q, held[:, 0], held[:, 1], attn_mask=known[:, None, None])

            tokens = block(tokens, attend)
        return self._step(pairs, local, tokens), PoseState(stored, number + 1)

    def _known(self, number: Tensor) -> Tensor:
        """Which places of the memory are filled when frame `number` is stored, `[B, S]`."""
        c = self.config
        after = number + 1 - int(c.anchored)  # frames that went into the window
        place = torch.arange(self.room)
        held = (place - c.tokens) // c.tokens
        rest = (place - c.tokens * (1 + c.window)) // SPECIAL
        in_first, in_window = place < c.tokens, place < c.tokens * (1 + c.window)
        whole = torch.where(in_first, torch.tensor(c.anchored), held < after[:, None].clamp(max=c.window))
        return torch.where(in_window, whole, rest < (after[:, None] - c.window).clamp(min=0, max=c.memory))

    def _looked(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Features of the places, `[B, hidden, h, w]`, and the tokens of the frames, `[B, P, C]`."""
        c, guess = self.config, pairs.guess
        flow = pairs.then - pairs.now
        now = torch.cat([pairs.now, torch.ones_like(pairs.now[..., :1])], -1)
        then = torch.cat([pairs.then, torch.ones_like(pairs.then[..., :1])], -1)
        turned = now @ turn(guess[:, :3]).mT
        rest = pairs.then - turned[..., :2] / turned[..., 2:].clamp(min=0.1)
        miss = (torch.cross(turned, then, dim=-1) * guess[:, None, 3:6]).sum(-1, keepdim=True)
        share = guess[:, None, 6:].expand_as(miss)
        fine = pairs.focal[:, None, None]
        features = [pairs.now, 10 * flow, _squashed(fine * rest / 2), _squashed(fine * miss), pairs.trust / 3, share]
        field = torch.cat(features, -1).mT.unflatten(2, c.places)
        local = F.relu(self.around(F.relu(self.look(field))))
        patches = self.patch(F.adaptive_avg_pool2d(local, c.patches).flatten(2).mT) + self.place
        said = torch.cat([30 * guess[:, :3], guess[:, 3:], pairs.focal[:, None] / 150, local.mean((2, 3))], 1)
        special = self.special + self.told(said).unflatten(1, (SPECIAL, c.width))
        return local, torch.cat([special, patches], 1)

    def _step(self, pairs: Pairs, local: Tensor, tokens: Tensor) -> Steps:
        """The step that fits the correspondences and what is expected."""
        c, (motion, depth) = self.config, self.norm(tokens[:, :SPECIAL]).unbind(1)
        trust = self.trust(F.relu(local + self.trusting(motion)[..., None, None]))[:, 0].flatten(1)
        weight = torch.exp(trust.clamp(-8, 4)) * (pairs.focal[:, None] / 0.5).square()
        said = self.motion(motion)
        agreed = said[:, :2].sigmoid()
        rotation = agreed[:, :1] * pairs.guess[:, :3] + 0.1 * said[:, 2:5]
        ahead = torch.tensor([0.0, 0.0, 0.05])
        direction = unit(agreed[:, 1:] * pairs.guess[:, 3:6] + said[:, 5:8] + ahead)
        prior = torch.exp(said[:, 8:10].clamp(-6, 6)) * torch.tensor([1e4, 10.0])
        now = torch.cat([pairs.now, torch.ones_like(pairs.now[..., :1])], -1)
        then = torch.cat([pairs.then, torch.ones_like(pairs.then[..., :1])], -1)
        matrix, direction = fitted(now, then, weight, rotation, direction, prior, steps=c.steps)
        near = nearness(now, then, matrix.detach(), direction.detach()).log().mean(1)
        far = self.depth(depth)[:, 0]
        return Steps(matrix, direction, near + far, far, said[:, 10])


def _squashed(values: Tensor) -> Tensor:
    return values / (1 + values.abs())


def _rotated(x: Tensor, number: Tensor, *, none: Tensor | None = None) -> Tensor:
    """Rotate half of the channels of `[*number.shape, H, P, D]` by the number of the frame; where `none`, that half is zero."""
    half = x.shape[-1] // 2
    rate = 10.0 ** -torch.linspace(0, 1.5, half // 2, dtype=torch.float64)
    phase = (number[..., None].double() * rate).float()[..., None, None, :]
    one, other, rest = x.split([half // 2, half // 2, x.shape[-1] - half], -1)
    cos, sin = phase.cos(), phase.sin()
    both = torch.cat([one * cos - other * sin, one * sin + other * cos], -1)
    if none is not None:
        both = both.masked_fill(none[..., None, None, None], 0.0)
    return torch.cat([both, rest], -1)
