"""Multi-scale convolutions and the gate of places equal their naive forms; the module is what its parts give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.grid import squeeze_excitation
from tocsin.operators.scales import (
    MultiScaleExcitation,
    multi_scale,
    naive_multi_scale,
    naive_spatial_excitation,
    spatial_excitation,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "sizes"), [((1, 1, 1, 1), [1]), ((2, 3, 5, 4), [3, 5, 7]), ((1, 4, 2, 9), [1, 3]), ((2, 2, 6, 6), [5])]
)
def test_many_scales_equal_their_naive_form(shape: tuple[int, ...], sizes: list[int], dtype: torch.dtype) -> None:
    tensors = random(shape, *((shape[1], size, size) for size in sizes))
    assert_same(
        lambda x, *kernels: multi_scale(x, kernels),
        lambda x, *kernels: naive_multi_scale(x, kernels),
        tensors,
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 3), ((1, 2, 3, 3), 7)])
def test_the_gate_of_places_equals_its_naive_form(shape: tuple[int, ...], size: int, dtype: torch.dtype) -> None:
    x, kernel, bias = random(shape, (2, size, size), (1,))
    assert_same(spatial_excitation, naive_spatial_excitation, [x, kernel, bias[0]], dtype=dtype)


def test_a_kernel_of_one_place_scales_its_channel_and_kernels_stand_side_by_side() -> None:
    x, kernel = random((2, 3, 4, 5), (3, 1, 1))
    out = multi_scale(x, [kernel, 2 * kernel])
    torch.testing.assert_close(out[:, :3], x * kernel)
    torch.testing.assert_close(out[:, 3:], 2 * x * kernel)


def test_layout_does_not_matter() -> None:
    x, small, large = random((2, 3, 6, 5), (3, 3, 3), (3, 5, 5))
    expected = multi_scale(x, [small, large])
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(multi_scale(last, [small, large]), expected)
    torch.testing.assert_close(multi_scale(strided(x), [strided(small), large]), expected)


def test_the_module_is_its_parts_in_order_and_without_gates_only_mixes() -> None:
    torch.manual_seed(0)
    block, x = MultiScaleExcitation(channels=8, sizes=(3, 5)), torch.randn(2, 8, 6, 7)
    mixed = block.mix(F.gelu(multi_scale(block.norm(x), [*block.kernels])))
    assert block.squeeze is not None and block.excite is not None
    gated = squeeze_excitation(mixed, block.squeeze.weight, block.excite.weight)
    assert block.look is not None and block.bias is not None
    torch.testing.assert_close(block(x), x + spatial_excitation(gated, block.look, block.bias))
    block(x).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    plain = MultiScaleExcitation(channels=8, sizes=(3, 5), gates=False)
    torch.testing.assert_close(plain(x), x + plain.mix(F.gelu(multi_scale(plain.norm(x), [*plain.kernels]))))


def test_wrong_shapes_are_named() -> None:
    x, kernel = random((2, 3, 4, 5), (3, 3, 3))
    with pytest.raises(ValueError, match=r"kernels: expected at least one, got none"):
        multi_scale(x, [])
    with pytest.raises(ValueError, match=r"kernels\[1\] is \[2, 3, 3\] with C = 2, x has C = 3"):
        multi_scale(x, [kernel, kernel[:2]])
    with pytest.raises(ValueError, match=r"kernels\[0\] is \[3, 2, 2\], expected \[C, k, k\] with an odd k"):
        multi_scale(x, [kernel[:, :2, :2]])
    with pytest.raises(ValueError, match=r"kernel is \[2, 2, 2\], expected \[2, k, k\] with an odd k"):
        spatial_excitation(x, kernel[:2, :2, :2], x.new_zeros(()))
    with pytest.raises(ValueError, match=r"sizes: expected odd numbers, got 4; take 5"):
        MultiScaleExcitation(channels=4, sizes=(3, 4))
