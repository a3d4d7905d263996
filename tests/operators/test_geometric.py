"""Geometric algebra: points, rays and planes move as they should, and so does what a block computes from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random
from tocsin.operators import geometric
from tocsin.operators.geometric import (
    EquivariantLinear,
    GeometricBlock,
    geometric_attention,
    motion,
    moved,
    naive_geometric_attention,
    naive_product,
    plane,
    point,
    position,
    product,
    ray,
)


def turned(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A random motion: as a multivector, as a matrix and as a shift."""
    torch.manual_seed(seed)
    axis, angle, shift = (
        torch.nn.functional.normalize(torch.randn(3, dtype=dtype), dim=0),
        torch.rand(1, dtype=dtype)[0] * 6,
        torch.randn(3, dtype=dtype) * 4,
    )
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=dtype)
    return motion(axis, angle, shift), torch.linalg.matrix_exp(angle * cross), shift


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_equals_its_naive_form(dtype: torch.dtype) -> None:
    assert_same(product, naive_product, random((3, 4, 16), (3, 4, 16)), dtype=dtype)


def test_the_product_is_associative_and_has_its_signature() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 5, 16, dtype=torch.float64).unbind()
    torch.testing.assert_close(product(product(a, b), c), product(a, product(b, c)))
    basis = torch.eye(16, dtype=torch.float64)
    assert [float(product(basis[e], basis[e])[0]) for e in (1, 2, 4, 8)] == [0, 1, 1, 1]
    torch.testing.assert_close(product(basis[2], basis[4]), -product(basis[4], basis[2]))


@pytest.mark.parametrize("seed", range(5))
def test_points_rays_and_planes_turn_and_move_as_in_space(seed: int) -> None:
    by, matrix, shift = turned(seed)
    place, along, distance = (
        torch.randn(6, 3, dtype=torch.float64),
        torch.randn(6, 3, dtype=torch.float64),
        torch.randn(6, dtype=torch.float64),
    )
    there, turned_along = place @ matrix.T + shift, along @ matrix.T
    torch.testing.assert_close(moved(point(place), by), point(there))
    torch.testing.assert_close(position(moved(point(place), by)), there)
    torch.testing.assert_close(moved(ray(place, along), by), ray(there, turned_along))
    torch.testing.assert_close(moved(plane(along, distance), by), plane(turned_along, distance + turned_along @ shift))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 2, 5, 3, 2, 4), (1, 3, 2, 6, 4, 1)])
