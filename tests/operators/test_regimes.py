"""Regimes: their clusters, sensors normalised by them, trends of streams in parts, and attention against its naive form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.regimes import (
    RegimeFusion,
    Regimes,
    decompose,
    fit_regimes,
    naive_decompose,
    naive_regime_attention,
    regime_attention,
    regime_statistics,
)

# The operating points of C-MAPSS's FD002: altitude, Mach number, throttle.
POINTS = torch.tensor(
    [[0, 0, 100], [10, 0.25, 100], [20, 0.7, 100], [25, 0.62, 60], [35, 0.84, 100], [42, 0.84, 100]],
    dtype=torch.float64,
)


def flights(rows: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Settings near the six points, and the index of each row's point."""
    which = torch.randint(6, (rows,), generator=torch.Generator().manual_seed(seed))
    (jitter,) = random((rows, 3), seed=seed)
    return POINTS[which] + jitter * torch.tensor([3e-3, 3e-4, 1e-3]), which


def test_six_operating_points_are_found_in_their_order() -> None:
    settings, which = flights()
    regimes = fit_regimes(settings, 6)
    torch.testing.assert_close(regimes.centres, POINTS, atol=1e-2, rtol=0)
    assert torch.equal(regimes.of(settings), which)
    assert torch.equal(regimes.of(settings.view(2, 300, 3)), which.view(2, 300))


def test_the_unit_of_a_setting_does_not_matter() -> None:
    settings, which = flights()
    unit = torch.tensor([1e-3, 1e5, 1.0])
    assert torch.equal(fit_regimes(settings * unit, 6).of(settings * unit), which)
    high, wide = (
        torch.tensor([[0.0, 0.0], [0.0, 4e3], [1.0, 0.0], [1.0, 5e3]]),
        torch.tensor([[1.0, 4e3], [0.0, 4.9e3]]),
    )
    # In raw units, throughput alone would decide.
    assert fit_regimes(high, 4).of(wide).tolist() == [3, 1]


def test_the_same_settings_give_the_same_regimes_whatever_the_global_seed() -> None:
    settings, _ = flights(90)
    fits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        fits.append(fit_regimes(settings, 9).centres)
        fits.append(fit_regimes(settings, 9, torch.Generator().manual_seed(4)).centres)
    assert torch.equal(fits[0], fits[2]) and torch.equal(fits[1], fits[3])


def test_a_bad_start_does_not_decide() -> None:
    points = 4 * torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0)).double()
    for seed in range(7):
        (spread,) = random((240, 2), seed=seed)
        regimes = fit_regimes(points.repeat(20, 1) + 0.6 * spread, 12)
        assert torch.cdist(points, regimes.centres).amin(1).max() < 1  # each point has its own centre


def test_one_regime_is_the_mean_and_its_normalisation_the_global_one() -> None:
    settings, _ = flights(50)
    regimes = fit_regimes(settings, 1)
    torch.testing.assert_close(regimes.centres[0], settings.mean(0))
    regime = regimes.of(settings)
    assert not regime.any()
    (x,) = random((50, 4))
    mean, deviation = regime_statistics(x, regime, 1)
    torch.testing.assert_close(mean[0], x.mean(0))
    torch.testing.assert_close(deviation[0], x.std(0, correction=0))
    out = decompose(x[None], regime[None], mean, deviation, keep=0.9)
    torch.testing.assert_close((out.trend + out.residual)[0], (x - x.mean(0)) / x.std(0, correction=0))


def test_normalised_sensors_have_mean_zero_and_deviation_one_in_each_regime() -> None:
    _, which = flights()
    (noise, offset, gain) = random((600, 3), (6, 3), (6, 3))
    x = (500 * offset[which] + (1 + gain[which].abs()) * noise).float()
    mean, deviation = regime_statistics(x, which, 6)
    out = decompose(x[None], which[None], mean, deviation, keep=0.0)  # the trend is the reading itself
    for k in range(6):
        z = out.trend[0, which == k]
        torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert out.residual.abs().max() < 1e-5


