"""Gated attention against its step-by-step form, and the properties of the gate and the probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.gated import GatedAttention, curvature, gated_attention, naive_gated_attention


def inputs(batch: int, heads: int, queries: int, keys: int, dim: int) -> list[torch.Tensor]:
    q, k = (batch, heads, queries, dim), (batch, heads, keys, dim)
    return random(q, k, k, q)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3, 5, 5, 8), (0, 2, 3, 3, 4), (2, 1, 4, 7, 16)])
@pytest.mark.parametrize("kind", ["plain", "causal", "masked"])
def test_fast_equals_naive(sizes: tuple[int, ...], kind: str, dtype: torch.dtype) -> None:
    batch, heads, queries, keys, _ = sizes
    options: dict[str, Any] = {}
    if kind == "masked":
        options["mask"] = torch.arange(batch * heads * queries * keys).view(batch, heads, queries, keys) % 3 != 1
    if kind == "causal" and queries == keys:
        options["causal"] = True
    assert_same(gated_attention, naive_gated_attention, inputs(*sizes), dtype=dtype, **options)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, 3, 3, 4)]
    assert torch.autograd.gradcheck(lambda *t: gated_attention(*t, causal=True), tensors)


def test_an_open_gate_is_plain_attention_and_a_closed_one_is_silent() -> None:
    q, k, v, gate = inputs(2, 3, 5, 5, 8)
    plain = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(gated_attention(q, k, v, torch.full_like(gate, 60.0)), plain)
    assert gated_attention(q, k, v, torch.full_like(gate, -800.0)).abs().max() == 0
    assert not torch.allclose(gated_attention(q, k, v, gate), plain)


def test_a_query_that_sees_no_key_gives_zeros_and_finite_gradients() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 1, 3, 3, 4)]
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[0, 0, 1] = False
    out = gated_attention(*tensors, mask=mask)
    assert not out[0, 0, 1].any() and out[1].all()
    out.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors if t.grad is not None)


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(2, 3, 5, 5, 8)
    torch.testing.assert_close(gated_attention(*map(strided, tensors)), gated_attention(*tensors))


def test_the_module_trains_all_its_parameters_and_starts_near_plain_attention() -> None:
    torch.manual_seed(0)
    module = GatedAttention(dim=12, heads=3, causal=True)
    x = torch.randn(2, 6, 12, requires_grad=True)
    module(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert torch.sigmoid(module.gate.bias).min() > 0.9
    changed = x.detach().clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(module(changed)[:, :4], module(x)[:, :4])
    assert module(x.detach().bfloat16()[:0].float()).shape == (0, 6, 12)


def test_the_probe_is_zero_for_an_affine_function_and_not_for_a_gate() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = random((8,), (8, 8), (8,))

    def bend(function: Any, step: float = 1e-2) -> float:
        return curvature(function, x, step=step, generator=generator.manual_seed(1)).item()

    assert bend(lambda y: y @ weight + bias) < 1e-10
    gated = bend(lambda y: torch.sigmoid(y @ weight) * (y @ weight))
    assert gated > 1e-3
    assert bend(lambda y: 1000 * torch.sigmoid(y @ weight) * (y @ weight)) == pytest.approx(gated, rel=1e-9)
    assert bend(lambda y: torch.sigmoid(y @ weight) * (y @ weight), step=5e-3) == pytest.approx(gated / 2, rel=0.05)


def test_a_gate_over_fixed_values_reaches_a_sphere_and_plain_attention_stays_flat() -> None:
    """By the first fundamental form, a gated mean of fixed values has Gaussian curvature 1, an ungated one 0.

    It uses the naive form, since torch has no second derivative of its fused attention.
    """

    def gated(at: torch.Tensor) -> torch.Tensor:
        theta, phi = at
        wanted = torch.stack((theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()))
        # A sigmoid is never negative, so the single value is -2 or 2, with the sign of `wanted`.
        value = 2 * wanted.detach().sign()
        gate = torch.logit(wanted / value)
        one = torch.ones(1, 1, 1, 3, dtype=at.dtype)
        return naive_gated_attention(one, one, value.view(1, 1, 1, 3), gate.view(1, 1, 1, 3)).flatten()

    def plain(at: torch.Tensor) -> torch.Tensor:
        values, weight = random((3, 3), (3, 2))
        query, keys = (weight @ at).view(1, 1, 1, 3), torch.eye(3, dtype=at.dtype).view(1, 1, 3, 3)
        return naive_gated_attention(query, keys, values.view(1, 1, 3, 3), torch.full_like(query, 60.0)).flatten()

    at = torch.tensor([1.1, 0.6], dtype=torch.float64)
    assert gaussian_curvature(gated, at) == pytest.approx(1, abs=1e-3)
    assert gaussian_curvature(plain, at) == pytest.approx(0, abs=1e-3)


def gaussian_curvature(surface: Any, at: torch.Tensor) -> float:
    """Brioschi's formula on the first fundamental form, with derivatives of the metric by autograd."""

    def metric(point: torch.Tensor) -> torch.Tensor:
        jacobian = torch.autograd.functional.jacobian(surface, point, create_graph=True)
        return jacobian.T @ jacobian

    def entries(point: torch.Tensor) -> torch.Tensor:
        g = metric(point)
        return torch.stack((g[0, 0], g[0, 1], g[1, 1]))

    e, f, g = entries(at)
    first = torch.autograd.functional.jacobian(entries, at, create_graph=True)
    second = torch.stack([torch.autograd.functional.hessian(lambda p, i=i: entries(p)[i], at) for i in range(3)])
    (eu, ev), (fu, fv), (gu, gv) = first
    a = torch.stack(
        [
            torch.stack([-second[0, 1, 1] / 2 + second[1, 0, 1] - second[2, 0, 0] / 2, eu / 2, fu - ev / 2]),
            torch.stack([fv - gu / 2, e, f]),
            torch.stack([gv / 2, f, g]),
        ]
    )
    zero = torch.zeros_like(e)
    b = torch.stack([torch.stack([zero, ev / 2, gu / 2]), torch.stack([ev / 2, e, f]), torch.stack([gu / 2, f, g])])
    return ((torch.det(a) - torch.det(b)) / (e * g - f * f) ** 2).item()


def test_errors_name_both_numbers() -> None:
    q, k, v, gate = inputs(2, 3, 5, 7, 8)
    with pytest.raises(ValueError, match=r"gate is \[2, 3, 4, 8\] with T = 4, q has T = 5"):
        gated_attention(q, k, v, gate[:, :, :4])
    with pytest.raises(ValueError, match="causal needs as many keys as queries and no mask; got 5 queries, 7 keys"):
        gated_attention(q, k, v, gate, causal=True)
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(64\)"):
        GatedAttention(dim=64, heads=3)
    with pytest.raises(ValueError, match="11 must be 12"):
        GatedAttention(dim=12, heads=3)(torch.zeros(1, 2, 11))
