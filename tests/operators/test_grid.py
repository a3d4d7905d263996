"""Grid attention equals its naive form; patches, unknown cells, dtypes and layouts; squeeze-excitation; the module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.grid import (
    GridAttention,
    grid_attention,
    naive_grid_attention,
    naive_squeeze_excitation,
    squeeze_excitation,
)


def inputs(*shape: int) -> list[torch.Tensor]:
    return random(shape, shape, shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((1, 1, 1, 1, 1), (1, 1)),
        ((2, 3, 4, 6, 5), (1, 3)),
        ((2, 3, 4, 6, 5), (2, 2)),
        ((2, 1, 4, 6, 2), (4, 6)),
        ((3, 1, 2, 12, 4), (2, 1)),
    ],
)
def test_it_equals_its_naive_form(
    shape: tuple[int, ...], patch: tuple[int, int], known: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    cells = torch.rand(shape[0], *shape[2:4]) < 0.4 if known else None
    tensors = random(shape, shape, shape)
    assert_same(grid_attention, naive_grid_attention, tensors, dtype=dtype, patch=patch, known=cells)


def test_patches_of_one_cell_are_attention_over_all_cells() -> None:
    q, k, v = inputs(2, 3, 4, 6, 5)
    plain = F.scaled_dot_product_attention(*(x.flatten(2, 3) for x in (q, k, v))).unflatten(2, (4, 6))
    torch.testing.assert_close(grid_attention(q, k, v, patch=(1, 1)), plain)


def test_a_patch_without_a_known_cell_is_attended_to_by_none_and_a_blank_grid_gives_zeros() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 1, 2, 4, 3)]
    q, k, v = tensors
    known = torch.zeros(2, 2, 4, dtype=torch.bool)
    known[0, 1, 3] = True  # one cell of one patch
    out = grid_attention(q, k, v, patch=(1, 2), known=known)
    torch.testing.assert_close(out[0], v[0, :, 1:, 2:].repeat(1, 2, 2, 1))
    assert not out[1].any()
    out.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors)


def test_sensors_may_be_in_any_order_where_a_patch_has_one() -> None:
    tensors, order = inputs(2, 3, 5, 6, 4), torch.tensor([3, 0, 4, 1, 2])
    moved = grid_attention(*(t[:, :, order] for t in tensors), patch=(1, 3))
    torch.testing.assert_close(moved, grid_attention(*tensors, patch=(1, 3))[:, :, order])


def test_memory_layout_does_not_matter() -> None:
    tensors, known = inputs(2, 3, 4, 6, 5), torch.rand(2, 4, 6) < 0.5
    one = grid_attention(*map(strided, tensors), patch=(2, 3), known=strided(known))
    torch.testing.assert_close(one, grid_attention(*tensors, patch=(2, 3), known=known))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "hidden"), [(1, 1), (6, 2)])
def test_squeeze_excitation_equals_its_naive_form(channels: int, hidden: int, dtype: torch.dtype) -> None:
    tensors = random((3, channels, 4, 5), (hidden, channels), (channels, hidden))
    assert_same(squeeze_excitation, naive_squeeze_excitation, tensors, dtype=dtype)


def test_the_module_trains_all_its_parameters_and_takes_any_number_of_sensors_and_times() -> None:
    torch.manual_seed(0)
    layer = GridAttention(channels=8, heads=2, patch=(1, 3))
    out = layer(torch.randn(2, 8, 5, 6))
    out.square().sum().backward()
    assert out.shape == (2, 8, 5, 6)
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert layer(torch.randn(1, 8, 17, 30)).shape == (1, 8, 17, 30)
    assert layer(torch.randn(0, 8, 2, 3)).shape == (0, 8, 2, 3)


def test_errors_name_both_numbers() -> None:
    q, k, v = inputs(2, 3, 4, 6, 5)
    with pytest.raises(ValueError, match=r"patch \(3 x 2\) must divide the grid \(4 sensors x 6 times\)"):
        grid_attention(q, k, v, patch=(3, 2))
    with pytest.raises(ValueError, match=r"patch \(1 x 0\) must divide"):
        naive_grid_attention(q, k, v, patch=(1, 0))
    with pytest.raises(ValueError, match=r"v is \[2, 3, 4, 3, 5\] with T = 3, q has T = 6"):
        grid_attention(q, k, v[:, :, :, :3], patch=(1, 1))
    with pytest.raises(ValueError, match=r"known is torch.bool \[2, 4, 5\], expected bool \[2, 4, 6\]"):
        grid_attention(q, k, v, patch=(1, 1), known=torch.ones(2, 4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"excite is \[3, 2\] with C = 3, x has C = 4"):
        squeeze_excitation(torch.zeros(1, 4, 2, 2), torch.zeros(2, 4), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"heads \(3\) must divide channels \(8\)"):
        GridAttention(channels=8, heads=3, patch=(1, 1))
    with pytest.raises(ValueError, match="7 must be 8"):
        GridAttention(channels=8, heads=2, patch=(1, 1))(torch.zeros(1, 7, 2, 2))
