"""State against a dictionary: slots, growth, forgotten keys, and deltas that rebuild the live state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.state import State, StateDelta
from tocsin.pipelines.runtime.declare.stores import Cell, CellStore, Pending, PendingStore, Ring, RingStore

DECLARED = {
    "0-A/sum": Cell(dtype=torch.int64, fill=-1),
    "0-A/flag": Cell(dtype=torch.bool),
    "1-B/last": Ring(3, 2),
    "1-B/waiting": Pending(),
}
Key = tuple[int, int]
WAITING = (-1, -1)
"""The entry of a view that lists the keys with waiting rows."""
FORGET_MS = 640


def _state() -> State:
    return State(DECLARED, pa.int64())


def _slots(state: State, keys: Sequence[Key], now: int) -> torch.Tensor:
    partitions = np.array([p for p, _ in keys], np.int32)
    slots = state.slots(partitions, pa.array([k for _, k in keys], pa.int64()))
    state.saw(slots, torch.full((len(keys),), now))
    return slots


def _write(state: State, keys: Sequence[Key], value: int, now: int) -> None:
    """Run one step that adds `value` to each key's sum and to its ring."""
    slots = _slots(state, keys, now)
    a, b = state.of("0-A"), state.of("1-B")
    total, flag, last = a["sum"], a["flag"], b["last"]
    assert isinstance(total, CellStore) and isinstance(flag, CellStore) and isinstance(last, RingStore)
    total[slots] = total[slots] + value
    flag[slots] = value % 2 == 1
    rows, count = last.tail(slots)
    new = torch.full((len(slots), 1, 2), float(value))
    last.replace(slots, torch.cat([rows[:, 1:], new], 1), count + 1)


def _wait(state: State, keys: Sequence[Key], now: int) -> None:
    """Give each of these keys a waiting row, and no other key."""
    waiting = state.of("1-B")["waiting"]
    assert isinstance(waiting, PendingStore)
    slots = _slots(state, keys, now)
    table = pa.record_batch({"key": pa.array([k for _, k in keys], pa.int64())})
    waiting.rows = Rows(table, slots, {"x": torch.tensor([float(k) for _, k in keys])})


def _view(state: State) -> dict[Key, Any]:
    """Return the whole state by key, read as a stage reads it."""
    a, b = state.of("0-A"), state.of("1-B")
    total, flag, last, waiting = a["sum"], a["flag"], b["last"], b["waiting"]
    assert isinstance(total, CellStore) and isinstance(flag, CellStore)
    assert isinstance(last, RingStore) and isinstance(waiting, PendingStore)
    seen: dict[Key, Any] = {}
    partitions, keys = (c.to_pylist() for c in state.keys_of(torch.arange(state.capacity)))
    free = torch.tensor([s for s, p in enumerate(partitions) if p is None], dtype=torch.int64)
    assert (total[free] == -1).all() and not flag[free].any() and not last.tail(free)[1].any()
    for s in torch.tensor([s for s, p in enumerate(partitions) if p is not None], dtype=torch.int64)[:, None]:
        tail, count = last.tail(s)
        ring = tail[0, 3 - int(count) :, 0].int().tolist()
        seen[partitions[int(s)], keys[int(s)]] = int(total[s]), bool(flag[s]), ring, int(state._seen[int(s)])
    rows = waiting.rows
    if rows is not None:
        held = list(zip(*(c.to_pylist() for c in state.keys_of(rows.slots)), strict=True))
        assert [k for _, k in held] == rows.table["key"].to_pylist() == [int(x) for x in rows.tensors["x"]]
        seen[WAITING] = held
    return seen


KEYS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=6, unique=True).map(sorted)
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS),
        st.tuples(st.just("wait"), KEYS),
        st.tuples(st.just("done"), st.none()),
        st.tuples(st.just("pass"), st.integers(1, 900)),
        st.tuples(st.just("cut"), st.tuples(st.booleans(), st.booleans())),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(OPS)
def test_state_is_what_a_dictionary_would_be_and_its_cuts_rebuild_it(ops: list[tuple[str, Any]]) -> None:
    state, now, sweep = _state(), 1000, 0
    naive: dict[Key, Any] = {}
    chain: list[StateDelta] = []
    for value, (op, given_) in enumerate(ops, 1):
        if op == "write":
            _write(state, given_, value, now)
            for key in given_:
                total, _, ring, _ = naive.get(key, (-1, False, [], 0))
                naive[key] = total + value, value % 2 == 1, [*ring, value][-3:], now
        elif op == "wait":
            _wait(state, given_, now)
            for key in given_:
                naive[key] = (*naive.get(key, (-1, False, []))[:3], now)
            naive[WAITING] = given_
        elif op == "done":
            state.of("1-B")["waiting"].rows = None  # type: ignore[union-attr]
            naive.pop(WAITING, None)
        elif op == "pass":
            now += given_
            if now >= sweep:
                old = {k for k, v in naive.items() if k != WAITING and v[3] < now - FORGET_MS and sweep}
                old -= set(naive.get(WAITING, []))
                naive = {k: v for k, v in naive.items() if k not in old}
                sweep, forgotten = now + FORGET_MS // 64, len(old)
            else:
                forgotten = 0
            assert state.forget(now, FORGET_MS) == forgotten
        else:
            full, take_over = given_[0] or not chain, given_[1]
            chain = [state.delta(full=True)] if full else [*chain, state.delta(full=False)]
            restored = _state()
            restored.restore(chain)
            assert _view(restored) == naive
            assert (len(restored), restored.capacity) == (len(state), state.capacity)
            if take_over:
                state = restored
        assert _view(state) == naive
        assert len(state) == len(naive) - (WAITING in naive)


