"""Rays between places, and the walls that they cross."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EDGE = 0.2
"""Width over which a crossing fades at a wall's ends and beside it, m: a place on a wall is half behind it."""


def crossings(start: Tensor, end: Tensor, walls: Tensor, *, edge: float = EDGE) -> Tensor:
    """How far each ray crosses each wall, 0 to 1; continuous in all arguments, and the same after a motion of all.

    Args:
        start, end: `[B, N, 2]` and `[B, M, 2]`, m.
        walls: `[B, W, 4]`, from x, y to x, y; a wall without a length is crossed by none.
        edge: see `EDGE`.

    Returns:
        `[B, N, M, W]`.
    """
    first, last = walls[..., :2], walls[..., 2:]
    length = (last - first).square().sum(-1).sqrt()  # [B, W]
    along = (last - first) / length.clamp(min=1e-6).unsqueeze(-1)
    across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)

    def within(places: Tensor) -> tuple[Tensor, Tensor]:
        apart = places.unsqueeze(2) - first.unsqueeze(1)  # [B, N, W, 2]
        return (apart * across.unsqueeze(1)).sum(-1), (apart * along.unsqueeze(1)).sum(-1)

    (off, at), (far_off, far_at) = within(start), within(end)
    off, at, far_off, far_at = off.unsqueeze(2), at.unsqueeze(2), far_off.unsqueeze(1), far_at.unsqueeze(1)
    share = off.abs() / (off.abs() + far_off.abs()).clamp(min=1e-9)
    met = at + share * (far_at - at)
    ends = length[:, None, None]
    behind = (0.5 - torch.minimum(off.abs(), far_off.abs()) * torch.sign(off * far_off) / edge).clamp(0, 1)
    beside = (torch.minimum(met, ends - met) / edge + 0.5).clamp(0, 1)
    return behind * beside * (ends > 0)


def crossed(start: NDArray[np.float64], end: NDArray[np.float64], walls: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether rays cross walls: `[..., 2]`, `[..., 2]` and `[W, 4]` give `[..., W]`. What `crossings` is without an edge."""
    ray, wall = (end - start)[..., None, :], walls[:, 2:] - walls[:, :2]
    to_wall = walls[:, :2] - start[..., None, :]
    turn = _cross(ray, wall)
    turn = np.where(np.abs(turn) < 1e-12, np.nan, turn)  # parallel
    at_ray, at_wall = _cross(to_wall, wall) / turn, _cross(to_wall, ray) / turn
    return (at_ray > 1e-9) & (at_ray < 1 - 1e-9) & (at_wall >= 0) & (at_wall <= 1)


def _cross(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])
