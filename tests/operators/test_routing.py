"""Flux routing: both paths against their references, the routes, and the gradients and losses that train them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators import routing
from tocsin.operators.routing import (
    FluxAttention,
    FluxRouter,
    SinkWindow,
    SparsityLoss,
    flux_attention,
    naive_sink_window_attention,
    sink_window_attention,
    sink_window_step,
    tau_at,
)


def inputs(batch: int, heads: int, tokens: int, dim: int) -> list[torch.Tensor]:
    return random(*[(batch, heads, tokens, dim)] * 3)


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sink: int, window: int) -> torch.Tensor:
    t, s = torch.arange(q.shape[2])[:, None], torch.arange(q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(s <= t) & ((s < sink) | (s > t - window)))


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short blocks, so that few tokens fill many."""
    monkeypatch.setattr(routing, "BLOCK", 4)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (2, 3, 5, 8), (0, 2, 9, 4), (1, 2, 23, 4), (1, 1, 16, 16), (1, 1, 0, 4)]
)
@pytest.mark.parametrize(("sink", "window"), [(0, 1), (1, 3), (4, 4), (6, 9), (2, 40)])
def test_fast_equals_naive(sizes: tuple[int, ...], sink: int, window: int, dtype: torch.dtype) -> None:
    assert_same(
        sink_window_attention, naive_sink_window_attention, inputs(*sizes), dtype=dtype, sink=sink, window=window
    )


@pytest.mark.parametrize("tokens", [127, 128, 129, 600])
@pytest.mark.parametrize(("sink", "window"), [(0, 1), (5, 128), (128, 100), (130, 257), (0, 512)])
def test_blocks_of_full_size_equal_attention_under_a_mask(tokens: int, sink: int, window: int) -> None:
    q, k, v = inputs(1, 1, tokens, 4)
    torch.testing.assert_close(sink_window_attention(q, k, v, sink=sink, window=window), masked(q, k, v, sink, window))


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 300), sink=st.integers(0, 150), window=st.integers(1, 310))
def test_any_sizes_equal_attention_under_a_mask(tokens: int, sink: int, window: int) -> None:
    q, k, v = inputs(1, 1, tokens, 2)
    torch.testing.assert_close(sink_window_attention(q, k, v, sink=sink, window=window), masked(q, k, v, sink, window))


@pytest.mark.usefixtures("short_blocks")
def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 1, 9, 3)]
    route = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: sink_window_attention(*t, sink=1, window=3), tensors)
    assert torch.autograd.gradcheck(lambda *t: flux_attention(*t, sink=1, window=3), [*tensors, route])


def test_a_window_over_all_tokens_is_dense() -> None:
    q, k, v = inputs(1, 2, 300, 4)
    for window in (300, 301, 5000):
        out = sink_window_attention(q, k, v, sink=3, window=window)
        torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    short = sink_window_attention(q, k, v, sink=3, window=150)
    assert not torch.allclose(short, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_all_dense_is_causal_attention_and_all_sparse_is_attention_under_the_mask() -> None:
    q, k, v = inputs(3, 2, 200, 4)
    dense = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    for ones in (torch.ones(3, dtype=torch.bool), torch.ones(3)):
        torch.testing.assert_close(flux_attention(q, k, v, ones, sink=2, window=20), dense, rtol=0, atol=0)
        torch.testing.assert_close(flux_attention(q, k, v, ones == 0, sink=2, window=20), masked(q, k, v, 2, 20))
    torch.testing.assert_close(flux_attention(q, k, v, torch.zeros(3), sink=2, window=20), masked(q, k, v, 2, 20))


def test_a_mixed_batch_gives_each_sample_what_it_gets_alone_and_computes_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = inputs(5, 2, 40, 4)
    route = torch.tensor([False, True, True, False, True])
    alone = [flux_attention(*(t[i : i + 1] for t in (q, k, v, route)), sink=2, window=7) for i in range(5)]
    torch.testing.assert_close(flux_attention(q, k, v, route, sink=2, window=7), torch.cat(alone))
    assert not torch.allclose(alone[0], flux_attention(q, k, v, ~route, sink=2, window=7)[:1])

    sizes = []
    monkeypatch.setattr(routing, "sink_window_attention", lambda q, k, v, **_: sizes.append(len(q)) or q)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: sizes.append(len(q)) or q)
    flux_attention(q, k, v, route, sink=2, window=7)
    assert sizes == [3, 2]


