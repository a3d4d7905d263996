"""The network's inputs: halls of a batch, their sensors and walls, and the places that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tocsin.models.field.hall import KINDS, Array, Hall
from tocsin.models.field.interpolation import kriging
from tocsin.models.field.rays import crossings

NOISE = torch.tensor([kind.noise for kind in KINDS.values()])
SCALE = torch.tensor([kind.scale for kind in KINDS.values()])


@dataclass(frozen=True)
class Inputs:
    """B halls with up to M sensors and W walls, and N places; all padded. Lengths are in m, float64.

    Args:
        sensors: `[B, M, 2]`.
        readings: `[B, M] float32`; NaN where there is none.
        walls: `[B, W, 4]`, from x, y to x, y; those without a length are padding.
        strength: `[B, W] float32`, see `Kind.strength`.
        outer: `[B, W] bool`.
        places: `[B, N, 2]`.
        kind: `[B] int64`, of `KINDS`.
        area: `[B]`, of the floor, m2.
    """

    sensors: Tensor
    readings: Tensor
    walls: Tensor
    strength: Tensor
    outer: Tensor
    places: Tensor
    kind: Tensor
    area: Tensor

    @classmethod
    def of(
        cls,
        halls: Sequence[Hall],
        sensors: Sequence[Array],
        readings: Sequence[Array],
        places: Sequence[Array],
    ) -> Self:
        """Padded halls; the arrays are `[M, 2]`, `[M]` and `[N, 2]` of each hall."""
        segments = [hall.segments for hall in halls]
        return cls(
            torch.from_numpy(_padded(sensors)),
            torch.from_numpy(_padded(readings, np.nan)).float(),
            torch.from_numpy(_padded(segments)),
            torch.from_numpy(_padded([KINDS[hall.kind].strength(hall.blocking) for hall in halls])).float(),
            torch.from_numpy(_padded([hall.outer.astype(np.float64) for hall in halls])) > 0,
            torch.from_numpy(_padded(places)),
            torch.tensor([[*KINDS].index(hall.kind) for hall in halls]),
            torch.tensor([hall.area for hall in halls], dtype=torch.float64),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: slice | Tensor) -> Inputs:
        return Inputs(*(getattr(self, each.name)[index] for each in fields(self)))

    def to(self, device: torch.device) -> Inputs:
        """The same on a device."""
        return Inputs(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class Scaled:
    """Inputs in the network's units: lengths relative to the sensors' middle, readings in deviations from their mean.

    Args:
        mean, deviation: of the readings, `[B, 1]`.
        there, walled: `[B, M]` and `[B, W] bool`, which sensors and walls are there.
        readings: `[B, M]`, 0 where there is none.
        sensors, places, walls: as in `Inputs`, in units of `unit`.
        unit: `[B]`, half the root of the area, m.
        weights: `[B, N, M]`, of the readings by a Gaussian process.
        start_spread: `[B, N]`, its standard deviation.
        blocked: `[B, M + N, M]`, what walls block between sensors or places and sensors.
    """

    mean: Tensor
    deviation: Tensor
    there: Tensor
    walled: Tensor
    readings: Tensor
    sensors: Tensor
    places: Tensor
    walls: Tensor
    unit: Tensor
    weights: Tensor
    start_spread: Tensor
    blocked: Tensor

    def interpolated(self, values: Tensor) -> Tensor:
        """Values of the sensors `[B, M]` at the places, `[B, N]`, by the Gaussian process."""
        return (self.weights @ values.unsqueeze(-1)).squeeze(-1)

    @classmethod
    def of(cls, inputs: Inputs, dtype: torch.dtype = torch.float32) -> Scaled:
        there = ~inputs.readings.isnan()
        count = there.sum(1, keepdim=True).clamp(min=1)
        given = torch.where(there, inputs.readings, 0.0).double()
        mean = given.sum(1, keepdim=True) / count
        spread = (torch.where(there, given - mean, 0.0).square().sum(1, keepdim=True) / count).sqrt()
        noise = NOISE.to(given)[inputs.kind].unsqueeze(1)
        deviation = (spread.square() + noise.square()).sqrt()
        middle = (inputs.sensors * there.unsqueeze(-1)).sum(1, keepdim=True) / count.unsqueeze(-1)  # [B, 1, 2]
        unit = inputs.area.sqrt() / 2
        walled = (inputs.walls[..., 2:] != inputs.walls[..., :2]).any(-1)
        sensors = (inputs.sensors - middle) * there.unsqueeze(-1)
        places = inputs.places - middle
        walls = (inputs.walls - torch.cat([middle, middle], dim=-1)) * walled.unsqueeze(-1)
        crossing = crossings(torch.cat([sensors, places], dim=1).to(dtype), sensors.to(dtype), walls.to(dtype))
        blocked = crossing @ inputs.strength.to(dtype)[:, None, :, None]  # [B, M + N, M, 1]
        readings = (torch.where(there, given - mean, 0.0) / deviation).to(dtype)
        sensors, places, walls = ((each / unit[:, None, None]).to(dtype) for each in (sensors, places, walls))
        weights, start_spread = kriging(places, sensors, readings, there)
        return cls(
            mean.to(dtype),
            deviation.to(dtype),
            there,
            walled,
            readings,
            sensors,
            places,
            walls,
            unit.to(dtype),
            weights,
            start_spread,
            blocked.squeeze(-1),
        )


def _padded(rows: Sequence[Array], fill: float = 0.0) -> Array:
    """Arrays `[n, ...]` as one `[B, most, ...]`."""
    out = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