def test_a_constant_sensor_and_a_regime_without_rows_do_not_divide_by_zero() -> None:
    # The sum rounds; in float32, the error would far exceed the bound below which a spread counts as none.
    x = torch.full((4000, 2), 518.67)
    x[:, 1] += torch.linspace(0, 1, 4000)
    mean, deviation = regime_statistics(x, torch.zeros(4000, dtype=torch.long), 3)
    assert mean[0, 0] == x[0, 0]
    assert deviation[0, 0] == 1 and deviation[0, 1] < 1
    exact = regime_statistics(torch.full((4000, 1), 518.67, dtype=torch.float64), torch.zeros(4000).long(), 1)
    assert exact[0] != 518.67 and exact[1] == 1  # a rounding error, not a spread
    assert not mean[1:].any() and (deviation[1:] == 1).all()
    bulk = regime_statistics(x.bfloat16(), torch.zeros(4000, dtype=torch.long), 1)[0]
    assert bulk.dtype == torch.float32
    torch.testing.assert_close(bulk[0], x.bfloat16().float().mean(0))
    fitted = fit_regimes(torch.cat((x, torch.arange(4000.0)[:, None] // 2000), dim=1)[:, [0, 2]], 2)
    assert fitted.centres[:, 1].tolist() == [0, 1]


def readings(batch: int, steps: int, features: int, count: int = 3, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    x, mean, deviation = random((batch, steps, features), (count, features), (count, features), seed=seed)
    regime = torch.randint(count, (batch, steps), generator=torch.Generator().manual_seed(seed))
    return [x, mean, deviation.exp()], regime


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 7, 3), (0, 5, 4), (2, 150, 2), (1, 64, 1), (1, 65, 1)])
@pytest.mark.parametrize("begun", [True, False])
def test_the_fast_trend_equals_the_naive_one(sizes: tuple[int, int, int], begun: bool, dtype: torch.dtype) -> None:
    tensors, regime = readings(*sizes)

    def form(function: Any) -> Any:
        def run(x: Tensor, mean: Tensor, deviation: Tensor, state: Tensor) -> tuple[Tensor, ...]:
            kept = state if begun else None
            out = function(x, regime, mean, deviation.square() + 0.5, keep=0.9, state=kept)
            return out.trend, out.residual, out.state.to(x.dtype)

        return run

    assert_same(form(decompose), form(naive_decompose), [*tensors, *random((sizes[0], sizes[2]))], dtype=dtype)


@given(st.lists(st.integers(0, 90), max_size=5), st.integers(1, 90), st.floats(0, 0.999), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_stream_fed_in_any_split_is_the_whole(cuts: list[int], steps: int, keep: float, seed: int) -> None:
    (x, mean, deviation), regime = readings(2, steps, 3, seed=seed)
    whole = decompose(x, regime, mean, deviation, keep=keep)
    state, trends, residuals = None, [], []
    for start, end in pairwise(sorted([0, *(min(cut, steps) for cut in cuts), steps])):
        part = decompose(x[:, start:end], regime[:, start:end], mean, deviation, keep=keep, state=state)
        state = part.state
        trends.append(part.trend)
        residuals.append(part.residual)
    assert state is not None and whole.state is not None and state.shape == (2, 3)
    torch.testing.assert_close(torch.cat(trends, dim=1), whole.trend)
    torch.testing.assert_close(torch.cat(residuals, dim=1), whole.residual)
    torch.testing.assert_close(state, whole.state)


def test_a_trend_does_not_look_ahead_and_begins_at_the_first_reading() -> None:
    (x, mean, deviation), regime = readings(2, 100, 3)
    trend = decompose(x, regime, mean, deviation, keep=0.9).trend
    changed = x.clone()
    changed[:, 70:] += 5
    assert torch.equal(decompose(changed, regime, mean, deviation, keep=0.9).trend[:, :70], trend[:, :70])
    torch.testing.assert_close(trend[:, 0], (x[:, 0] - mean[regime[:, 0]]) / deviation[regime[:, 0]])
    level = decompose(torch.ones(1, 200, 1), torch.zeros(1, 200).long(), torch.zeros(1, 1), torch.ones(1, 1), keep=0.99)
    torch.testing.assert_close(level.trend, torch.ones(1, 200, 1))
    assert level.residual.abs().max() < 1e-5


def attention_inputs(
    batch: int, heads: int, queries: int, steps: int, dim: int, count: int, seed: int = 0
) -> list[Tensor]:
    step, regime = (batch, heads, steps, dim), (heads, count, dim)
    return random((batch, heads, queries, dim), step, step, regime, regime, seed=seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 3, 5, 5, 8, 6), (0, 2, 3, 3, 4, 2), (3, 1, 4, 7, 16, 3)])
