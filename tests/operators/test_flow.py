"""Feature-flow attention against its form place by place: values, gradients, what is out of sight, and that it finds a shift."""

from __future__ import annotations

import pytest
import torch

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.flow import flow_attention, global_flow_attention, naive_flow_attention, warp


def inputs(batch: int, channels: int, height: int, width: int) -> list[torch.Tensor]:
    """A query, a key, and a flow that reaches beyond the frame here and there. Its values are exact in every dtype."""
    query, key, flow = random(
        (batch, channels, height, width), (batch, channels, height, width), (batch, 2, height, width)
    )
    return [query, key, (4 * flow).round() / 4 + 0.125]


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 8, 6, 3)])
def test_fast_equals_naive(sizes: tuple[int, ...], radius: int, dtype: torch.dtype) -> None:
    assert_same(flow_attention, naive_flow_attention, inputs(*sizes), dtype=dtype, radius=radius, scale=0.7)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, 3, 4)]
    assert torch.autograd.gradcheck(lambda *t: tuple(flow_attention(*t, radius=1, scale=1.3)), tensors)


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(2, 3, 4, 5)
    one, other = (flow_attention(*t, radius=2, scale=1.0) for t in (tensors, list(map(strided, tensors))))
    torch.testing.assert_close(one, other)


def test_a_shift_of_both_flow_and_step_is_found() -> None:
    (scene,) = random((1, 16, 12, 14))
    query, key = (
        scene[..., 2:10, 2:10],
        scene[..., 1:9, 4:12],
    )  # what is at (x, y) of the query is at (x - 2, y + 1) of the key
    flow = torch.zeros(1, 2, 8, 8, dtype=scene.dtype)
    flow[:, 0] = -1  # the flow knows half of it
    found = flow_attention(query, key, flow, radius=2, scale=50.0)
    inner = found.flow[..., 1:6, 3:7]
    torch.testing.assert_close(inner[:, 0], torch.full_like(inner[:, 0], -2), atol=1e-3, rtol=0)
    torch.testing.assert_close(inner[:, 1], torch.full_like(inner[:, 1], 1), atol=1e-3, rtol=0)


def test_what_the_flow_brings_from_beyond_the_frame_has_no_weight() -> None:
    query, key, flow = inputs(1, 3, 4, 5)
    away = torch.full_like(flow, 9.0)
    found = flow_attention(query, key, away, radius=1, scale=1.0)
    assert torch.equal(found.flow, away) and not found.weights.any()
    weights = flow_attention(query, key, torch.zeros_like(flow), radius=1, scale=1.0).weights
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    assert (
        not weights[:, :3, 0].any() and not weights[:, ::3, :, 0].any()
    )  # above the first row, left of the first column


def test_all_places_attend_to_each_other_both_ways() -> None:
    query, key = random((2, 3, 2, 3), (2, 3, 4, 2))
    forth, back = global_flow_attention(query, key, scale=2.0)
    for b in range(2):
        products = torch.stack([2 * (query[b].flatten(1)[:, i] @ key[b].flatten(1)) for i in range(6)])
        torch.testing.assert_close(forth[b], products.log_softmax(1))
        torch.testing.assert_close(back[b], products.log_softmax(0))


def test_a_warp_samples_between_places_and_is_zero_beyond() -> None:
    key = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 0.5
    assert warp(key, flow)[0, 0, 1].tolist() == [4.5, 5.5, 6.5, 3.5]


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, key, flow = inputs(1, 3, 4, 5)
    with pytest.raises(ValueError, match="key"):
        flow_attention(query, key[:, :2], flow, radius=1, scale=1.0)
    with pytest.raises(ValueError, match="key"):
        global_flow_attention(query, key[:, :2], scale=1.0)
