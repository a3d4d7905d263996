"""Geometric context attention: the cache, the masked batch and the lists of visible frames give the same result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.context import ContextCache, context_attention, context_mask, naive_context_attention

SIZES = [  # batch, heads, frames, tokens, width; anchor, window, special
    ((1, 1, 1, 1, 1), (1, 1, 1)),
    ((2, 3, 9, 4, 8), (2, 3, 2)),
    ((0, 2, 5, 3, 4), (1, 2, 1)),
    ((1, 2, 12, 3, 4), (3, 1, 0)),
    ((2, 1, 4, 3, 4), (2, 5, 1)),
]


def clip(*shape: int, seed: int = 0) -> list[Tensor]:
    return random(shape, shape, shape, seed=seed)


def options(anchor: int, window: int, special: int) -> dict[str, Any]:
    return {"anchor": anchor, "window": window, "special": special}


def thirds(frames: int) -> list[bool]:
    return [f % 3 != 1 for f in range(frames)]


def stream(cache: ContextCache, tensors: Sequence[Tensor], keyframes: Iterable[bool] | None = None) -> Tensor:
    """Run the clip frame by frame."""
    anchor, frames = cache.anchor, tensors[0].shape[2]
    stored = list(keyframes) if keyframes is not None else [True] * frames
    outs = [cache.start(*(t[:, :, :anchor] for t in tensors))]
    for f in range(anchor, frames):
        outs.append(cache.step(*(t[:, :, f] for t in tensors), keyframe=stored[f]).unsqueeze(2))
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "sizes"), SIZES)
@pytest.mark.parametrize("kind", ["all frames", "keyframes"])
def test_fast_equals_naive(shape: tuple[int, ...], sizes: tuple[int, ...], kind: str, dtype: torch.dtype) -> None:
    keyframes = thirds(shape[2]) if kind == "keyframes" else None
    named = options(*sizes)
    assert_same(context_attention, naive_context_attention, clip(*shape), dtype=dtype, keyframes=keyframes, **named)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in clip(1, 2, 4, 2, 3)]
    assert torch.autograd.gradcheck(lambda *t: context_attention(*t, **options(1, 1, 1)), tensors)


@pytest.mark.parametrize(("shape", "sizes"), SIZES)
@pytest.mark.parametrize("kind", ["all frames", "keyframes"])
def test_the_cache_is_masked_batch_attention_before_and_after_eviction(
    shape: tuple[int, ...], sizes: tuple[int, ...], kind: str
) -> None:
    keyframes = thirds(shape[2]) if kind == "keyframes" else None
    tensors, named = clip(*shape), options(*sizes)
    mask = context_mask(shape[2], tokens=shape[3], keyframes=keyframes, **named)
    whole = F.scaled_dot_product_attention(*(t.flatten(2, 3) for t in tensors), attn_mask=mask).view(shape)
    torch.testing.assert_close(stream(ContextCache(**named), tensors, keyframes), whole)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 3)),
    data=st.data(),
)
def test_the_cache_is_exact_whatever_the_sizes_and_the_keyframes(
    sizes: tuple[int, int, int], extra: tuple[int, int], data: st.DataObject
) -> None:
    frames, tokens = sizes[0] + extra[0], max(1, sizes[2]) + extra[1]
    keyframes = data.draw(st.lists(st.booleans(), min_size=frames, max_size=frames))
    tensors, named = clip(1, 2, frames, tokens, 4), options(*sizes)
    whole = naive_context_attention(*tensors, keyframes=keyframes, **named)
    torch.testing.assert_close(context_attention(*tensors, keyframes=keyframes, **named), whole)
    torch.testing.assert_close(stream(ContextCache(**named), tensors, keyframes), whole)


@pytest.mark.parametrize("memory", [0, 1, 3])
@pytest.mark.parametrize("kind", ["all frames", "keyframes"])
def test_a_limited_memory_forgets_the_oldest_frames_in_every_form(memory: int, kind: str) -> None:
    keyframes = thirds(14) if kind == "keyframes" else None
    tensors, named = clip(2, 2, 14, 4, 3), {**options(2, 3, 2), "memory": memory}
    whole = naive_context_attention(*tensors, keyframes=keyframes, **named)
    torch.testing.assert_close(context_attention(*tensors, keyframes=keyframes, **named), whole)
    cache = ContextCache(**named)
    torch.testing.assert_close(stream(cache, tensors, keyframes), whole)
    again = restored(cache.snapshot(), **named)
    last = [t[:, :, 13] for t in tensors]
    torch.testing.assert_close(cache.step(*last), again.step(*last))
    assert cache.tokens == (2 + 3) * 4 + memory * 2
    unlimited = naive_context_attention(*tensors, keyframes=keyframes, **options(2, 3, 2))
    assert not torch.isclose(whole, unlimited)[:, :, -1].all()


def test_a_limited_cache_does_not_grow() -> None:
    cache, frames = ContextCache(**options(2, 3, 1), memory=4), clip(1, 1, 40, 4, 2)
    stream(cache, [t[:, :, :12] for t in frames])
    size, tokens = cache.nbytes, cache.tokens
    for f in range(12, 40):
        cache.step(*(t[:, :, f] for t in frames))
    assert (cache.nbytes, cache.tokens) == (size, tokens)


def test_the_mask_of_a_small_clip_is_this() -> None:
    # Frames of two tokens, the first special; anchor 1, window 2. Frame 3 is the first to see only part of a frame.
    seen = context_mask(5, tokens=2, **options(1, 2, 1))[::2].int().tolist()
    assert seen == [
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0, 1, 1, 1, 1],
    ]
    passing = context_mask(5, tokens=2, keyframes=[True, True, True, False, True], **options(1, 2, 1))[::2]
    assert passing.int().tolist()[3:] == [[1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 1, 1]]


def test_frames_of_special_tokens_alone_are_never_forgotten() -> None:
    q, k, v = tensors = clip(1, 2, 8, 3, 4)
    order = torch.arange(8).repeat_interleave(3)
    causal = order <= order.unsqueeze(1)
    whole = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=causal)
    torch.testing.assert_close(stream(ContextCache(**options(1, 2, 3)), tensors), whole.view(q.shape))


def test_no_frame_sees_a_later_one_but_within_the_anchor() -> None:
    tensors, named = clip(1, 2, 9, 3, 4), options(2, 2, 1)
    before = context_attention(*tensors, **named)
    for start in (1, 5):
        changed = [torch.cat((t[:, :, :start], t[:, :, start:] + 1), dim=2) for t in tensors]
        same = torch.isclose(context_attention(*changed, **named), before).flatten(3).all(-1)[0, 0]
        assert same[:start].all() == (start >= 2) and not same[start:].any()


def test_a_frame_that_is_no_keyframe_leaves_no_trace() -> None:
    tensors, cache = clip(1, 2, 9, 3, 4), ContextCache(**options(2, 3, 1))
    stream(cache, tensors)
    frame, later = ([t[:, :, f] for t in clip(1, 2, 2, 3, 4, seed=1)] for f in (0, 1))
    before, count = cache.snapshot(), cache.frames
    first, second = cache.step(*frame, keyframe=False), cache.step(*frame, keyframe=False)
    assert cache.frames == count and torch.equal(first, second)
    assert torch.equal(stored(cache.snapshot()), stored(before))
    torch.testing.assert_close(cache.step(*later), restored(before, **options(2, 3, 1)).step(*later))


def test_a_snapshot_is_a_state_of_its_own_that_goes_on_alike() -> None:
    tensors, named = clip(1, 2, 14, 3, 4), options(2, 3, 1)
    whole = stream(ContextCache(**named), tensors)
    for stop in (2, 4, 5, 9):
        cache = ContextCache(**named)
        stream(cache, [t[:, :, :stop] for t in tensors])
        state = cache.snapshot()
        assert all(isinstance(value, Tensor | int) for value in state.values())
        cache.step(*(t[:, :, 13] for t in tensors))  # must not change the snapshot
        again = restored(state, **named)
        for f in range(stop, 14):
            torch.testing.assert_close(again.step(*(t[:, :, f] for t in tensors)), whole[:, :, f])
    empty = restored(ContextCache(**named).snapshot(), **named)
    torch.testing.assert_close(stream(empty, tensors), whole)


def test_the_cache_is_as_large_as_anchor_window_and_memory() -> None:
    cache, copies = ContextCache(**options(2, 3, 1)), 0
    frames = clip(1, 1, 60, 4, 2)
    stream(cache, [t[:, :, :2] for t in frames])
    for f in range(2, 60):
        before = cache.nbytes
        cache.step(*(t[:, :, f] for t in frames))
        copies += cache.nbytes > before
        evicted = max(0, f + 1 - 5)
        assert cache.tokens == (f + 1 - evicted) * 4 + evicted
        assert cache.nbytes <= 2 * 2 * 8 * (5 * 4 + 2 * (evicted + 4))  # keys and values, width, bytes, tokens
    assert copies <= 5  # 55 tokens of memory; capacity doubles from 4


def test_the_camera_alone_may_ask() -> None:
    tensors, named = clip(1, 2, 9, 3, 4), options(2, 3, 1)
    whole, cache = stream(ContextCache(**named), tensors), ContextCache(**named)
    stream(cache, [t[:, :, :8] for t in tensors])
    q, k, v = (t[:, :, 8] for t in tensors)
    torch.testing.assert_close(cache.step(q[:, :, :1], k, v), whole[:, :, 8, :1])


def test_memory_layout_and_modes_do_not_matter() -> None:
    tensors, named = clip(2, 2, 8, 3, 4), options(2, 2, 1)
    whole, spread = context_attention(*tensors, **named), [strided(t) for t in tensors]
    torch.testing.assert_close(context_attention(*spread, **named), whole)
    torch.testing.assert_close(stream(ContextCache(**named), spread), whole)
    cache = ContextCache(**named)
    with torch.inference_mode():
        stream(cache, [t[:, :, :7] for t in tensors])
    last = cache.step(*(t[:, :, 7].requires_grad_() for t in tensors))
    torch.testing.assert_close(last, whole[:, :, 7])
    assert not last.requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cache_keeps_the_dtype(dtype: torch.dtype) -> None:
    tensors, named = [t.to(dtype) for t in clip(1, 2, 8, 3, 4)], options(2, 2, 1)
    out = stream(ContextCache(**named), tensors)
    assert out.dtype == dtype
    torch.testing.assert_close(out, context_attention(*tensors, **named), atol=2e-2, rtol=2e-2)


def test_a_row_always_sees_itself_so_no_query_is_without_keys() -> None:
    mask = context_mask(20, tokens=3, keyframes=[False] * 20, **options(1, 1, 0))
    assert mask.diagonal().all()


def test_errors_name_both_numbers() -> None:
    tensors = clip(1, 2, 4, 3, 4)
    q, k, v = (t[:, :, 0] for t in tensors)
    cache = ContextCache(**options(2, 2, 1))
    with pytest.raises(ValueError, match=r"expected start\(\) with 2 anchor frames first, got a stream without them"):
        cache.step(q, k, v)
    with pytest.raises(ValueError, match="4 must be 2"):
        cache.start(*tensors)
    cache.start(*(t[:, :, :2] for t in tensors))
    with pytest.raises(ValueError, match="expected the anchor before all frames, got it after 2; use a new cache"):
        cache.start(*(t[:, :, :2] for t in tensors))
    with pytest.raises(ValueError, match="2 must be 3"):
        cache.step(q, k[:, :, :2], v)
    with pytest.raises(ValueError, match=r"q is \[1, 1, 3, 4\] with H = 1, stored has H = 2"):
        cache.step(q[:, :1], k, v)
    with pytest.raises(ValueError, match="q is float32, stored is float64"):
        cache.step(q.float(), k.float(), v.float())
    with pytest.raises(ValueError, match="the snapshot has window 2, this cache 3"):
        ContextCache(**options(2, 3, 1)).restore(cache.snapshot())
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        ContextCache(**options(2, 0, 1))
    with pytest.raises(ValueError, match=r"special \(4\) must be at most the tokens of a frame \(3\)"):
        context_attention(*tensors, **options(2, 2, 4))
    with pytest.raises(ValueError, match="a clip must have at least its 5 anchor frames; got 4"):
        context_attention(*tensors, **options(5, 2, 1))
    with pytest.raises(ValueError, match="keyframes must be one for each of 4 frames; got 3"):
        context_attention(*tensors, keyframes=[True] * 3, **options(2, 2, 1))


def stored(state: dict[str, Tensor | int]) -> Tensor:
    tensor = state["stored"]
    assert isinstance(tensor, Tensor)
    return tensor


def restored(state: dict[str, Tensor | int], **named: Any) -> ContextCache:
    cache = ContextCache(**named)
    cache.restore(state)
    return cache