def test_a_mixed_batch_passes_gradients_to_every_sample() -> None:
    def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flux_attention(q, k, v, torch.tensor([True, False, True]), sink=1, window=3)

    def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        windows = (9, 3, 9)
        rows = [
            naive_sink_window_attention(q[i, None], k[i, None], v[i, None], sink=1, window=w)
            for i, w in enumerate(windows)
        ]
        return torch.cat(rows)

    assert_same(mixed, alone, inputs(3, 2, 9, 4), dtype=torch.float64)


@pytest.mark.parametrize("splits", [[1] * 23, [23], [5, 1, 10, 7], [0, 4, 19], [2, 21]])
@pytest.mark.parametrize(("sink", "window"), [(0, 1), (3, 5), (7, 2), (2, 1), (0, 4), (30, 4), (2, 40)])
def test_a_stream_fed_in_any_split_equals_the_whole_and_its_state_is_bounded(
    splits: list[int], sink: int, window: int
) -> None:
    q, k, v = inputs(2, 2, 23, 4)
    state: SinkWindow | None = None
    parts = []
    for piece in zip(*(t.split(splits, dim=2) for t in (q, k, v)), strict=True):
        out, state = sink_window_step(*piece, state, sink=sink, window=window)
        parts.append(out)
        assert state.k.shape == state.v.shape
        assert state.k.shape[2] <= sink + window - 1
    torch.testing.assert_close(torch.cat(parts, dim=2), naive_sink_window_attention(q, k, v, sink=sink, window=window))
    assert state is not None and state.seen == 23


def test_the_mask_in_blocks_for_flex_attention_says_what_flex_attention_would_find_itself() -> None:
    for tokens, sink, window in [
        (128, 1, 1),
        (700, 0, 200),
        (700, 130, 1),
        (1024, 128, 512),
        (513, 300, 129),
        (1000, 5, 128),
    ]:
        ours = routing._block_mask(tokens, sink, window, torch.device("cpu"))
        theirs = create_block_mask(
            lambda b, h, t, s, sink=sink, window=window: (s <= t) & ((s < sink) | (s > t - window)),
            None,
            None,
            tokens,
            tokens,
            device="cpu",
        )
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
        t, s = torch.arange(tokens)[:, None], torch.arange(tokens)
        assert torch.equal(ours.mask_mod(0, 0, t, s), (s <= t) & ((s < sink) | (s > t - window)))
        whole = (ours.full_kv_num_blocks[0, 0], ours.full_kv_indices[0, 0])
        for row, (count, blocks) in enumerate(zip(*whole, strict=True)):
            for column in blocks[:count].tolist():  # full blocks are read without the mask
                r, c = (slice(128 * at, 128 * at + 128) for at in (row, column))
                assert ours.mask_mod(0, 0, t[r], s[c]).all()


def test_flex_attention_is_left_alone_where_it_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    routing._flex.cache_clear()
    assert routing._flex(torch.device("cpu"), torch.float32, 16) is None
    monkeypatch.setattr(torch, "compile", lambda function: lambda *_, **__: function)
    routing._flex.cache_clear()
    kept = routing._flex(torch.device("cpu"), torch.float32, 16)
    assert kept is not None and kept() is flex_attention
    routing._flex.cache_clear()


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(2, 1, 150, 4)
    route = torch.tensor([True, False])
    torch.testing.assert_close(
        flux_attention(*map(strided, tensors), route, sink=1, window=9),
        flux_attention(*tensors, route, sink=1, window=9),
    )


