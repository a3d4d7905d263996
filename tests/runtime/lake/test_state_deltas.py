"""State deltas merged and redistributed: every key keeps its tensors and its waiting rows, in exactly one shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.declare.test_state import FORGET_MS, KEYS, WAITING, Key, _state, _view, _wait, _write
from tocsin.pipelines.runtime.declare.state import State, StateDelta
from tocsin.pipelines.runtime.lake.state_deltas import merged, redistributed

SHARDS = st.integers(1, 4)
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS),
        st.tuples(st.just("wait"), KEYS),
        st.tuples(st.just("pass"), st.integers(1, 900)),
        st.tuples(st.just("cut"), st.booleans()),
    ),
    max_size=25,
)


def _restored(chain: Sequence[StateDelta]) -> State:
    state = _state()
    state.restore(chain)
    return state


def _all(states: Sequence[State]) -> dict[Key, Any]:
    """Return the whole state by key. Checks that each key is in one state only."""
    seen: dict[Key, Any] = {}
    waiting: list[Key] = []
    for n, state in enumerate(states):
        view = _view(state)
        waiting += view.pop(WAITING, [])
        assert not view.keys() & seen.keys()
        assert {partition % len(states) for partition, _ in view} <= {n}
        seen |= view
    assert len(waiting) == len({*waiting})
    return seen | ({WAITING: sorted(waiting)} if waiting else {})


@settings(max_examples=150, deadline=None)
@given(OPS, SHARDS, SHARDS)
def test_dealt_out_to_other_shards_and_back_every_key_is_as_it_was(
    ops: list[tuple[str, Any]], before: int, after: int
) -> None:
    now, states = 1000, [_state() for _ in range(before)]
    chains = [[state.delta(full=True)] for state in states]
    for value, (op, given_) in enumerate(ops, 1):
        if op == "pass":
            now += given_
        for n, state in enumerate(states):
            if op == "pass":
                state.forget(now, FORGET_MS)
            elif op == "cut":
                chains[n] = [*([] if given_ else chains[n]), state.delta(full=given_)]
            elif keys := [(p, k) for p, k in given_ if p % before == n]:
                (_write if op == "write" else lambda s, k, _, t: _wait(s, k, t))(state, keys, value, now)
    for chain, state in zip(chains, states, strict=True):
        chain.append(state.delta(full=False))
    expected = _all(states)

    deltas = [merged(chain) for chain in chains]
    assert _all([_restored([delta]) for delta in deltas]) == expected
    moved = redistributed(deltas, after)
    assert _all([_restored([delta]) for delta in moved]) == expected
    back = redistributed([_restored([delta]).delta(full=True) for delta in moved], before)
    assert _all([_restored([delta]) for delta in back]) == expected
    sweeps = {delta.facts["next_sweep"] for delta in (*moved, *back)}
    assert sweeps == {min(state._next_sweep for state in states)}
