"""FiLM-gated cross-attention against its form a token at a time; a closed gate changes nothing."""

from __future__ import annotations

import pytest
import torch

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.film import FilmAttention, film_attention, naive_film_attention


def inputs(batch: int, heads: int, tokens: int, features: int, width: int) -> list[torch.Tensor]:
    own, theirs, gate = (batch, heads, tokens, width), (batch, heads, features, width), (batch, heads, width)
    return random(own, own, theirs, theirs, gate, gate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 2, 4, 5, 8), (0, 2, 3, 3, 4), (2, 1, 1, 7, 16)])
@pytest.mark.parametrize("masked", [False, True])
def test_fast_equals_naive(sizes: tuple[int, ...], masked: bool, dtype: torch.dtype) -> None:
    known = torch.arange(sizes[0] * sizes[3]).view(sizes[0], sizes[3]) % 3 != 1 if masked else None
    assert_same(film_attention, naive_film_attention, inputs(*sizes), dtype=dtype, known=known)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, 3, 3, 4)]
    assert torch.autograd.gradcheck(film_attention, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_closed_gate_keeps_its_tokens_bit_for_bit_and_an_open_one_does_not(dtype: torch.dtype) -> None:
    x, q, k, v, scale, shift = (t.to(dtype) for t in inputs(4, 2, 3, 5, 8))
    scale[::2] = shift[::2] = 0
    out = film_attention(x, q, k, v, scale, shift)
    assert torch.equal(out[::2], x[::2])
    assert not torch.isclose(out[1::2], x[1::2]).any()


def test_an_instance_without_features_gets_its_shift_alone_and_finite_gradients() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 2, 3, 4, 8)]
    known = torch.tensor([[False] * 4, [True, False, True, True]])
    out = film_attention(*tensors, known=known)
    x, shift = tensors[0], tensors[5]
    assert torch.equal(out[0], x[0] + shift[0].unsqueeze(1))
    out.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors if t.grad is not None)


def test_what_is_not_known_does_not_matter_nor_does_the_order_of_features() -> None:
    x, q, k, v, scale, shift = inputs(2, 2, 3, 5, 8)
    known = torch.tensor([[True, True, False, True, False]] * 2)
    out = film_attention(x, q, k, v, scale, shift, known=known)
    k[:, :, 2], v[:, :, 4] = 99.0, -99.0
    torch.testing.assert_close(film_attention(x, q, k, v, scale, shift, known=known), out)
    order = torch.tensor([4, 1, 3, 0, 2])
    turned = film_attention(x, q, k[:, :, order], v[:, :, order], scale, shift, known=known[:, order])
    torch.testing.assert_close(turned, out)


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(2, 3, 5, 5, 8)
    torch.testing.assert_close(film_attention(*map(strided, tensors)), film_attention(*tensors))


def test_the_module_begins_as_the_identity_and_trains_all_its_parameters() -> None:
    torch.manual_seed(0)
    module = FilmAttention(dim=12, features=7, heads=3, instance=5)
    x, features, instance = torch.randn(4, 6, 12), torch.randn(4, 9, 7), torch.randn(4, 5)
    assert torch.equal(module(x, features, instance), x)
    module(x, features, instance).square().sum().backward()
    assert module.gate.weight.grad is not None and module.gate.weight.grad.any()
    torch.nn.init.normal_(module.gate.weight)
    module(x, features, instance).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert module(x[:0], features[:0], instance[:0]).shape == (0, 6, 12)


def test_errors_name_both_numbers() -> None:
    x, q, k, v, scale, shift = inputs(2, 3, 5, 7, 8)
    with pytest.raises(ValueError, match=r"scale is \[1, 3, 8\] with B = 1, x has B = 2"):
        film_attention(x, q, k, v, scale[:1], shift)
    with pytest.raises(ValueError, match=r"known is \[2, 6\] with N = 6, k has N = 7"):
        film_attention(x, q, k, v, scale, shift, known=torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"heads \(5\) must divide dim \(12\)"):
        FilmAttention(dim=12, features=7, heads=5, instance=5)
    with pytest.raises(ValueError, match="11 must be 12"):
        FilmAttention(dim=12, features=7, heads=3, instance=5)(
            torch.zeros(1, 2, 11), torch.zeros(1, 2, 7), torch.zeros(1, 5)
        )
