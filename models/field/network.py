"""The networks: geometric attention over sensors, walls, sources and places, and plain attention over coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tocsin.models.field.hall import KINDS
from tocsin.models.field.inputs import SCALE, Inputs, Scaled
from tocsin.models.field.rays import crossings
from tocsin.operators.geometric import BLADES, GeometricBlock, plane, point

NETWORKS = ("geometric", "plain")
"""`geometric`: tokens of a geometric algebra, and rays that walls block; `plain`: attention, coordinates as numbers."""
SOFT = 0.5
"""Width over which a crossing of a ray from a source fades, m: wide, so that the source learns where to be."""
ALONE = 3.0
"""A distance to no sensor."""
LEAST = 0.02
"""The smallest spread, in deviations of the readings."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Sizes.

    Args:
        channels: multivectors of a token; only of `geometric`.
        scalars: numbers of a token.
        heads: of each attention; divides both.
        early, late: blocks over sensors and walls alone, and with the places.
        sources: global tokens. In `geometric` each gets a place, from which rays go to all others.
    """

    channels: int = 4
    scalars: int = 48
    heads: int = 4
    early: int = 1
    late: int = 2
    sources: int = 4


class FieldNetwork(nn.Module):
    """Halls with sensors and walls to the field at places: an estimate and its standard deviation.

    Source: GAI-NeRF, of which this project knows the abstract alone: attention of a geometric algebra between rays and objects,
    global tokens, and learnable ray tracing. All else is this project's: the estimate is what a Gaussian process says and a
    correction, so that untrained it is the process; global tokens find the places of unseen sources; rays are weakened by the walls
    that they cross.

    Args:
        kind: of `NETWORKS`.
    """

    def __init__(self, *, kind: str, size: NetworkSize) -> None:
        super().__init__()
        self.size, self.geometric = size, kind == "geometric"
        wide, heads, blocks = size.scalars, size.heads, size.early + size.late
        kinds, at = len(KINDS), 0 if self.geometric else 2
        self.sensor = nn.Linear(2 + kinds + at, wide)
        self.wall = nn.Linear(3 + kinds + 2 * at, wide)
        self.place = nn.Linear(3 + kinds + at, wide)
        self.hall = nn.Linear(2 + kinds, wide)
        self.globals = nn.Parameter(0.5 * torch.randn(size.sources, wide))
        self.blocks = nn.ModuleList(
            GeometricBlock(channels=size.channels, scalars=wide, heads=heads)
            if self.geometric
            else PlainBlock(wide, heads)
            for _ in range(blocks)
        )
        if self.geometric:
            self.sources = Sources(wide)
            self.rendered, self.lacks = nn.Sequential(nn.GELU(), nn.Linear(wide, 1)), nn.Linear(1, wide)
        self.head = nn.Sequential(
            nn.Linear(wide + (size.channels if self.geometric else 0), wide), nn.GELU(), nn.Linear(wide, 2)
        )
        for layers in (self.head, self.rendered) if self.geometric else (self.head,):
            last = cast(nn.Linear, layers[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The estimate and its standard deviation at the places, `[B, N]` each, in the unit of the readings."""
        given = Scaled.of(inputs, self.globals.dtype)
        tokens = self._tokens(inputs, given)
        start = given.interpolated(given.readings)
        if self.geometric:
            s, rendered = self._geometric(inputs, given, *tokens)
            # What the rays make of the sources, and what that lacks at the sensors.
            at_sensors, at_places = rendered.split([given.readings.shape[1], start.shape[1]], dim=1)
            start = start + at_places - given.interpolated(at_sensors * given.there)
        else:
            s = self._plain(given, *tokens)
        moved, wider = self.head(s).unbind(-1)
        # The spread starts as that of the Gaussian process.
        spread = given.start_spread * torch.exp(wider.clamp(-4, 4)) + LEAST
        return given.mean + given.deviation * (start + moved), given.deviation * spread

    def _tokens(self, inputs: Inputs, given: Scaled) -> tuple[Tensor, Tensor]:
        """The numbers of sensors, walls and global tokens, `[B, K, S]`, and those of the places, `[B, N, S]`."""
        (batch, sensors), walls, places = given.readings.shape, given.walls.shape[1], given.places.shape[1]
        kind = F.one_hot(inputs.kind, len(KINDS)).to(given.readings)

        def numbers(layer: nn.Module, count: int, *values: Tensor, at: Tensor) -> Tensor:
            parts = [torch.stack(values, dim=-1), kind.unsqueeze(1).expand(batch, count, -1)]
            return cast(Tensor, layer(torch.cat(parts if self.geometric else [*parts, at], dim=-1)))

        absent = ~given.there.unsqueeze(1)
        among = torch.cdist(given.sensors, given.sensors).masked_fill(absent, ALONE)
        among = among.masked_fill(torch.eye(sensors, dtype=torch.bool, device=among.device), ALONE).amin(-1)
        nearest = torch.cdist(given.places, given.sensors).masked_fill(absent, ALONE).amin(-1)
        length = (given.walls[..., 2:] - given.walls[..., :2]).square().sum(-1).sqrt()
        of_walls = inputs.strength.to(length), inputs.outer.to(length), length
        scale = SCALE.to(given.deviation)[inputs.kind].unsqueeze(1)
        hall = torch.cat([kind, (given.unit / 7).log().unsqueeze(1), (given.deviation / scale).log()], dim=-1)
        context = torch.cat(
            [
                numbers(self.sensor, sensors, given.readings, among, at=given.sensors),
                numbers(self.wall, walls, *of_walls, at=given.walls),
                self.globals + self.hall(hall).unsqueeze(1),
            ],
            dim=1,
        )
        start = given.interpolated(given.readings)
        return context, numbers(self.place, places, start, given.start_spread, nearest, at=given.places)

    def _geometric(self, inputs: Inputs, given: Scaled, s: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        sensors, walls, keys = given.readings.shape[1], given.walls.shape[1], s.shape[1]
        first, last = given.walls[..., :2], given.walls[..., 2:]
        along = F.normalize(last - first, dim=-1)
        across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
        x = s.new_zeros(*s.shape[:2], self.size.channels, BLADES)
        x[:, :sensors, 0] = point(_flat(given.sensors))
        # An object: the plane of a wall, and its ends, whose sum has the wall's middle as its position.
        x[:, sensors : sensors + walls, 0] = plane(_flat(across), (across * first).sum(-1))
        x[:, sensors : sensors + walls, 1] = point(_flat(first)) + point(_flat(last))
        where = torch.cat([given.sensors, (first + last) / 2, s.new_zeros(len(s), self.size.sources, 2)], dim=1)
        there = torch.cat([given.there, given.walled], dim=1)
        there = F.pad(there, (0, self.size.sources), value=True)
        located = F.pad(there[:, : sensors + walls], (0, self.size.sources), value=False)
        blocked = F.pad(given.blocked, (0, keys - sensors))  # [B, M + N, K]
        of_context = F.pad(blocked[:, :sensors], (0, 0, 0, keys - sensors))
        for block in self.blocks[: self.size.early]:
            x, s = block(x, s, _flat(where), located, there, keys=keys, blocked=of_context)
        sources = self.sources.places(s[:, :sensors], s[:, sensors + walls :], given)
        targets = torch.cat([given.sensors, given.places], dim=1)
        rays, hindered = self.sources.rays(s[:, sensors + walls :], sources, targets, inputs, given)
        rendered = self.rendered(rays).squeeze(-1)
        lacks = self.lacks((given.readings - rendered[:, :sensors]).unsqueeze(-1))
        s = torch.cat([s[:, :sensors] + rays[:, :sensors] + lacks, s[:, sensors:], asked + rays[:, sensors:]], dim=1)
        new = x.new_zeros(len(s), asked.shape[1], self.size.channels, BLADES)
        new[:, :, 0] = point(_flat(given.places))
        known = F.pad(point(_flat(sources)).unsqueeze(2), (0, 0, 0, self.size.channels - 1))
        x = torch.cat([x[:, : sensors + walls], x[:, sensors + walls :] + known, new], dim=1)
        where = torch.cat([where[:, : sensors + walls], sources, given.places], dim=1)
        located = F.pad(there, (0, asked.shape[1]), value=True)
        blocked = torch.cat([given.blocked, given.blocked.new_zeros(*blocked.shape[:2], walls), hindered], dim=-1)
        between = blocked.new_zeros(len(s), keys - sensors, keys)
        blocked = torch.cat([blocked[:, :sensors], between, blocked[:, sensors:]], dim=1)
        for block in self.blocks[self.size.early :]:
            x, s = block(x, s, _flat(where), located, located, keys=keys, blocked=blocked)
        return torch.cat([s[:, keys:], x[:, keys:, :, 0]], dim=-1), rendered

    def _plain(self, given: Scaled, s: Tensor, asked: Tensor) -> Tensor:
        keys = s.shape[1]
        there = F.pad(torch.cat([given.there, given.walled], dim=1), (0, self.size.sources), value=True)
        for block in self.blocks[: self.size.early]:
            s = block(s, there)
        s = torch.cat([s, asked], dim=1)
        for block in self.blocks[self.size.early :]:
            s = block(s, there)
        return s[:, keys:]


class Sources(nn.Module):
    """Places of unseen sources, and the rays from them: what each sensor and place would get from each source.

    Args:
        wide: numbers of a token.
    """

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.pull = nn.Sequential(nn.Linear(2 * wide, wide), nn.GELU(), nn.Linear(wide, 2))
        self.ray = nn.Sequential(nn.Linear(wide + 3, wide), nn.GELU(), nn.Linear(wide, wide))

    def places(self, sensors: Tensor, sources: Tensor, given: Scaled) -> Tensor:
        """A place for each source, `[B, G, 2]`: a mean of the sensors' places, then pulled to some and pushed from others."""
        pairs = torch.cat(
            [
                sources.unsqueeze(2).expand(-1, -1, sensors.shape[1], -1),
                sensors.unsqueeze(1).expand(-1, sources.shape[1], -1, -1),
            ],
            dim=-1,
        )
        weight, pull = self.pull(pairs).unbind(-1)  # [B, G, M]
        there = given.there.unsqueeze(1)
        middle = torch.softmax(weight.masked_fill(~there, -1e4), dim=-1) @ given.sensors
        apart = given.sensors.unsqueeze(1) - middle.unsqueeze(2)  # [B, G, M, 2]
        pulled = ((torch.tanh(pull) * there).unsqueeze(-1) * apart).sum(2)
        return middle + 1.5 * pulled / there.sum(-1, keepdim=True)

    def rays(
        self, sources: Tensor, places: Tensor, targets: Tensor, inputs: Inputs, given: Scaled
    ) -> tuple[Tensor, Tensor]:
        """What rays bring to targets `[B, T, 2]`: `[B, T, S]`; and what blocks them, `[B, T, G]`."""
        distance = torch.sqrt((targets.unsqueeze(2) - places.unsqueeze(1)).square().sum(-1) + 0.02**2)
        unit = given.unit[:, None, None]
        crossing = crossings(targets * unit, places * unit, given.walls * unit, edge=SOFT)
        blocked = (crossing @ inputs.strength.to(crossing)[:, None, :, None]).squeeze(-1)
        numbers = [distance.log(), distance, blocked]
        tokens = sources.unsqueeze(1).expand(-1, targets.shape[1], -1, -1)
        return self.ray(torch.cat([tokens, torch.stack(numbers, dim=-1)], dim=-1)).sum(2), blocked


class PlainBlock(nn.Module):
    """Attention to the first tokens, then two dense layers; both with a residual connection."""

    def __init__(self, wide: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.qkv, self.mixed = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.dense = nn.Sequential(nn.Linear(wide, 2 * wide), nn.GELU(), nn.Linear(2 * wide, wide))

    def forward(self, s: Tensor, there: Tensor) -> Tensor:
        """Tokens `[B, N, S]`; the first K, `there` `[B, K] bool`, are attended to."""
        keys = there.shape[1]
        q, k, v = self.qkv(self.before(s)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k[:, :, :keys], v[:, :, :keys], attn_mask=there[:, None, None])
        s = s + self.mixed(out.transpose(1, 2).flatten(2))
        return s + cast(Tensor, self.dense(self.between(s)))


def _flat(places: Tensor) -> Tensor:
    """Places `[..., 2]` on the floor of space, `[..., 3]`."""
    return F.pad(places, (0, 1))
