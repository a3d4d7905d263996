"""Filling gaps, against a loop over rows that shares no code with it; what is refused; that an option may add the stage."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.declare.stage import Stage, state_names
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.stages.impute import FAR, FILLED, Impute
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NAMES = ("x", "y", "z")
NUMBERS = [pa.field(name, pa.float64()) for name in NAMES]
FIELDS = [pa.field("unit", pa.string(), nullable=False), pa.field("at", pa.int64(), nullable=False), *NUMBERS]
WINDOW = 4
Row = tuple[str, int, list[float | None]]


class Mixed:
    """A fill that depends on all that it is given."""

    def __call__(self, windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        known = windows.nan_to_num(0.0) * torch.arange(1.0, windows.shape[1] + 1).unsqueeze(1)
        return known.sum((1, 2)).unsqueeze(1) + 100 * carried.nan_to_num(0.0) + age.clamp(max=50) / 100


class Usual:
    """Levels: 0 is usual."""

    def standardise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return ((rows - 8) / 2).float(), torch.zeros(len(rows))

    def restore(self, values: Tensor, regime: Tensor) -> Tensor:
        return values.double() * 2 + 8


def _pipeline(*stages: Stage, filled: bool = True) -> Pipeline:
    results = [*FIELDS, *([pa.field(FILLED, pa.list_(pa.string()))] if filled else [])]
    return Pipeline(
        name="p", topic="t", schema=pa.schema(FIELDS), key="unit", stages=stages, results=pa.schema(results)
    )


def _table(rows: Sequence[Row]) -> pa.Table:
    columns = [[r[0] for r in rows], [r[1] for r in rows], *([r[2][i] for r in rows] for i in range(len(NAMES)))]
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, FIELDS, strict=True)], schema=pa.schema(FIELDS)
    )


def _naive(rows: Sequence[Row], *, counter: bool, fill: Mixed | None) -> list[tuple[list[float | None], list[str]]]:
    """Each row that passes, filled, and what was filled."""
    lives: dict[str, list[list[float | None]]] = defaultdict(list)
    newest: dict[str, int] = {}
    out = []
    for unit, at, values in rows:
        if all(v is None for v in values):
            continue
        if counter and at < newest.get(unit, at):
            lives[unit].clear()
        newest[unit] = at
        lives[unit].append(values)
        life, filled, names = lives[unit], list(values), []
        window = [[math.nan if v is None else v for v in row] for row in life[-WINDOW:]]
        window = [[math.nan] * len(NAMES)] * (WINDOW - len(window)) + window
        past = [[(i, row[c]) for i, row in enumerate(life) if row[c] is not None] for c in range(len(NAMES))]
        carried = [p[-1][1] if p else math.nan for p in past]
        age = [len(life) - 1 - p[-1][0] if p else FAR for p in past]
        found = carried if fill is None else fill(*(torch.tensor([x]) for x in (window, carried, age)))[0].tolist()
        for c, name in enumerate(NAMES):
            if values[c] is None and not math.isnan(found[c]):
                filled[c] = found[c]
                names.append(name)
        if None not in filled:
            out.append((filled, names))
    return out


VALUES = st.sampled_from([None, None, None, 1.0, 2.0, 3.0])
ROWS = st.lists(
    st.tuples(st.sampled_from("aaab"), st.integers(0, 9), st.lists(VALUES, min_size=3, max_size=3)),
    min_size=20,
    max_size=40,
)
CUTS = st.sets(st.integers(1, 39), min_size=3, max_size=15)


@settings(max_examples=150, deadline=None)
@given(ROWS, CUTS, st.booleans(), st.sampled_from([None, Mixed()]))
def test_each_gap_is_filled_from_its_keys_past_whatever_the_steps(
    rows: list[Row], cuts: set[int], counter: bool, fill: Mixed | None
) -> None:
    made = _pipeline(Impute(NAMES, fill, window=WINDOW if fill else 1, counter="at" if counter else None, batch=3))
    bounds = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    table, expected = _table(rows), _naive(rows, counter=counter, fill=fill)
    for splits in (None, [b - a for a, b in pairwise(bounds)]):
        frame, _ = replay(made, table, splits=splits)
        found = [([row[n] for n in NAMES], row[FILLED]) for row in frame.to_dicts()]
        assert [names for _, names in found] == [names for _, names in expected]
        assert [v for values, _ in found for v in values] == pytest.approx(
            [v for values, _ in expected for v in values]
        )


def test_rows_without_a_gap_pass_bit_by_bit_and_later_rows_change_nothing() -> None:
    rows: list[Row] = [("a", i, [i / 3, math.pi * i, 1e-300]) for i in range(6)]
    rows[3] = ("a", 3, [None, 1.0, 2.0])
    made = _pipeline(Impute(NAMES, Mixed(), window=WINDOW))
    frame, _ = replay(made, _table(rows))
    whole = [i for i in range(6) if i != 3]
    assert frame.select(NAMES)[whole].rows() == [tuple(rows[i][2]) for i in whole]
    other, _ = replay(made, _table([*rows[:4], ("a", 4, [9e9, None, -5.0])]))
    assert other[3].drop("processed_at").equals(frame[3].drop("processed_at"))


def test_with_levels_a_column_that_was_never_known_gets_what_is_usual() -> None:
    rows: list[Row] = [("a", 0, [None, 2.0, 4.0]), ("a", 1, [6.0, None, None])]
    frame, _ = replay(_pipeline(Impute(NAMES, levels=Usual())), _table(rows))
    assert frame.select(NAMES).rows() == [(8.0, 2.0, 4.0), (6.0, 2.0, 4.0)]
    assert frame[FILLED].to_list() == [["x"], ["y", "z"]]
    optional, _ = replay(_pipeline(Impute(NAMES, levels=Usual(), required=False, least=0)), _table(rows))
    assert optional.select(NAMES).rows() == [(None, 2.0, 4.0), (6.0, 2.0, 4.0)]
    assert optional[FILLED].to_list() == [[], ["y", "z"]]


def test_a_column_keeps_its_type() -> None:
    fields = [FIELDS[0], pa.field("x", pa.int32()), pa.field("y", pa.float32())]
    filled = pa.field(FILLED, pa.list_(pa.string()))
    made = Pipeline(
        name="p",
        topic="t",
        schema=pa.schema(fields),
        key="unit",
        stages=[Impute(["x", "y"], Mixed(), window=2)],
        results=pa.schema([*fields[1:], filled]),
    )
    rows = [{"unit": "a", "x": 3, "y": 0.5}, {"unit": "a", "x": None, "y": 1.5}, {"unit": "a", "x": 5, "y": None}]
    frame, _ = replay(made, pa.Table.from_pylist(rows, schema=pa.schema(fields)))
    assert frame.schema["x"] == pl.Int32() and frame.schema["y"] == pl.Float32()
    assert frame["x"].to_list() == [3, 307, 5]  # 1 * (3 + 0.5) + 2 * 1.5 + 100 * 3 + 1 / 100, rounded


def test_a_value_whose_age_is_over_the_limit_counts_as_missing() -> None:
    fields = [*FIELDS, *(pa.field(f"{name}_age", pa.float64()) for name in NAMES)]
    made = Pipeline(
        name="p",
        topic="t",
        schema=pa.schema(fields),
        key="unit",
        stages=[Impute(NAMES, fresh="10min", required=False, least=0)],
        results=pa.schema([*FIELDS, pa.field(FILLED, pa.list_(pa.string()))]),
    )
    ages = [[0.0, 600.0, None], [601.0, 60.0, 60.0]]
    rows: list[Row] = [("a", 0, [1.0, 2.0, None]), ("a", 1, [7.0, 8.0, 9.0])]
    table = _table(rows)
    for i, name in enumerate(NAMES):
        table = table.append_column(f"{name}_age", pa.array([row[i] for row in ages], pa.float64()))
    frame, _ = replay(made, table)
    assert frame.select(NAMES).rows() == [(1.0, 2.0, None), (1.0, 8.0, 9.0)]
    assert frame[FILLED].to_list() == [[], ["x"]]


def test_a_row_with_too_little_or_a_gap_that_nothing_fills_is_a_dead_letter_that_says_why() -> None:
    rows: list[Row] = [("a", 0, [None, None, None]), ("a", 1, [1.0, None, 3.0]), ("a", 2, [1.0, 2.0, None])]
    machine = Machine(_pipeline(Impute(NAMES)))
    outcome = machine.step(_batch(machine.pipeline, rows), 10**12)
    assert [(r.offset, r.stage, r.error, r.message) for r in outcome.refused] == [
        (0, "impute", "TooBare", "expected a value of 3 columns, got 0"),
        (1, "impute", "NoValue", "expected y, or an earlier one to fill it with, got null"),
    ]
    assert outcome.results.column("z").to_pylist() == [3.0], "a refused row is still a past for later ones"
    machine = Machine(_pipeline(Impute(NAMES, least=3)))
    (refused, *_) = machine.step(_batch(machine.pipeline, rows[2:]), 10**12).refused
    assert refused.message == "expected 3 values of 3 columns, got 2"


def test_an_option_may_add_the_stage_to_a_running_pipeline_and_leave_it_out_again() -> None:
    def made(*impute: Impute) -> Pipeline:
        stages = Reorder(by="at", late=2), *impute, SlidingWindow(3, NAMES, padded=True)
        fields = [f if impute else f.with_nullable(False) for f in FIELDS]
        return replace(_pipeline(*stages, filled=False), schema=pa.schema(fields))

    impute = Impute(NAMES, Mixed(), window=WINDOW)
    assert state_names(made(impute).stages) == ["0-Sorted", "Impute-4x3", "1-Last"]
    assert state_names(made().stages) == ["0-Sorted", "1-Last"]
    rows: list[Row] = [("a", i, [i + 1.0, 2.0, 3.0]) for i in range(8)]
    last = Impute(NAMES)
    for before, after in ((made(), made(impute)), (made(impute), made()), (made(last), made(impute))):
        machine = Machine(before)
        machine.step(_batch(before, rows[:5]), 10**12)
        machine.adopt(after)  # a row waits in `Reorder` meanwhile
        found = machine.step(_batch(after, rows[5:]), 10**12).results
        restored = Machine(after)
        restored.restore([machine.delta(full=True)])
        assert found.column("x").to_pylist() == [4.0, 5.0, 6.0]
        assert Machine(before).signature == restored.signature


def _batch(p: Pipeline, rows: Sequence[Row]) -> pa.RecordBatch:
    table, n = _table(rows), len(rows)
    identity: Mapping[str, Any] = {
        "_partition": [0] * n,
        "_offset": [row[1] for row in rows],
        "_row": [0] * n,
        "_timestamp": range(10**12, 10**12 + n),
    }
    schema = pa.schema([*IDENTITY, *p.schema])
    columns = [
        pa.array(list(identity[f.name]), f.type) if f.name in identity else table[f.name].combine_chunks()
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
