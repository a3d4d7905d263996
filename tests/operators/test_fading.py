"""Fading attention: its bands against their naive form, in any split and step by step, and what each band sees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.compare import DTYPES, random, strided
from tocsin.operators.fading import Faded, fading_attention, keeps, naive_fading_attention

SPANS = (2.0, 10.0, 50.0, math.inf)


@given(
    batch=st.integers(0, 3),
    steps=st.integers(0, 150),
    channels=st.integers(1, 4),
    spans=st.lists(st.floats(0.5, 300), min_size=1, max_size=4, unique=True).map(sorted),
    endless=st.booleans(),
)
@settings(max_examples=40)
def test_it_is_the_naive_form(batch: int, steps: int, channels: int, spans: list[float], endless: bool) -> None:
    (x,) = random((batch, steps, channels))
    given = [*spans, math.inf] if endless else spans
    bands, _ = fading_attention(x, given)
    torch.testing.assert_close(bands, naive_fading_attention(x, given), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout_is_accepted(dtype: torch.dtype) -> None:
    (x,) = random((2, 70, 3))
    bands, state = fading_attention(x.to(dtype), SPANS)
    assert (bands.dtype, bands.shape) == (dtype, (2, 70, 4, 3))
    assert state.sums.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(fading_attention(strided(x.to(dtype)), SPANS)[0], bands)


def test_a_stream_in_parts_or_step_by_step_gives_the_same_bands() -> None:
    (x,) = random((3, 200, 2))
    whole, last = fading_attention(x, SPANS)
    parts, state = [], None
    for part in x.split([1, 63, 64, 0, 72], dim=1):
        bands, state = fading_attention(part, SPANS, state)
        parts.append(bands)
    assert state is not None
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state.sums, last.sums)

    keep, stepped = keeps(SPANS), Faded.empty((3,), len(SPANS), 2, like=x)
    for t, step in enumerate(x.unbind(1)):
        stepped = stepped.after(step, keep)
        torch.testing.assert_close(stepped.bands(), whole[:, t])


def test_nothing_later_changes_a_band() -> None:
    (x,) = random((1, 90, 2))
    changed = x.clone()
    changed[:, 50:] += 100
    one, other = (fading_attention(each, SPANS)[0] for each in (x, changed))
    torch.testing.assert_close(one[:, :50], other[:, :50])
    assert not torch.allclose(one[:, 50:], other[:, 50:])


def test_each_band_is_a_mean_of_the_steps_of_its_age() -> None:
    steady = torch.full((1, 300, 1), 7.0)
    torch.testing.assert_close(fading_attention(steady, SPANS)[0], torch.full((1, 300, 4, 1), 7.0))
    jump = torch.zeros(1, 300, 1)
    jump[:, -5:] = 1  # the last five steps
    bands = fading_attention(jump, SPANS)[0][0, -1, :, 0]
    assert bands[0] > 0.9
    assert bands.diff().max() < 0  # the older the band, the less it knows of them
    assert bands[-1] < 0.02


def test_wrong_spans_and_states_are_refused() -> None:
    x = torch.zeros(2, 5, 3)
    for spans in ((), (0.0, 5.0), (5.0, 5.0), (9.0, 3.0)):
        with pytest.raises(ValueError, match="expected positive numbers that increase"):
            fading_attention(x, spans)
    _, state = fading_attention(x, SPANS)
    with pytest.raises(ValueError, match="sums is"):
        fading_attention(x, SPANS[:3], state)