def test_an_empty_batch_is_routed_too() -> None:
    q, k, v = inputs(0, 2, 5, 4)
    for route in (torch.zeros(0), torch.zeros(0, dtype=torch.bool)):
        assert flux_attention(q, k, v, route, sink=1, window=2).shape == (0, 2, 5, 4)


def test_a_fresh_router_sends_every_sample_to_the_dense_path() -> None:
    torch.manual_seed(0)
    router = FluxRouter(dim=8, pool=4)
    q = 100 * torch.randn(64, 2, 20, 8)
    torch.testing.assert_close(router.logits(q), torch.tensor([0.0, 4.5]).expand(64, 2), rtol=0, atol=0)
    sampled = torch.stack([router(q) for _ in range(50)]).mean()
    assert 0.975 < sampled < 1, "sigmoid(4.5) = 0.989 are dense"
    assert router.eval()(q).dtype == torch.bool and router(q).all()


def test_the_router_reads_both_ends_and_nothing_between() -> None:
    torch.manual_seed(0)
    router = trained(FluxRouter(dim=8, pool=3))
    q = torch.randn(1, 2, 10, 8)
    before = router.logits(q)
    for place, matters in ((0, True), (2, True), (3, False), (6, False), (7, True), (9, True)):
        changed = q.clone()
        changed[:, :, place] += 3
        assert torch.equal(router.logits(changed), before) != matters, place
    assert torch.isfinite(router.logits(q[:, :, :1])).all()


def trained(router: FluxRouter) -> FluxRouter:
    """Randomise the last layer, so that it depends on its input as after training."""
    torch.nn.init.normal_(router.decide[-1].weight)
    return router


def test_the_straight_through_gradient_is_that_of_the_soft_sample_and_reaches_the_whole_router() -> None:
    torch.manual_seed(0)
    router = trained(FluxRouter(dim=8, pool=4))
    q = torch.randn(16, 2, 20, 8)
    torch.manual_seed(1)
    route = router(q, tau=0.7)
    assert set(route.unique().tolist()) <= {0.0, 1.0}
    route.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in router.parameters())

    logits = router.logits(q).detach().requires_grad_()
    torch.manual_seed(1)
    noise = -torch.empty_like(logits).exponential_().log()
    soft = torch.softmax((logits + noise) / 0.7, dim=-1)[:, 1]
    soft.sum().backward()
    torch.testing.assert_close(route, (soft > 0.5).float())
    bias = router.decide[-1].bias
    torch.testing.assert_close(bias.grad, logits.grad.sum(0))


def test_a_cold_router_takes_the_larger_noisy_logit_and_evaluation_takes_none() -> None:
    torch.manual_seed(0)
    router = trained(FluxRouter(dim=8, pool=4))
    q = torch.randn(16, 2, 20, 8)
    router(q, tau=1e-6).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in router.parameters())
    router.eval()
    assert torch.equal(router(q), router(q))
    assert torch.equal(router(q), router.logits(q).argmax(-1) == 1)


def test_the_layer_trains_all_its_parameters_from_its_output_alone_and_is_causal_at_a_given_route() -> None:
    torch.manual_seed(0)
    layer = FluxAttention(dim=12, heads=3, sink=1, window=2, pool=2)
    trained(layer.router)
    x = torch.randn(4, 9, 12)
    out, route = layer(x, tau=1.5)
    assert out.shape == (4, 9, 12) and route.shape == (4,)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())

    chosen = torch.tensor([True, False, True, False])
    changed = x.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(layer.eval()(changed, chosen)[0][:, :5], layer(x, chosen)[0][:, :5])
    assert layer(x, chosen)[1] is chosen
    assert layer(x[:0])[0].shape == (0, 9, 12)


