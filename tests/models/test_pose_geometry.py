"""The geometry of two views: turns and their vectors, quaternions, and the motion that fits correspondences."""

from __future__ import annotations

import torch

from tocsin.models.pose.geometry import fitted, nearness, quaternion, turn, unit, vector

torch.manual_seed(0)


def scene(count: int = 5, places: int = 60) -> tuple[torch.Tensor, ...]:
    """Correspondences of random points under random motions: now, then, the turn's vector, the shift, and the depths."""
    generator = torch.Generator().manual_seed(3)
    now = torch.cat(
        [torch.rand(count, places, 2, generator=generator) - 0.5, torch.ones(count, places, 1)], -1
    ).double()
    depth = 1 + 3 * torch.rand(count, places, generator=generator).double()
    spin = 0.05 * torch.randn(count, 3, generator=generator).double()
    shift = 0.1 * torch.randn(count, 3, generator=generator).double()
    moved = (now * depth[..., None]) @ turn(spin).mT + shift[:, None]
    return now, moved / moved[..., 2:], spin, shift, depth


def test_a_turn_and_its_vector_are_each_others_inverse() -> None:
    spins = torch.tensor([[0.0, 0, 0], [0.3, -0.2, 0.1], [0, 2.5, 0], [1e-5, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(vector(turn(spins)), spins, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(turn(spins) @ turn(spins).mT, torch.eye(3).double().expand(4, 3, 3), atol=1e-6, rtol=0)


def test_a_quaternion_turns_as_its_matrix_does() -> None:
    matrix = turn(torch.tensor([[0.0, 0, 0], [0.4, 0.1, -0.3], [3.1, 0, 0], [0, 3.1, 0], [0, 0.1, -3.1]]).double())
    w, axis = quaternion(matrix)[:, :1], quaternion(matrix)[:, 1:]
    point = torch.tensor([0.3, -1.0, 2.0]).double().expand(5, 3)
    twice = 2 * torch.cross(axis, point, dim=1)
    torch.testing.assert_close(
        point + w * twice + torch.cross(axis, twice, dim=1), (matrix @ point[..., None])[..., 0], atol=1e-6, rtol=1e-6
    )


def test_the_fit_finds_the_motion_that_the_correspondences_show() -> None:
    now, then, spin, shift, depth = scene()
    weight, sure = torch.full(now.shape[:2], 1e6).double(), torch.full((5, 2), 1e-3).double()
    begin = unit(unit(shift) + 0.2 * torch.ones(5, 3).double())
    matrix, direction = fitted(now, then, weight, torch.zeros(5, 3).double(), begin, sure, steps=12)
    torch.testing.assert_close(matrix, turn(spin), atol=1e-5, rtol=0)
    torch.testing.assert_close(direction, unit(shift), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        nearness(now, then, matrix, direction).median(1).values,
        (shift.norm(dim=1, keepdim=True) / depth).median(1).values,
        atol=0.02,
        rtol=0.1,
    )


def test_without_trust_in_any_correspondence_the_fit_is_what_was_expected() -> None:
    now, then, spin, *_ = scene()
    expected = unit(torch.ones(5, 3).double())
    nothing, sure = torch.zeros(now.shape[:2]).double(), torch.full((5, 2), 10.0).double()
    matrix, direction = fitted(now, then, nothing, spin / 2, expected, sure, steps=3)
    torch.testing.assert_close(matrix, turn(spin / 2))
    torch.testing.assert_close(direction, expected)
