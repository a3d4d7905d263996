"""The geometry of two views: turns as vectors, and a motion that is fitted to weighted correspondences."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def turn(vector: Tensor) -> Tensor:
    """Rotation vectors `[..., 3]`, rad, as matrices `[..., 3, 3]` (Rodrigues)."""
    angle = (vector.square().sum(-1) + EPS).sqrt()[..., None, None]
    cross = crossing(vector)
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return eye + (angle.sin() / angle) * cross + ((1 - angle.cos()) / angle.square()) * (cross @ cross)


def crossing(vector: Tensor) -> Tensor:
    """`[..., 3]` -> `[..., 3, 3]`, whose product with a vector is the cross product."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def vector(matrix: Tensor) -> Tensor:
    """The rotation vector `[..., 3]` of matrices `[..., 3, 3]`, for angles below half a turn."""
    axis = torch.stack(
        [
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ],
        -1,
    )
    twice_sine = (axis.square().sum(-1, keepdim=True) + EPS**2).sqrt()
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    return axis * torch.atan2(twice_sine, trace - 1) / twice_sine


def unit(vector: Tensor) -> Tensor:
    """`[..., 3]` of length 1; a zero stays zero."""
    return vector / (vector.square().sum(-1, keepdim=True) + EPS**2).sqrt()


def fitted(
    now: Tensor,
    then: Tensor,
    weight: Tensor,
    rotation: Tensor,
    direction: Tensor,
    prior: Tensor,
    *,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Fit a motion to correspondences and to what is expected: Gauss-Newton steps on the distances from epipolar lines.

    Args:
        now: `[B, G, 3]`, places in the frame, third coordinate 1; then: in the frame before.
        weight: `[B, G]`, the inverse variance of a correspondence's distance from its line.
        rotation: `[B, 3]`, the expected turn from the frame to the frame before; direction: `[B, 3]`, of its shift, length 1.
        prior: `[B, 2]`, the inverse variances of what is expected: of the turn, rad, and of the direction, rad.

    Returns:
        The turn `[B, 3, 3]`, and the direction `[B, 3]`.
    """
    matrix, expected = turn(rotation), direction
    expected_turn = matrix
    precision = torch.cat([prior[:, :1].expand(-1, 3), prior[:, 1:].expand(-1, 2)], 1)
    for _ in range(steps):
        basis = _across(direction)  # [B, 3, 2]
        turned = now @ matrix.mT
        line = torch.cross(direction[:, None].expand_as(turned), turned, dim=-1)  # epipolar lines in the frame before
        length = (line[..., :2].square().sum(-1) + 1e-6).sqrt()
        normal = torch.cross(turned, then, dim=-1) / length[..., None]
        error = (normal * direction[:, None]).sum(-1)
        across = torch.cross(then, direction[:, None].expand_as(then), dim=-1)
        by_turn = torch.cross(turned, across, dim=-1) / length[..., None]
        slope = torch.cat([by_turn, normal @ basis], -1)  # [B, G, 5]
        weighted = slope * weight[..., None]
        away = torch.cat([vector(matrix @ expected_turn.mT), (basis.mT @ (direction - expected)[..., None])[..., 0]], 1)
        hessian = weighted.mT @ slope + torch.diag_embed(precision)
        gradient = (weighted * error[..., None]).sum(1) + precision * away
        step = -torch.linalg.solve(hessian, gradient[..., None])[..., 0]
        matrix = turn(step[:, :3].clamp(-0.2, 0.2)) @ matrix
        direction = unit(direction + (basis @ step[:, 3:, None].clamp(-1, 1))[..., 0])
    return matrix, direction


def _across(direction: Tensor) -> Tensor:
    """Two unit vectors across each direction: `[B, 3]` -> `[B, 3, 2]`."""
    least = torch.zeros_like(direction).scatter(1, direction.abs().argmin(1, keepdim=True), 1.0)
    one = unit(torch.cross(direction, least, dim=1))
    return torch.stack([one, torch.cross(direction, one, dim=1)], -1)


def nearness(now: Tensor, then: Tensor, matrix: Tensor, direction: Tensor) -> Tensor:
    """How long the step is for each correspondence, as a share of its depth: `[B, G]`. Shapes are those of `fitted`."""
    turned = now @ matrix.mT
    moved = torch.cross(turned, then, dim=-1).square().sum(-1)
    whole = torch.cross(direction[:, None].expand_as(then), then, dim=-1).square().sum(-1)
    return ((moved + 1e-10) / (whole + 1e-4)).sqrt()


def quaternion(matrix: Tensor) -> Tensor:
    """Rotations `[B, 3, 3]` as quaternions `[B, 4]`: w, x, y, z, of length 1, with w >= 0."""
    m = matrix
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = torch.stack([1 + trace, *(1 - trace + 2 * m[:, at, at] for at in range(3))], -1)
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 1, 0] + m[:, 0, 1], m[:, 2, 0] + m[:, 0, 2], m[:, 2, 1] + m[:, 1, 2]
    w, x, y, z = squares.unbind(-1)
    rows = torch.stack([torch.stack(row, -1) for row in ([w, a, b, c], [a, x, d, e], [b, d, y, f], [c, e, f, z])], 1)
    best = rows[torch.arange(len(m)), squares.argmax(-1)]  # the row with the largest part does not cancel
    best = best / best.norm(dim=-1, keepdim=True)
    return torch.where(best[:, :1] < 0, -best, best)
