"""Training on pairs of frames of which the motion is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.alignment.geometry import Matrix, drawn, moved
from tocsin.models.alignment.network import COARSE, FINE, Network, NetworkConfig
from tocsin.models.alignment.simulation.pairs import pair
from tocsin.models.training import Optimization, begin


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; pairs: per step.
        size: of the frames.
        learning_rate: maximum of the cycle; weight_decay: of AdamW.
        near: pixels by which the second frame, brought over the first, is off when the fine level is trained.
    """

    steps: int = 4000
    pairs: int = 3
    size: tuple[int, int] = (160, 208)
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    near: float = 10.0


def fit(
    stills: Sequence[NDArray[np.generic]],
    config: NetworkConfig,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Network:
    """Train a network on pairs from stills `[H, W, C]`.

    Args:
        seed: of the weights and the pairs.
        progress: called with each step and its loss.
    """
    recipe = recipe or Recipe()
    begin(seed)
    rng = np.random.default_rng(seed)
    network = Network(config)
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, rise=0.1
    )
    for step in range(recipe.steps):
        loss = optimization.step(_loss(network, *_batch(stills, recipe, rng)))
        if progress:
            progress(step, loss)
    return network


def _batch(
    stills: Sequence[NDArray[np.generic]], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, list[Matrix], list[Matrix]]:
    """First and second frames, the second ones brought near to the first, and the motions of both."""
    first, second, near = list[Tensor](), list[Tensor](), list[Tensor]()
    far_maps, near_maps = list[Matrix](), list[Matrix]()
    rows, columns = recipe.size
    for _ in range(recipe.pairs):
        still = stills[int(rng.integers(len(stills)))]
        if rng.random() < 0.5:
            still = still[:, ::-1]
        p = pair(still, recipe.size, rng)
        # Bringing over by a map that is a little off leaves a small motion to find.
        off = drawn(rng, recipe.size, reach=recipe.near / (0.35 * columns) * rng.random())
        brought = cv2.warpPerspective(
            p.second, p.homography @ np.linalg.inv(off), (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        for frames, frame in ((first, p.first), (second, p.second), (near, brought)):
            frames.append(torch.from_numpy(np.ascontiguousarray(frame)).float()[None])
        far_maps.append(p.homography)
        near_maps.append(off)
    return torch.stack(first), torch.stack(second), torch.stack(near), far_maps, near_maps


def _loss(
    network: Network, first: Tensor, second: Tensor, near: Tensor, far_maps: list[Matrix], near_maps: list[Matrix]
) -> Tensor:
    count = len(first)
    eighth, quarter = network.features(torch.cat([first, second, near]))
    forth, back = network.everywhere(eighth[:count], eighth[count : 2 * count])
    loss = _coarse_loss(forth, back, eighth.shape[2:], far_maps)
    one, other = quarter[:count], quarter[2 * count :]
    zero = one.new_zeros(count, 2, *one.shape[2:])
    flow, log_error, weights = network.nearby(one, other, zero)
    return loss + _fine_loss(flow, log_error, weights, near_maps, network.config.radius)


def _truth(maps: Sequence[Matrix], grid: Sequence[int], pitch: int) -> Tensor:
    """Where each place of a level is in the other frame, in places: `[B, H, W, 2]`."""
    y, x = np.mgrid[: grid[0], : grid[1]].astype(float)
    pixels = np.stack([x, y], -1) * pitch + (pitch - 1) / 2
    found = np.stack([moved(h, pixels) for h in maps])
    return torch.from_numpy(((found - (pitch - 1) / 2) / pitch).astype(np.float32))


def _coarse_loss(forth: Tensor, back: Tensor, grid: Sequence[int], maps: Sequence[Matrix]) -> Tensor:
    """Negative log-likelihood of the true place, both ways; a place between others is spread over them."""
    rows, columns = grid
    target = _truth(maps, grid, COARSE).flatten(1, 2)  # [B, N, 2]
    x, y = target.unbind(-1)
    inside = (x > -0.5) & (x < columns - 0.5) & (y > -0.5) & (y < rows - 0.5)
    joint = forth + back
    total = forth.new_zeros(())
    x, y = x.clamp(0, columns - 1), y.clamp(0, rows - 1)
    left, top = x.floor().clamp(max=columns - 2), y.floor().clamp(max=rows - 2)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs()) * inside
            index = ((top + dy) * columns + left + dx).long()
            total = total - (share * joint.gather(2, index[..., None])[..., 0]).sum()
    return 0.5 * total / inside.sum().clamp(min=1)


def _fine_loss(flow: Tensor, log_error: Tensor, weights: Tensor, maps: Sequence[Matrix], radius: int) -> Tensor:
    """Likelihood of the true step in the window, and that of the error under the width that the network expects."""
    rows, columns = flow.shape[2:]
    target = _truth(maps, (rows, columns), FINE)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    true = (target - torch.stack([x, y], -1)).permute(0, 3, 1, 2)  # [B, 2, H, W]
    tx, ty = target.unbind(-1)
    inside = (tx >= 0) & (tx <= columns - 1) & (ty >= 0) & (ty <= rows - 1)
    near = inside & (true.abs().amax(1) <= radius - 0.01)
    side, total = 2 * radius + 1, flow.new_zeros(())
    left, top = true[:, 0].floor(), true[:, 1].floor()
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - (true[:, 0] - left - dx).abs()) * (1 - (true[:, 1] - top - dy).abs()) * near
            index = ((top + dy + radius) * side + left + dx + radius).clamp(0, side**2 - 1).long()
            total = total - (share * (weights.gather(1, index[:, None])[:, 0] + 1e-6).log()).sum()
    error = torch.where(inside, (flow - true).norm(dim=1), 2.0 * radius)  # what is out of sight is not to be trusted
    surprise = error * (-log_error).exp() + 2 * log_error
    return 0.5 * total / near.sum().clamp(min=1) + 0.3 * surprise.mean()
