"""The bias of time segments: its values inside, at the tail's end and far away, and attention with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators import relay
from tocsin.operators.relay import RelayCrossAttention, naive_relay_attention, relay_attention, relay_bias

INF = math.inf


def table(*intervals: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(intervals, dtype=torch.float64)


def inputs(batch: int, heads: int, tokens: int, slots: int, dim: int) -> list[torch.Tensor]:
    return random((batch, heads, tokens, dim), (batch, heads, slots, dim), (batch, heads, slots, dim))


def clock(tokens: int, slots: int) -> dict[str, Any]:
    begins = torch.arange(slots, dtype=torch.float64) * 2 - 1
    return {
        "times": torch.arange(tokens, dtype=torch.float64),
        "intervals": torch.stack((begins, begins + 3), dim=-1),
        "tail": 1.5,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1), (2, 3, 5, 4, 8), (0, 2, 3, 3, 4), (2, 1, 9, 2, 16), (1, 1, 0, 2, 4)]
)
@pytest.mark.parametrize("tick", [0.0, 1.0])
def test_fast_equals_naive(sizes: tuple[int, ...], tick: float, dtype: torch.dtype) -> None:
    _, _, tokens, slots, _ = sizes
    options = clock(tokens, slots)
    assert_same(relay_attention, naive_relay_attention, inputs(*sizes), dtype=dtype, tick=tick, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_sample_may_have_times_and_slots_of_its_own(dtype: torch.dtype) -> None:
    tensors = inputs(3, 2, 4, 2, 4)
    times = torch.tensor([[0.0, 1, 2, 3], [5, 6, 7, 8], [-3, 0, 3, 30]], dtype=torch.float64)
    intervals = torch.stack((table((0, 1), (2, 3)), table((0, 9), (7, 8)), table((-4, -2), (2, 2))))
    for t, i in ((times, intervals), (times, intervals[0]), (times[0], intervals)):
        assert_same(relay_attention, naive_relay_attention, tensors, dtype=dtype, times=t, intervals=i, tail=2.0)


def test_several_blocks_of_queries_equal_naive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ROWS", 3)
    assert_same(relay_attention, naive_relay_attention, inputs(2, 2, 8, 4, 4), dtype=torch.float64, **clock(8, 4))
    times = clock(8, 4)["times"] + torch.tensor([[0.0], [2.5]])
    options = {**clock(8, 4), "times": times}
    assert_same(relay_attention, naive_relay_attention, inputs(2, 2, 8, 4, 4), dtype=torch.float64, **options)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 6),
    edges=st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5)), min_size=1, max_size=5),
    tail=st.floats(0.1, 10),
    eps=st.floats(1e-6, 0.5),
)
def test_any_table_equals_naive(tokens: int, edges: list[tuple[float, float]], tail: float, eps: float) -> None:
    q, k, v = inputs(1, 1, tokens, len(edges), 4)
    options: dict[str, Any] = {"times": torch.arange(tokens).double(), "tail": tail, "eps": eps}
    options["intervals"] = table(*((begin, begin + length) for begin, length in edges))
    torch.testing.assert_close(relay_attention(q, k, v, **options), naive_relay_attention(q, k, v, **options))


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, 6, 3, 4)]
    intervals = table((0, 1.3), (2.2, 2.9), (-INF, INF))
    for tail in (torch.tensor(1.5).double(), torch.tensor([1.5, 0.7, 2.0]).double()):

        def call(q: Any, k: Any, v: Any, tail: Any) -> torch.Tensor:
            return relay_attention(q, k, v, torch.arange(6), intervals, tail=tail)

        assert torch.autograd.gradcheck(call, [*tensors, tail.requires_grad_()])


def test_the_bias_is_0_inside_and_eps_exactly_at_the_end_of_the_tail() -> None:
    for eps in (1e-3, 1e-2, 0.5):
        times = torch.tensor([8.0, 9.0, 10.0, 12.0, 15.0, 20.0, 21.0, 22.0], dtype=torch.float64)
        factor = relay_bias(times, table((10, 20)), tail=2, eps=eps).exp().flatten()
        torch.testing.assert_close(factor[2:6], torch.ones(4, dtype=torch.float64), rtol=0, atol=0)
        torch.testing.assert_close(factor[[0, -1]], torch.full((2,), eps, dtype=torch.float64), rtol=1e-12, atol=0)
        assert (factor[[1, 6]] > eps).all() and (factor[[1, 6]] < 1).all()
    single = relay_bias(times.float(), table((10, 20)).float(), tail=2).exp().flatten()
    assert single.dtype == torch.float32
    assert single[0].item() == pytest.approx(1e-3, rel=1e-5)


def test_both_widths_are_tails() -> None:
    """`sigma = tail / sqrt(-2 ln eps)`. The hard width, sigma = 1 / ln(1 / eps) = 0.145, corresponds to a tail of 0.538."""
    hard = 1 / math.log(1e3)
    assert hard == pytest.approx(0.1448, abs=1e-4)
    tail = hard * math.sqrt(-2 * math.log(1e-3))
    assert tail == pytest.approx(0.538, abs=1e-3)
    bias = relay_bias(torch.tensor([13.0]), torch.tensor([[10.0, 12.0]]), tail=tail)
    assert bias.item() == pytest.approx(-1 / (2 * hard**2), rel=1e-5)
    soft = relay_bias(torch.tensor([13.0]), torch.tensor([[10.0, 12.0]]), tail=2.0)
    assert soft.item() == pytest.approx(-1 / (2 * 0.538**2), rel=1e-2), "with a tail of 2, sigma is 0.538"


def test_an_interval_is_half_open_where_time_has_ticks() -> None:
    times, shifts = torch.arange(0, 16), torch.tensor([[0, 8], [8, 16]])
    inside = relay_bias(times, shifts, tail=2, tick=1) == 0
    assert torch.equal(inside, torch.stack((times < 8, times >= 8), dim=-1))
    # Frames 4 to 7: middle 5.5, half width 1.5, as in the code of Prompt Relay.
    sigma = 2 / math.sqrt(-2 * math.log(1e-3))
    bias = relay_bias(times, torch.tensor([[4, 8]]), tail=2, tick=1).flatten()
    expected = -(((times - 5.5).abs() - 1.5).clamp_min(0) ** 2) / (2 * sigma**2)
    torch.testing.assert_close(bias, expected)


def test_slots_may_overlap_leave_gaps_be_global_or_open_or_absent() -> None:
    times = torch.tensor([0.0, 5.0, 100.0])
    bias = relay_bias(times, table((0, 6), (4, 7), (-INF, INF), (4, INF), (INF, INF)), tail=1.0)
    assert torch.equal(bias == 0, torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 0]]).bool())
    assert bias[:, 4].isneginf().all() and torch.isfinite(bias[:, :4]).all()
    q, k, v = inputs(1, 1, 3, 5, 4)
    out = relay_attention(q, k, v, times, table((0, 6), (4, 7), (-INF, INF), (4, INF), (INF, INF)), tail=1.0)
    less = relay_attention(q, k[:, :, :4], v[:, :, :4], times, table((0, 6), (4, 7), (-INF, INF), (4, INF)), tail=1.0)
    torch.testing.assert_close(out, less)


def test_a_wide_tail_is_plain_attention() -> None:
    q, k, v = inputs(2, 3, 5, 4, 8)
    options = clock(5, 4)
    plain = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(relay_attention(q, k, v, **{**options, "tail": INF}), plain)
    torch.testing.assert_close(relay_attention(q, k, v, **{**options, "tail": 1e9}), plain)
    assert not torch.allclose(relay_attention(q, k, v, **options), plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("far", [1e1, 1e4, 1e8, 1e15, 1e30])
def test_weights_sum_to_1_however_far_a_query_is_and_the_nearest_slot_gets_them(dtype: torch.dtype, far: float) -> None:
    q, k, _ = (t.to(dtype) for t in inputs(1, 2, 3, 4, 4))
    v = torch.eye(4, dtype=dtype).expand(1, 2, 4, 4)
    intervals = table((0, 10), (0, 10), (20, 30), (60, 70)).float()
    times = torch.tensor([-far, 45.0, far])
    weights = relay_attention(q, k, v, times, intervals, tail=2.0).double()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 3, dtype=torch.float64), atol=1e-2, rtol=0)
    scores = q.double() @ k.double().transpose(-1, -2) / 2
    close = {"atol": 2e-2 if dtype == torch.bfloat16 else 1e-5, "rtol": 0}
    if 1e3 < far < 1e10:  # beyond, float32 times cannot tell which slot is nearer
        # The first two slots are equally far, so only their scores decide between them.
        torch.testing.assert_close(weights[:, :, 0, :2], scores[:, :, 0, :2].softmax(-1), **close)
        torch.testing.assert_close(weights[:, :, 2, 3], torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(weights[:, :, 1, 2:], scores[:, :, 1, 2:].softmax(-1), **close)  # 15 from both slots


def test_a_global_slot_takes_all_of_a_query_far_from_the_others() -> None:
    q, k, _ = inputs(1, 1, 1, 2, 4)
    v = torch.eye(2, 4, dtype=torch.float64)[None, None]
    out = relay_attention(q, k, v, torch.tensor([1e6]), table((0, 1), (-INF, INF)), tail=1.0)
    torch.testing.assert_close(out[0, 0, 0, :2], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_a_query_without_any_slot_gives_zeros_and_finite_gradients() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 1, 3, 2, 4)]
    tail = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    intervals = torch.stack((table((0, 1), (2, 3)), table((INF, INF), (INF, INF))))
    for given_tail in (1.0, tail):
        out = relay_attention(*tensors, torch.arange(3), intervals, tail=given_tail)
        assert out[0].all() and not out[1].any()
        out.sum().backward()
    assert all(t.grad is not None and torch.isfinite(t.grad).all() for t in (*tensors, tail))
    q, k, v = inputs(2, 1, 3, 0, 4)
    assert not relay_attention(q, k, v, torch.arange(3), torch.zeros(0, 2), tail=1.0).any()


def test_seconds_since_1970_keep_their_resolution() -> None:
    begin = 1_700_000_000
    for kind in (torch.int64, torch.float64):
        times, intervals = torch.tensor([begin, begin + 3]).to(kind), torch.tensor([[begin - 10, begin + 1]]).to(kind)
        bias = relay_bias(times, intervals, tail=2.0)
        torch.testing.assert_close(bias.exp().flatten().double(), torch.tensor([1.0, 1e-3], dtype=torch.float64))


def test_a_stream_fed_in_any_split_equals_the_whole() -> None:
    q, k, v = inputs(2, 3, 9, 4, 8)
    options = clock(9, 4)
    times, whole = options.pop("times"), relay_attention(q, k, v, **clock(9, 4))
    for splits in ([1] * 9, [4, 5], [0, 7, 2]):
        pieces = zip(q.split(splits, dim=2), times.split(splits), strict=True)
        torch.testing.assert_close(torch.cat([relay_attention(p, k, v, t, **options) for p, t in pieces], dim=2), whole)


def test_memory_layout_does_not_matter() -> None:
    tensors, options = inputs(2, 3, 5, 4, 8), clock(5, 4)
    other = {n: strided(t) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    torch.testing.assert_close(relay_attention(*map(strided, tensors), **other), relay_attention(*tensors, **options))


def test_the_module_trains_all_its_parameters_and_looks_at_the_slot_of_the_time() -> None:
    torch.manual_seed(0)
    layer = RelayCrossAttention(dim=12, context_dim=5, heads=3, tail=0.5)
    x, context = torch.randn(2, 6, 12), torch.randn(2, 2, 5)
    times, intervals = torch.arange(6), torch.tensor([[0.0, 2], [3, 5]])
    out = layer(x, context, times, intervals)
    out.square().sum().backward()
    assert out.shape == (2, 6, 12)
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    changed = context.clone()
    changed[:, 1] += 9
    torch.testing.assert_close(layer(x, changed, times, intervals)[:, :2], out[:, :2], atol=1e-4, rtol=0)
    assert (layer(x, changed, times, intervals)[:, 3:] - out[:, 3:]).abs().max() > 0.1
    assert layer(x[:0], context[:0], times, intervals).shape == (0, 6, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x, context, times, intervals).float(), out, atol=5e-2, rtol=5e-2)


def test_errors_name_both_numbers() -> None:
    q, k, v = inputs(2, 3, 5, 4, 8)
    options = clock(5, 4)
    with pytest.raises(ValueError, match=r"v is \[2, 3, 3, 8\] with S = 3, k has S = 4"):
        relay_attention(q, k, v[:, :, :3], **options)
    with pytest.raises(ValueError, match=r"times are \[4\], q has T = 5"):
        relay_attention(q, k, v, **{**options, "times": torch.arange(4)})
    with pytest.raises(ValueError, match=r"intervals are \[3, 2\], k has S = 4"):
        relay_attention(q, k, v, **{**options, "intervals": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"intervals are \[3, 4, 2\] with B = 3, q has B = 2"):
        relay_attention(q, k, v, **{**options, "intervals": torch.zeros(3, 4, 2)})
    with pytest.raises(ValueError, match=r"times must be \[T\] or \[B, T\] .* got \[5\] and \[4, 3\]"):
        relay_bias(torch.arange(5), torch.zeros(4, 3), tail=1.0)
    with pytest.raises(ValueError, match=r"with B = 2, intervals have B = 3"):
        relay_bias(torch.zeros(2, 5), torch.zeros(3, 4, 2), tail=1.0)
    with pytest.raises(ValueError, match=r"tail is \[3\], intervals have S = 4"):
        relay_bias(torch.zeros(5), torch.zeros(4, 2), tail=torch.ones(3))
    for tail, eps in ((0.0, 1e-3), (-1.0, 1e-3), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match=rf"eps \({eps}\) must lie between 0 and 1, and tail \({tail}\) above 0"):
            relay_bias(torch.zeros(5), torch.zeros(4, 2), tail=tail, eps=eps)
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(64\)"):
        RelayCrossAttention(dim=64, context_dim=4, heads=3, tail=1.0)
    with pytest.raises(ValueError, match="11 must be 12"):
        RelayCrossAttention(dim=12, context_dim=4, heads=3, tail=1.0)(
            torch.zeros(1, 2, 11), torch.zeros(1, 2, 4), torch.zeros(2), torch.zeros(2, 2)
        )
