"""The network: the measures of a frame in two views, how tampered it and each of its places are, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.tampering.memory import FEATURES, LOOKS, MOVES
from tocsin.models.tampering.simulation.attacks import KINDS
from tocsin.operators.scales import MultiScaleExcitation

SHARES = (0.05, 0.2, 1.0)
"""Shares of a frame's places, those with the highest logits, over whose mean its logit is taken."""
FAMILIAR = 100
"""Frames of a camera after which the network takes what is usual as known."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        width: channels of a place.
        sizes: of the depthwise kernels.
        views: that are looked at; for comparisons, one alone.
        fusion: "mean" takes the mean of the logits of two networks; "attention" fuses the views at each place.
        heads: of the attention.
    """

    width: int = 24
    sizes: tuple[int, ...] = (3, 5)
    views: tuple[str, ...] = ("appearance", "motion")
    fusion: Literal["attention", "mean"] = "mean"
    heads: int = 4


class Judged(NamedTuple):
    """The network's output for B frames.

    Args:
        frames: logits `[B]`.
        places: logits `[B, h, w]`.
        kinds: logits `[B, 8]` of `KINDS`, given that a frame is tampered with.
    """

    frames: Tensor
    places: Tensor
    kinds: Tensor


class TamperingNetwork(nn.Module):
    """Two views of a frame, each by multi-scale depthwise convolutions; the mean of their logits, or fused by attention.

    Source: M3D-Net, whose two views are a face's colours and its reconstructed shape, fused by attention. It is published as an
    outline; views, measures and sizes are this project's, and so is the mean, which does as well here with half the weights.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = c = config
        self.views = nn.ModuleDict({name: View(_channels(name), c) for name in c.views})
        self.fusion = Fusion(c) if len(c.views) > 1 and c.fusion == "attention" else None
        self.heads = nn.ModuleList(Heads(c) for _ in range(1 if self.fusion else len(c.views)))

    def forward(self, features: Tensor, seen: Tensor) -> Judged:
        """Judge frames.

        Args:
            features: `[B, L, 4, h, w]`, as of `Evidence`.
            seen: `[B]`, frames of their cameras before them.
        """
        known = (seen.float() / FAMILIAR).clamp(max=1)[:, None, None, None].expand(-1, 1, *features.shape[3:])
        looks, moves = features.split([len(LOOKS), len(MOVES)], 1)
        given = {"appearance": looks, "motion": moves}
        maps = [view(torch.cat([given[name].flatten(1, 2), known], 1)) for name, view in self.views.items()]
        maps = [self.fusion(*maps)] if self.fusion else maps
        judged = [head(places) for head, places in zip(self.heads, maps, strict=True)]
        return Judged(*(torch.stack(parts).mean(0) for parts in zip(*judged, strict=True)))


class View(nn.Module):
    """One view: its measures, mixed over places of several sizes."""

    def __init__(self, channels: int, c: NetworkConfig) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, c.width, 1)
        self.mix = MultiScaleExcitation(channels=c.width, sizes=c.sizes)

    def forward(self, measures: Tensor) -> Tensor:
        """`[B, C, h, w]` -> `[B, width, h, w]`."""
        out: Tensor = self.mix(F.gelu(self.enter(measures)))
        return out


class Fusion(nn.Module):
    """Each place asks both views, there and over the whole frame, which of them to believe: attention over four tokens."""

    def __init__(self, c: NetworkConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.norms = nn.ModuleList(nn.GroupNorm(1, c.width) for _ in range(2))
        self.query = nn.Conv2d(2 * c.width, c.width, 1)
        self.keys = nn.ModuleList(nn.Conv2d(c.width, 2 * c.width, 1) for _ in range(2))
        self.whole = nn.Parameter(torch.zeros(2, 2 * c.width))
        self.out = nn.Conv2d(c.width, c.width, 1)
        self.mix = MultiScaleExcitation(channels=c.width, sizes=c.sizes)

    def forward(self, looks: Tensor, moves: Tensor) -> Tensor:
        """`[B, C, h, w]` of both views -> `[B, C, h, w]`."""
        looks, moves = (norm(view) for norm, view in zip(self.norms, (looks, moves), strict=True))
        query = self._heads(self.query(torch.cat([looks, moves], 1)))  # [B, H, D, h, w]
        pairs = [key(view) for key, view in zip(self.keys, (looks, moves), strict=True)]
        for extra, pair in zip(self.whole, pairs[:2], strict=True):
            pairs.append((pair.mean((2, 3)) + extra)[:, :, None, None].expand_as(pair))
        keys, values = zip(*(pair.chunk(2, 1) for pair in pairs), strict=True)
        key, value = (self._heads(torch.stack(part, 1).flatten(0, 1)).unflatten(0, (-1, 4)) for part in (keys, values))
        logits = (query[:, None] * key).sum(3) / key.shape[3] ** 0.5  # [B, 4, H, h, w]
        fused = (logits.softmax(1)[:, :, :, None] * value).sum(1).flatten(1, 2)
        out: Tensor = self.mix((looks + moves) / 2 + self.out(fused))
        return out

    def _heads(self, maps: Tensor) -> Tensor:
        return maps.unflatten(1, (self.heads, -1))


class Heads(nn.Module):
    """The logits of places, of the frame, and of kinds."""

    def __init__(self, c: NetworkConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, c.width)
        self.place = nn.Conv2d(c.width, 1, 1)
        self.pool = nn.Parameter(torch.tensor([0.5, 0.3, 0.2]))
        self.frame = nn.Linear(2 * c.width, 1)
        self.kind = nn.Linear(2 * c.width, len(KINDS))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, C, h, w]` -> the parts of `Judged`, in its order."""
        maps = F.gelu(self.norm(maps))
        places = self.place(maps)[:, 0]
        ordered = places.flatten(1).sort(1, descending=True).values
        tops = torch.stack([ordered[:, : max(1, round(s * ordered.shape[1]))].mean(1) for s in SHARES], 1)
        weight = places.flatten(1).softmax(1)[:, None]
        pooled = torch.cat([maps.mean((2, 3)), (maps.flatten(2) * weight).sum(2)], 1)
        return tops @ self.pool + self.frame(pooled)[:, 0], places, self.kind(pooled)


def _channels(view: str) -> int:
    return 1 + len(FEATURES) * len({"appearance": LOOKS, "motion": MOVES}[view])
