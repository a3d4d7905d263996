"""Rows: selected, joined, grouped and split into rounds."""

from __future__ import annotations

import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.rows import Rows, concat


def _rows(slots: list[int]) -> Rows:
    """Make rows. Row i has `n` = i in the table and in the tensor."""
    n = torch.arange(len(slots))
    table = pa.record_batch({"n": pa.array(n.numpy())})
    return Rows(table, torch.tensor(slots, dtype=torch.int64), {"n": n[:, None].float()})


def _numbers(rows: Rows) -> list[int]:
    """Return `n` of each row. Checks that table, tensors and slots agree."""
    numbers = rows.table.column("n").to_pylist()
    assert rows.tensors["n"][:, 0].tolist() == numbers and len(rows.slots) == len(rows) == len(numbers)
    return numbers


SLOTS = st.lists(st.integers(0, 5), max_size=40)


@given(SLOTS)
def test_in_rounds_each_key_is_there_at_most_once_a_round_and_in_order(slots: list[int]) -> None:
    rounds = [r.tolist() for r in _rows(slots).rounds()]
    assert sorted(i for r in rounds for i in r) == list(range(len(slots)))
    assert len(rounds) == max(map(slots.count, slots), default=0)
    for r in rounds:
        assert len({slots[i] for i in r}) == len(r)
    for slot in set(slots):
        mine = [i for r in rounds for i in r if slots[i] == slot]
        assert mine == sorted(mine)


@given(SLOTS)
def test_groups_lay_each_keys_rows_together_in_order(slots: list[int]) -> None:
    g = _rows(slots).groups()
    assert g.slots.tolist() == sorted(set(slots))
    for slot, start, length in zip(g.slots.tolist(), g.starts.tolist(), g.lengths.tolist(), strict=True):
        assert g.order[start : start + length].tolist() == [i for i, s in enumerate(slots) if s == slot]


@given(st.lists(st.booleans(), max_size=20))
def test_keep_and_take_move_table_tensors_and_slots_together(mask: list[bool]) -> None:
    rows = _rows(list(range(len(mask))))
    kept = rows.keep(torch.tensor(mask, dtype=torch.bool))
    assert _numbers(kept) == kept.slots.tolist() == [i for i, m in enumerate(mask) if m]
    back = torch.arange(len(mask) - 1, -1, -1)
    assert _numbers(rows.take(back)) == list(range(len(mask)))[::-1]


def test_all_of_it_is_not_copied() -> None:
    rows = _rows([1, 2, 3])
    assert rows.keep(torch.ones(3, dtype=torch.bool)) is rows and rows.take(torch.arange(3)) is rows


def test_rows_are_joined_one_after_the_other() -> None:
    joined = concat([_rows([4, 5]), _rows([6]), _rows([])])
    assert _numbers(joined) == [0, 1, 0] and joined.slots.tolist() == [4, 5, 6]
    assert len(concat([_rows([]), _rows([])])) == 0


def test_a_column_is_added_or_replaced() -> None:
    rows = _rows([1, 2]).with_columns({"n": pa.array([7, 8]), "m": pa.array(["a", "b"])})
    assert rows.table.to_pydict() == {"n": [7, 8], "m": ["a", "b"]}


@given(st.lists(st.one_of(st.none(), st.binary(max_size=4)), max_size=8), st.data())
def test_rows_by_reference_are_taken_and_joined_as_rows_by_value_are(
    files: list[bytes | None], data: st.DataObject
) -> None:
    rows = _rows([0] * len(files)).with_columns(
        {"file": pa.array(files, pa.binary()), "m": pa.array(range(len(files)))}
    )
    held = rows.by_reference()
    assert held.table.column("file").null_count == len(files)
    index = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(files))))) if files else [], dtype=torch.int64)
    for got, expected in (
        (held, rows),
        (held.take(index), rows.take(index)),
        (concat([held, held.take(index)]), concat([rows, rows.take(index)])),
        (held.by_reference(), rows),
    ):
        assert got.by_value().table == expected.table
    assert rows.by_value() is rows and _rows([1]).by_reference().held == {}