@pytest.mark.parametrize("masked", [True, False])
def test_the_fast_attention_equals_the_naive_one(sizes: tuple[int, ...], masked: bool, dtype: torch.dtype) -> None:
    batch, _, _, steps, _, count = sizes
    regime = torch.arange(batch * steps).view(batch, steps) ** 2 % count
    mask = torch.arange(batch * steps).view(batch, steps) % 3 != 1 if masked else None
    if mask is not None and batch > 1:
        mask[1] = False
    tensors = attention_inputs(*sizes)
    assert_same(regime_attention, naive_regime_attention, tensors, dtype=dtype, regime=regime, mask=mask)


@given(st.tuples(*[st.integers(1, 5)] * 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_fast_attention_equals_the_naive_one_in_any_shape(sizes: tuple[int, ...], seed: int) -> None:
    batch, heads, steps, dim, count = sizes
    tensors = attention_inputs(batch, heads, steps, steps, dim, count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    regime = torch.randint(count, (batch, steps), generator=generator)
    mask = torch.rand(batch, steps, generator=generator) < 0.6
    fast, naive = (f(*tensors, regime, mask) for f in (regime_attention, naive_regime_attention))
    torch.testing.assert_close(fast, naive)


def test_gradients_are_those_of_finite_differences() -> None:
    (x, mean, deviation), regime = readings(2, 4, 2)
    leaves = [t.requires_grad_() for t in (x, mean, deviation)]

    def split(x: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, ...]:
        out = decompose(x, regime, mean, deviation, keep=0.8)
        return out.trend, out.residual

    assert torch.autograd.gradcheck(split, leaves)
    tensors = [t.requires_grad_() for t in attention_inputs(2, 1, 2, 4, 3, 3)]
    assert torch.autograd.gradcheck(lambda *t: regime_attention(*t, regime, regime != 1), tensors)


def test_a_row_without_a_step_gives_zeros_and_finite_gradients() -> None:
    tensors = [t.requires_grad_() for t in attention_inputs(2, 2, 3, 3, 4, 2)]
    mask = torch.tensor([[False] * 3, [True] * 3])
    out = regime_attention(*tensors, torch.zeros(2, 3, dtype=torch.long), mask)
    assert not out[0].any() and out[1].all()
    out.sum().backward()
    assert all(t.grad is not None and torch.isfinite(t.grad).all() for t in tensors)


def test_memory_layout_and_autocast_do_not_matter() -> None:
    (x, mean, deviation), regime = readings(2, 9, 3)
    tensors = attention_inputs(2, 2, 4, 9, 4, 3)
    torch.testing.assert_close(
        regime_attention(*map(strided, tensors), strided(regime)), regime_attention(*tensors, regime)
    )
    plain, spread = (
        decompose(layout(x), layout(regime), layout(mean), layout(deviation), keep=0.7)
        for layout in (torch.clone, strided)
    )
    torch.testing.assert_close(spread.trend, plain.trend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = decompose(x.float(), regime, mean.float(), deviation.float(), keep=0.7)
    torch.testing.assert_close(cast.trend.double(), plain.trend, atol=1e-5, rtol=1e-5)


def fusion(count: int = 3) -> RegimeFusion:
    torch.manual_seed(0)
    return RegimeFusion(dim=12, features=5, count=count, heads=3).double()


def by_torch(module: RegimeFusion, trend: Tensor, residual: Tensor, regime: Tensor) -> Tensor:
    """The same module by torch's multi-head attention, with a key for every step's regime."""
    attention = nn.MultiheadAttention(12, 3, batch_first=True).double()
    parts = (module.query, module.key, module.value)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    attention.out_proj.load_state_dict(module.out.state_dict())
    keys = torch.cat((module.from_regime(module.embedding(regime)), module.from_residual(residual)), dim=1)
    return F.layer_norm(trend + attention(trend, keys, keys)[0], (12,), module.norm.weight, module.norm.bias)


@pytest.mark.parametrize("count", [1, 3])
def test_the_module_is_multi_head_attention_to_embeddings_and_residuals(count: int) -> None:
    module, (trend, residual) = fusion(count), random((2, 7, 12), (2, 7, 5))
    regime = torch.arange(14).view(2, 7) % count
    torch.testing.assert_close(module(trend, residual, regime), by_torch(module, trend, residual, regime))
    other = module(trend, residual, (regime + 1) % count)
    assert torch.equal(other, module(trend, residual, regime)) == (count == 1)


def test_padding_in_front_of_a_window_changes_nothing() -> None:
    module, (trend, residual) = fusion(), random((2, 7, 12), (2, 7, 5))
    regime = torch.arange(14).view(2, 7) % 3
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, :2] = False
    out = module(trend, residual, regime, mask)
    torch.testing.assert_close(out[:, 2:], module(trend[:, 2:], residual[:, 2:], regime[:, 2:]))
    nothing = module(trend, residual, regime, torch.zeros_like(mask))
    torch.testing.assert_close(nothing, module.norm(trend + module.out.bias))


def test_the_module_trains_all_its_parameters_also_under_autocast() -> None:
    for autocast in (False, True):
        module = fusion().float()
        trend, residual = (t.float() for t in random((2, 7, 12), (2, 7, 5)))
        regime = torch.arange(14).view(2, 7) % 3
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = module(trend, residual, regime)
        out[..., 0].square().sum().backward()
        blind = {"key.bias"}  # shifts all logits of a query equally, which softmax ignores
        assert all(p.grad is not None and (n in blind or p.grad.any()) for n, p in module.named_parameters())
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    assert module(trend[:0], residual[:0], regime[:0]).shape == (0, 7, 12)


def test_errors_name_both_numbers() -> None:
    settings, which = flights(20)
    with pytest.raises(ValueError, match="count is 21, expected 1 to 20: the settings have 20 distinct rows"):
        fit_regimes(settings, 21)
    with pytest.raises(ValueError, match="count is 3, expected 1 to 2: the settings have 2 distinct rows"):
        fit_regimes(settings[[0, 0, 1, 1]], 3)
    settings[3, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 20 rows of settings are not finite"):
        fit_regimes(settings, 2)
    with pytest.raises(ValueError, match=r"centres is \[6, 3\] with S = 3, settings has S = 2"):
        Regimes(POINTS, torch.ones(3).double()).of(settings[:, :2])
    with pytest.raises(ValueError, match="regime is 0 to 5, there are 4: 0 to 3"):
        regime_statistics(settings, which, 4)
    (x, mean, deviation), regime = readings(2, 9, 3)
    with pytest.raises(ValueError, match=r"keep is 1.0, expected at least 0 and less than 1"):
        decompose(x, regime, mean, deviation, keep=1.0)
    with pytest.raises(ValueError, match=r"state is \[2, 2\] with F = 2, x has F = 3"):
        decompose(x, regime, mean, deviation, keep=0.5, state=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"heads \(4\) must divide dim \(10\)"):
        RegimeFusion(dim=10, features=5, count=2)
    with pytest.raises(ValueError, match="4 must be 5"):
        fusion()(*random((2, 7, 12), (2, 7, 4)), torch.zeros(2, 7, dtype=torch.long))