def test_a_key_has_one_slot_and_every_row_of_it_is_there() -> None:
    state = _state()
    first = _slots(state, [(0, 7), (0, 8), (0, 7), (1, 7)], 1).tolist()
    assert first[0] == first[2] and len(set(first)) == 3
    assert _slots(state, [(0, 8), (1, 7)], 2).tolist() == [first[1], first[3]]
    assert state.key_clashes == 1  # key 7 is on two partitions
    partitions, keys = state.keys_of(torch.tensor(first))
    assert (partitions.to_pylist(), keys.to_pylist()) == ([0, 0, 0, 1], [7, 8, 7, 7])


def test_it_grows_without_moving_anyone() -> None:
    state = _state()
    _write(state, [(0, k) for k in range(10)], 1, 1)
    before = _view(state)
    _write(state, [(0, k) for k in range(10, 5000)], 2, 1)
    after = _view(state)
    assert len(state) == 5000 and {k: after[k] for k in before} == before


def test_a_new_keys_slot_does_not_depend_on_a_restart() -> None:
    state = _state()
    _write(state, [(0, k) for k in range(8)], 1, 1000)
    state.forget(1000, FORGET_MS)
    _write(state, [(0, k) for k in (0, 2, 5)], 1, 5000)
    assert state.forget(5000, FORGET_MS) == 5
    restarted = _state()
    restarted.restore([state.delta(full=True)])
    new = [(0, k) for k in range(100, 110)]
    assert _slots(state, new, 5000).tolist() == _slots(restarted, new, 5000).tolist()


def test_keys_that_change_places_between_two_cuts_are_all_there() -> None:
    state = _state()
    _write(state, [(0, k) for k in range(8)], 1, 1000)
    state.forget(1000, FORGET_MS)
    chain = [state.delta(full=True)]
    _write(state, [(0, k) for k in range(8) if k not in (3, 5)], 1, 5000)
    assert state.forget(5000, FORGET_MS) == 2
    _write(state, [(0, 5), (0, 9)], 1, 5000)  # key 5 takes the slot of 3, and key 9 that of 5
    restored = _state()
    restored.restore([*chain, state.delta(full=False)])
    assert _view(restored) == _view(state)
    assert _slots(restored, [(0, 5), (0, 9)], 6000).tolist() == _slots(state, [(0, 5), (0, 9)], 6000).tolist()


def test_a_key_is_forgotten_only_when_nothing_of_it_waits() -> None:
    state = _state()
    _wait(state, [(0, 1)], 1000)
    _write(state, [(0, 2)], 1, 1000)
    assert state.forget(1000, FORGET_MS) == 0
    assert state.forget(9000, FORGET_MS) == 1
    assert [k for k in _view(state) if k != WAITING] == [(0, 1)]


def test_an_incremental_cut_has_the_touched_keys_alone() -> None:
    state = _state()
    _write(state, [(0, k) for k in range(1000)], 1, 1)
    assert state.delta(full=True).keys.num_rows == 1000
    _write(state, [(0, 3), (0, 4)], 1, 2)
    delta = state.delta(full=False)
    assert delta.keys["key"].to_pylist() == [3, 4]
    assert {n: len(t) for n, t in delta.cells.items()} == dict.fromkeys(delta.cells, 2)
    assert state.delta(full=False).keys.num_rows == 0


def test_a_cut_stays_as_it_was_while_steps_go_on() -> None:
    state = _state()
    _write(state, [(0, 1)], 5, 1)
    delta = state.delta(full=True)
    _write(state, [(0, 1), (0, 2)], 7, 2)
    restored = _state()
    restored.restore([delta])
    assert _view(restored) == {(0, 1): (4, True, [5], 1)}


def test_what_is_read_can_not_write_behind_its_back() -> None:
    state = _state()
    _write(state, [(0, 1)], 5, 1)
    state.delta(full=True)
    total = state.of("0-A")["sum"]
    assert isinstance(total, CellStore)
    total[torch.tensor([0])].add_(100)
    assert int(total[torch.tensor([0])]) == 4


def test_no_change_is_no_change() -> None:
    state = _state()
    _slots(state, [], 1)
    _write(state, [], 1, 1)
    state.of("1-B")["waiting"].rows = None  # type: ignore[union-attr]
    assert not state.changed
    views: Mapping[Key, Any] = _view(state)
    assert views == {}