def test_attention_equals_its_naive_form(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    b, h, n, m, c, d = sizes
    tensors = random((b, h, n, c, 16), (b, h, m, c, 16), (b, h, m, d, 16))
    assert_same(geometric_attention, naive_geometric_attention, tensors, dtype=dtype)
    squared = torch.arange(b * h * n * m, dtype=torch.float64).view(b, h, n, m) / 7
    mask = torch.ones(b, m, dtype=torch.bool)
    mask[:, 1:2] = False

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return geometric_attention(q, k, v, squared.to(q.dtype), mask)

    def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return naive_geometric_attention(q, k, v, squared.to(q.dtype), mask)

    assert_same(ours, naive, tensors, dtype=dtype)


def scene(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens of a scene: a sensor, a ray, a wall, and a global one; multivectors, scalars, places, and which have a place."""
    torch.manual_seed(1)
    places = torch.randn(2, 4, 3, dtype=dtype)
    along, distance = torch.randn(2, 4, 3, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    x = torch.zeros(2, 4, 4, 16, dtype=dtype)
    x[:, :3, 0] = point(places[:, :3])
    x[:, 1, 1], x[:, 2, 2] = ray(places[:, 1], along[:, 1]), plane(along[:, 2], distance[:, 2])
    located = torch.tensor([True, True, True, False]).expand(2, 4)
    return x, torch.randn(2, 4, 6, dtype=dtype), places, located


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("seed", range(3))
def test_a_block_turns_and_moves_with_the_scene(seed: int, dtype: torch.dtype, off: float) -> None:
    x, s, places, located = scene(dtype)
    by, matrix, shift = turned(seed, dtype)
    torch.manual_seed(2)
    blocks = [GeometricBlock(channels=4, scalars=6, heads=2).to(dtype) for _ in range(2)]
    mask = torch.tensor([[True] * 4, [True, False, True, True]])
    here, there = (x, s), (moved(x, by), s)
    for block in blocks:
        here = block(*here, places, located, mask)
        there = block(*there, places @ matrix.T + shift, located, mask)
    scale = max(1.0, float(here[0].detach().abs().max()))
    torch.testing.assert_close(there[0] / scale, moved(here[0], by) / scale, atol=off, rtol=0)
    torch.testing.assert_close(there[1], here[1], atol=off, rtol=off)
    assert not torch.allclose(here[0][..., 1:], x[..., 1:])


def test_tokens_that_are_no_keys_change_none_but_themselves() -> None:
    x, s, places, located = scene(torch.float64)
    torch.manual_seed(2)
    block = GeometricBlock(channels=4, scalars=6, heads=2).double()
    first, rest = slice(0, 3), slice(3, 4)
    whole = block(x, s, places, located, keys=3)
    alone = block(x[:, first], s[:, first], places[:, first], located[:, first])
    torch.testing.assert_close(whole[0][:, first], alone[0])
    torch.testing.assert_close(whole[1][:, first], alone[1])
    assert not torch.allclose(whole[1][:, rest], block(x, s, places, located)[1][:, rest])


def test_what_is_in_the_way_takes_a_token_out_of_sight() -> None:
    x, s, places, located = scene(torch.float64)
    torch.manual_seed(2)
    block = GeometricBlock(channels=4, scalars=6, heads=2).double()
    mask = torch.tensor([[True, False, True, True]] * 2)
    blocked = torch.zeros(2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x, s, places, located, blocked=blocked), block(x, s, places, located))
    blocked[:, :, 1] = 1e6
    hidden, absent = block(x, s, places, located, blocked=blocked), block(x, s, places, located, mask)
    torch.testing.assert_close(hidden[1], absent[1])


def test_a_linear_map_commutes_with_a_motion_and_passes_numbers_both_ways() -> None:
    torch.manual_seed(0)
    linear = EquivariantLinear((3, 5), (2, 4)).double()
    x, s, (by, _, _) = torch.randn(7, 3, 16, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64), turned(4)
    there, same = linear(moved(x, by), s)
    here, numbers = linear(x, s)
    torch.testing.assert_close(there, moved(here, by))
    torch.testing.assert_close(same, numbers)
    assert not torch.allclose(linear(x, s + 1)[0][..., 0], here[..., 0])


def test_the_order_of_tokens_does_not_matter_and_absent_ones_have_no_say() -> None:
    x, s, places, located = scene(torch.float64)
    torch.manual_seed(2)
    block, order = GeometricBlock(channels=4, scalars=6, heads=2).double(), torch.tensor([2, 0, 3, 1])
    plain = block(x, s, places, located)
    mixed = block(x[:, order], s[:, order], places[:, order], located[:, order])
    torch.testing.assert_close(mixed[0], plain[0][:, order])
    mask = torch.tensor([[True, False, True, True]] * 2)
    less = block(x, s, places, located, mask)
    other = block(x + (~mask)[..., None, None] * 3, s, places, located, mask)
    torch.testing.assert_close(other[1][mask], less[1][mask])


def test_a_block_that_has_inferred_can_be_trained() -> None:
    geometric._table.cache_clear()
    geometric._maps.cache_clear()
    x, s, places, located = scene(torch.float64)
    block = GeometricBlock(channels=4, scalars=6, heads=2).double()
    with torch.inference_mode():
        block(x, s, places, located)
    block(x, s, places, located)[1].sum().backward()
    assert block.qkv.weight.grad is not None


def test_heads_must_divide_the_widths() -> None:
    with pytest.raises(ValueError, match=r"heads \(3\) must divide channels \(4\) and scalars \(6\)"):
        GeometricBlock(channels=4, scalars=6, heads=3)