def test_the_layer_runs_under_autocast() -> None:
    torch.manual_seed(0)
    layer = FluxAttention(dim=16, heads=2, sink=1, window=2, pool=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = layer(torch.randn(2, 150, 16))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()


def test_the_loss_of_sparsity_is_what_the_paper_states() -> None:
    loss = SparsityLoss(targets=[0.45, 1.0, 0.3])
    with torch.no_grad():
        loss.multipliers.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4], [7.0, 7.0]]))
    routes = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])  # two layers; sparse shares 0.5, 1.0, 0.0
    got = loss(routes, torch.tensor([0, 0, 1]))
    first = (0.1 * 0.05 + 0.2 * 0.05**2 + 0.1 * 0.55 + 0.2 * 0.55**2) / 2
    assert got.item() == pytest.approx((first + 0.3 * 1 + 0.4 * 1) / 2)
    assert loss(torch.ones(2, 0), torch.zeros(0, dtype=torch.long)).item() == 0


def test_multipliers_ascend_while_a_target_is_missed_and_the_routes_follow_it() -> None:
    torch.manual_seed(0)
    loss = SparsityLoss(targets=[0.5])
    logit = torch.zeros(4, 8, requires_grad=True)
    start = loss.multipliers.detach().clone()
    assert start.min() >= 0 and start.max() <= 0.5
    ascent = torch.optim.Adam(loss.parameters(), lr=1e-2, maximize=True)
    descent = torch.optim.Adam([logit], lr=5e-2)
    with torch.no_grad():
        logit += 3  # nearly all dense
    tasks = torch.zeros(8, dtype=torch.long)
    for _ in range(150):
        ascent.zero_grad(), descent.zero_grad()
        loss(torch.sigmoid(logit), tasks).backward()
        ascent.step(), descent.step()
    assert (loss.multipliers > start).all()
    assert (1 - torch.sigmoid(logit).mean()).item() == pytest.approx(0.5, abs=0.03)


def test_the_temperature_falls_along_a_cosine_and_stays() -> None:
    assert tau_at(0, 300) == 1.5
    assert tau_at(90, 300) == pytest.approx(1.25)
    assert tau_at(45, 300) == pytest.approx(1.25 + 0.25 * math.cos(math.pi / 4))
    assert tau_at(180, 300) == tau_at(299, 300) == 1.0
    assert tau_at(0, 0) == 1.5


def test_errors_name_both_numbers() -> None:
    q, k, v = inputs(2, 3, 5, 8)
    with pytest.raises(ValueError, match=r"k is \[2, 3, 4, 8\] with T = 4, q has T = 5"):
        sink_window_attention(q, k[:, :, :4], v, sink=1, window=2)
    with pytest.raises(ValueError, match=r"sink \(-1\) must be 0 or more and window \(2\) 1 or more"):
        sink_window_attention(q, k, v, sink=-1, window=2)
    with pytest.raises(ValueError, match=r"sink \(1\) must be 0 or more and window \(0\) 1 or more"):
        flux_attention(q, k, v, torch.ones(2), sink=1, window=0)
    with pytest.raises(ValueError, match=r"route is \[3\], q has 2 samples"):
        flux_attention(q, k, v, torch.ones(3), sink=1, window=2)
    with pytest.raises(ValueError, match=r"state_k is .* with H = 2, q has H = 3"):
        sink_window_step(q, k, v, SinkWindow(k[:, :2], v[:, :2], 5), sink=1, window=2)
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(64\)"):
        FluxAttention(dim=64, heads=3)
    with pytest.raises(ValueError, match="11 must be 12"):
        FluxAttention(dim=12, heads=3)(torch.zeros(1, 2, 11))
    with pytest.raises(ValueError, match=r"pool \(0\) must be at least 1"):
        FluxRouter(dim=8, pool=0)
    with pytest.raises(ValueError, match="8 must be 4"):
        FluxRouter(dim=4)(q)
    with pytest.raises(ValueError, match=r"tasks is .* with B = 2, routes has B = 3"):
        SparsityLoss(targets=[0.5])(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))
