"""Latent-condensed attention: sequence, stream and naive form agree, and are exact where condensing loses nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.latent import (
    LatentAttention,
    LatentCache,
    condense,
    condensed_attention,
    naive_condense,
    naive_condensed_attention,
    rotary,
)

SIZES = [  # batch, heads, tokens, latent, rope; group, window
    ((1, 1, 1, 1, 2), (1, 1)),
    ((2, 3, 40, 8, 4), (4, 8)),
    ((0, 2, 20, 4, 2), (3, 5)),
    ((1, 2, 30, 4, 2), (5, 1)),
    ((1, 2, 300, 4, 2), (16, 20)),  # two blocks of queries
    ((1, 2, 9, 4, 2), (4, 100)),
]


def inputs(batch: int, heads: int, tokens: int, latent: int, rope: int, seed: int = 0) -> list[Tensor]:
    """Queries, rope queries, latents, rope keys."""
    queries, keys = (batch, heads, tokens), (batch, tokens)
    return random((*queries, latent), (*queries, rope), (*keys, latent), (*keys, rope), seed=seed)


def full(q: Tensor, q_rope: Tensor, latents: Tensor, rope_keys: Tensor) -> Tensor:
    """Plain attention over every latent."""
    logits = q @ latents.unsqueeze(1).mT + q_rope @ rope_keys.unsqueeze(1).mT
    later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    logits = (logits * (q.shape[-1] + q_rope.shape[-1]) ** -0.5).masked_fill(later, -torch.inf)
    return logits.softmax(-1) @ latents.unsqueeze(1)


def stream(cache: LatentCache, tensors: list[Tensor], chunk: int) -> Tensor:
    """Run the sequence in chunks."""
    q, q_rope, latents, rope_keys = tensors
    outs = [
        cache.step(
            latents[:, i : i + chunk], rope_keys[:, i : i + chunk], q[:, :, i : i + chunk], q_rope[:, :, i : i + chunk]
        )
        for i in range(0, latents.shape[1], chunk)
    ]
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "sizes"), SIZES)
@pytest.mark.parametrize("mass", [True, False])
def test_fast_equals_naive(shape: tuple[int, ...], sizes: tuple[int, int], mass: bool, dtype: torch.dtype) -> None:
    options = {"group": sizes[0], "window": sizes[1], "mass": mass}
    assert_same(condensed_attention, naive_condensed_attention, inputs(*shape), dtype=dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "group"), [(1, 1, 1), (2, 12, 4), (0, 6, 3), (2, 0, 5), (1, 7, 7)])
def test_condensing_fast_equals_naive(batch: int, tokens: int, group: int, dtype: torch.dtype) -> None:
    tensors = random((batch, tokens, 8), (batch, tokens, 4), (batch, tokens))
    assert_same(condense, naive_condense, tensors, dtype=dtype, group=group)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, 12, 3, 2)]
    assert torch.autograd.gradcheck(lambda *t: condensed_attention(*t, group=3, window=2), tensors)


def test_a_group_is_a_mean_of_latents_and_one_of_its_positional_keys() -> None:
    latents, rope_keys = random((1, 6, 4), (1, 6, 2))
    importance = torch.tensor([[0.0, 0.0, 0.0, -9.0, 50.0, 1.0]]).double()
    pooled, chosen = condense(latents, rope_keys, importance, 3)
    torch.testing.assert_close(pooled[0], torch.stack((latents[0, :3].mean(0), latents[0, 4])))
    assert (rope_keys[0, :3] == chosen[0, 0]).all(-1).any() and torch.equal(chosen[0, 1], rope_keys[0, 4])


@pytest.mark.parametrize("window", [1, 5, 64])
def test_groups_of_one_are_full_latent_attention(window: int) -> None:
    tensors = inputs(2, 3, 30, 8, 4)
    torch.testing.assert_close(condensed_attention(*tensors, group=1, window=window), full(*tensors))
    torch.testing.assert_close(stream(LatentCache(group=1, window=window), tensors, 7), full(*tensors))


def test_nothing_is_condensed_before_a_full_group_has_left_the_window() -> None:
    tensors = inputs(1, 2, 24, 4, 2)
    out = condensed_attention(*tensors, group=4, window=20)
    same = torch.isclose(out, full(*tensors)).flatten(3).all(-1)[0].all(0)
    assert same[:23].all() and not same[23]


def test_groups_of_equal_tokens_are_exact_with_their_mass_and_not_without() -> None:
    q, q_rope, latents, rope_keys = inputs(2, 3, 32, 8, 4)
    tensors = [q, q_rope, *(t[:, ::4].repeat_interleave(4, dim=1) for t in (latents, rope_keys))]
    torch.testing.assert_close(condensed_attention(*tensors, group=4, window=6), full(*tensors))
    torch.testing.assert_close(stream(LatentCache(group=4, window=6), tensors, 5), full(*tensors))
    assert not torch.allclose(condensed_attention(*tensors, group=4, window=6, mass=False), full(*tensors), atol=1e-2)


def test_no_token_sees_a_later_one_not_even_through_a_groups_summary() -> None:
    tensors = inputs(1, 2, 40, 4, 2)
    before = condensed_attention(*tensors, group=4, window=6)
    for start in range(1, 40):
        q, q_rope, latents, rope_keys = (t.clone() for t in tensors)
        for t in (latents, rope_keys):
            t[:, start:] += 1
        for t in (q, q_rope):
            t[:, :, start:] += 1
        after = condensed_attention(q, q_rope, latents, rope_keys, group=4, window=6)
        assert torch.equal(after[:, :, :start], before[:, :, :start])
        assert not torch.isclose(after[:, :, start:], before[:, :, start:]).any()


def test_what_matters_in_a_group_is_said_by_the_last_sixteen_queries_and_no_earlier_one() -> None:
    tensors = inputs(1, 2, 40, 4, 2)
    q = tensors[0].clone()
    # Groups of 4 leave the window of 20 at tokens 23, 27, 31... Queries 12 to 27 decide the second group's summary.
    q[:, :, :11] *= -3
    out, changed = (condensed_attention(x, *tensors[1:], group=4, window=20) for x in (tensors[0], q))
    same = torch.isclose(out, changed).flatten(3).all(-1)[0].all(0)
    assert not same[23:].any()  # queries 8 to 23 decide the first group's summary
    q[:, :, :8], q[:, :, 8:11] = -3 * tensors[0][:, :, :8], tensors[0][:, :, 8:11]
    changed = condensed_attention(q, *tensors[1:], group=4, window=20)
    assert torch.equal(out[:, :, 8:], changed[:, :, 8:])


@pytest.mark.parametrize(("shape", "sizes"), SIZES)
@pytest.mark.parametrize("chunk", [1, 3, 16, 1000])
def test_a_stream_in_any_split_is_the_whole(shape: tuple[int, ...], sizes: tuple[int, int], chunk: int) -> None:
    tensors, options = inputs(*shape), {"group": sizes[0], "window": sizes[1]}
    whole = condensed_attention(*tensors, **options)
    torch.testing.assert_close(stream(LatentCache(**options), tensors, chunk), whole)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 60), st.integers(1, 6), st.integers(1, 4)),
    group=st.integers(1, 9),
    window=st.integers(1, 30),
    chunk=st.integers(1, 60),
    mass=st.booleans(),
)
def test_all_three_forms_agree_whatever_the_sizes(
    shape: tuple[int, ...], group: int, window: int, chunk: int, mass: bool
) -> None:
    tensors, options = inputs(*shape), {"group": group, "window": window, "mass": mass}
    whole = naive_condensed_attention(*tensors, scale=0.7, **options)
    torch.testing.assert_close(condensed_attention(*tensors, scale=0.7, **options), whole)
    torch.testing.assert_close(stream(LatentCache(scale=0.7, **options), tensors, chunk), whole)


def test_a_snapshot_is_a_state_of_its_own_that_goes_on_alike() -> None:
    tensors, options = inputs(1, 2, 60, 4, 2), {"group": 4, "window": 9}
    whole = stream(LatentCache(**options), tensors, 1)
    for stop in (0, 5, 12, 13, 47):
        cache = LatentCache(**options)
        if stop:
            stream(cache, part(tensors, 0, stop), 5)
        state = cache.snapshot()
        assert all(isinstance(value, Tensor | int) for value in state.values())
        stream(cache, part(tensors, 30, 60), 1)  # must not change the snapshot
        again = LatentCache(**options)
        again.restore(state)
        assert again.tokens == stop
        torch.testing.assert_close(stream(again, part(tensors, stop, 60), 7), whole[:, :, stop:])


def test_the_cache_at_32k_tokens_is_at_most_a_tenth_of_the_full_one_and_is_seldom_copied() -> None:
    tokens, width, copies, held = 32_768, 6, 0, 0
    cache = LatentCache(group=16, window=1024)
    _, _, latents, rope_keys = inputs(1, 1, tokens, 4, 2)
    for start in range(0, tokens, 1024):
        chunk = slice(start, start + 1024)
        cache.step(latents[:, chunk], rope_keys[:, chunk], latents[:, None, chunk], rope_keys[:, None, chunk])
        copies, held = copies + (cache.nbytes != held), cache.nbytes
        rows = cache.nbytes / (width * 8)
        assert cache.groups <= cache.tokens // 16
        assert rows <= 1024 + 16 + 15 + max(128, cache.groups * 9 / 8 + 1)
    assert cache.groups == (tokens - 1024) // 16
    assert cache.nbytes <= 0.1 * tokens * width * 8
    assert copies <= 20


def test_the_error_does_not_grow_with_the_length_on_slowly_varying_tokens() -> None:
    def error(tokens: int) -> float:
        q, q_rope, latents, rope_keys = inputs(1, 2, tokens, 8, 4)
        centre = latents[:, ::32].repeat_interleave(32, dim=1)
        tensors = [centre.unsqueeze(1) + 0.1 * q, 0.1 * q_rope, centre + 0.1 * latents, 0.1 * rope_keys]
        out, wanted = condensed_attention(*tensors, group=8, window=32)[:, :, -32:], full(*tensors)[:, :, -32:]
        return ((out - wanted).norm() / wanted.norm()).item()

    errors = [error(tokens) for tokens in (256, 512, 1024, 2048)]
    assert 0 < max(errors) < 0.05 and errors[-1] < 2 * errors[0]


def test_memory_layout_and_modes_do_not_matter() -> None:
    tensors, options = inputs(2, 3, 40, 8, 4), {"group": 4, "window": 8}
    whole, spread = condensed_attention(*tensors, **options), [strided(t) for t in tensors]
    torch.testing.assert_close(condensed_attention(*spread, **options), whole)
    torch.testing.assert_close(stream(LatentCache(**options), spread, 3), whole)
    cache = LatentCache(**options)
    with torch.inference_mode():
        stream(cache, part(tensors, 0, 30), 3)
    rest = stream(cache, [t.requires_grad_() for t in part(tensors, 30, 40)], 3)
    torch.testing.assert_close(rest, whole[:, :, 30:])
    assert not rest.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cache_keeps_the_dtype(dtype: torch.dtype) -> None:
    tensors, options = [t.to(dtype) for t in inputs(1, 2, 40, 8, 4)], {"group": 4, "window": 8}
    out = stream(LatentCache(**options), tensors, 3)
    assert out.dtype == dtype
    torch.testing.assert_close(out, condensed_attention(*tensors, **options), atol=2e-2, rtol=2e-2)


def test_no_tokens_give_no_output() -> None:
    tensors, cache = inputs(2, 3, 0, 8, 4), LatentCache(group=4, window=8)
    for out in (condensed_attention(*tensors, group=4, window=8), cache.step(tensors[2], tensors[3], *tensors[:2])):
        assert out.shape == (2, 3, 0, 8)
    assert cache.tokens == 0


def test_rotary_keys_know_only_how_far_apart_they_are() -> None:
    q, k = random((1, 6), (1, 6))

    def dot(i: int, j: int) -> float:
        return (rotary(q, torch.tensor([i])) * rotary(k, torch.tensor([j]))).sum().item()

    assert dot(7, 3) == pytest.approx(dot(1007, 1003), rel=1e-6) != pytest.approx(dot(7, 4))
    torch.testing.assert_close(rotary(q, torch.tensor([0])), q)
    # bfloat16 is exact only for integers up to 256, so positions must not be rounded to it.
    at = torch.tensor([1001])
    torch.testing.assert_close(rotary(q.bfloat16(), at).double(), rotary(q, at), atol=2e-2, rtol=2e-2)


def layer(**sizes: int) -> LatentAttention:
    torch.manual_seed(0)
    return LatentAttention(dim=12, heads=3, latent=8, rope=4, **sizes).double()


def test_the_module_trains_all_its_parameters() -> None:
    module = layer(group=4, window=6)
    x = torch.randn(2, 30, 12).double().requires_grad_()
    module(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in [*module.parameters(), x])
    assert module(x.detach()[:0]).shape == (0, 30, 12)
    assert module(x.detach()[:, :1]).shape == (2, 1, 12)


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_the_module_streams_as_it_trains(chunk: int) -> None:
    module, x = layer(group=4, window=6), torch.randn(2, 40, 12).double()
    cache, whole = module.cache(), module(x)
    pieces = [module(piece, cache) for piece in x.split(chunk, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert cache.groups == 8


def test_the_module_with_groups_of_one_is_multi_head_attention_with_keys_made_from_latents() -> None:
    module, x = layer(group=1, window=4), torch.randn(2, 20, 12).double()
    q, q_rope = module.query(x).split((12, 12), dim=-1)
    latents, rope_keys = module.compress(x).split((8, 4), dim=-1)
    latents, at = module.norm(latents), torch.arange(20)
    heads = []
    for h in range(3):
        own = slice(4 * h, 4 * h + 4)
        query = torch.cat((q[..., own], rotary(q_rope[..., own], at)), dim=-1)
        key = torch.cat((latents @ module.keys[h].T, rotary(rope_keys, at)), dim=-1)
        logits = query @ key.mT / math.sqrt(8) + torch.full((20, 20), -torch.inf).triu(1)
        heads.append(logits.softmax(-1) @ latents @ module.values[h].T)
    torch.testing.assert_close(module(x), module.out(torch.cat(heads, dim=-1)))


def test_the_module_runs_under_autocast() -> None:
    module, x = layer(group=4, window=6).float(), torch.randn(2, 40, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, cache = module(x), module.cache()
        pieces = torch.cat([module(piece, cache) for piece in x.split(9, dim=1)], dim=1)
    assert out.dtype == pieces.dtype == torch.bfloat16
    for near in (out, pieces):
        torch.testing.assert_close(near.float(), module(x), atol=6e-2, rtol=6e-2)


def test_errors_name_both_numbers() -> None:
    q, q_rope, latents, rope_keys = tensors = inputs(2, 3, 10, 8, 4)
    with pytest.raises(ValueError, match=r"group \(4\) must divide the number of tokens \(10\)"):
        condense(latents, rope_keys, latents[..., 0], 4)
    with pytest.raises(ValueError, match=r"importance is \[2, 9\] with N = 9, latents has N = 10"):
        condense(latents, rope_keys, latents[:, :9, 0], 5)
    with pytest.raises(ValueError, match=r"latents is \[2, 10, 7\] with C = 7, q has C = 8"):
        condensed_attention(q, q_rope, latents[..., :7], rope_keys, group=2, window=4)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        condensed_attention(*tensors, group=2, window=0)
    with pytest.raises(ValueError, match="group must be at least 1, got 0"):
        LatentCache(group=0, window=4)
    cache = LatentCache(group=2, window=4)
    cache.step(latents, rope_keys, q, q_rope)
    with pytest.raises(ValueError, match=r"with B = 1, .* has B = 2|with B = 2, .* has B = 1"):
        cache.step(latents[:1], rope_keys[:1], q[:1], q_rope[:1])
    with pytest.raises(ValueError, match="the snapshot has group 2, this cache 3"):
        LatentCache(group=3, window=4).restore(cache.snapshot())
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(64\)"):
        LatentAttention(dim=64, heads=3, latent=8, rope=4)
    with pytest.raises(ValueError, match=r"2 must divide rope \(3\)"):
        LatentAttention(dim=64, heads=4, latent=8, rope=3)
    with pytest.raises(ValueError, match="11 must be 12"):
        layer()(torch.zeros(1, 2, 11).double())


def part(tensors: list[Tensor], start: int, stop: int) -> list[Tensor]:
    """Tokens `start` to `stop`: the third dimension of queries, the second of keys."""
    q, q_rope, latents, rope_keys = tensors
    return [q[:, :, start:stop], q_rope[:, :, start:stop], latents[:, start:stop], rope_keys[:, start:stop]]
