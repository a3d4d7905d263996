"""Restarts of a counter, and readings far from the others. Neither takes effect before the next reading confirms it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome, empty
from tocsin.pipelines.runtime.stages.confirmation import CONFIRM_MS
from tocsin.pipelines.runtime.stages.infer import Infer
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NOW = 1_767_225_600_000
READING = pa.schema([pa.field("unit", pa.string(), nullable=False), pa.field("cycle", pa.int64(), nullable=False)])
GLITCH = 4_000_000_000


def _pipeline(*, window: int = 1, kind: pa.DataType | None = None, **order: Any) -> Pipeline:
    schema = READING if kind is None else READING.set(1, pa.field("cycle", kind, nullable=False))
    counter = "cycle" if "restart" in order else None
    last, total = SlidingWindow(window, ["cycle"], counter=counter), Infer(lambda w: {"window": w[:, :, 0]})
    return Pipeline(
        name="p",
        topic="t",
        schema=schema,
        key="unit",
        stages=[Reorder(by="cycle", **order), last, total],
        results=pa.schema([schema.field("cycle"), ("window", pa.list_(pa.float32()))]),
        max_skew="1d",
    )


def _steps(p: Pipeline, cycles: Sequence[float | tuple[str, float]], cuts: Sequence[int] = ()) -> list[StepOutcome]:
    machine, outcomes = Machine(p), []
    rows = [c if isinstance(c, tuple) else ("a", c) for c in cycles]
    for start, end in pairwise([0, *sorted(c for c in set(cuts) if c < len(rows)), len(rows)]):
        made = [
            {"_partition": 0, "_offset": n, "_row": 0, "_timestamp": NOW + n, "unit": unit, "cycle": cycle}
            for n, (unit, cycle) in enumerate(rows[start:end], start)
        ]
        outcomes.append(
            machine.step(pa.RecordBatch.from_pylist(made, schema=pa.schema([*IDENTITY, *p.schema])), NOW + end)
        )
    return outcomes


def _cycles(outcomes: Sequence[StepOutcome]) -> list[float]:
    return [c for o in outcomes for c in o.results["cycle"].to_pylist()]


def _refused(outcomes: Sequence[StepOutcome]) -> list[tuple[int, str]]:
    return [(r.offset, r.error) for o in outcomes for r in o.refused]


EACH = range(1, 99)


@pytest.mark.parametrize("cuts", [(), EACH, (3,)])
def test_one_glitch_is_a_dead_letter_and_the_rest_of_the_life_goes_on(cuts: Sequence[int]) -> None:
    outcomes = _steps(_pipeline(jump=1000), [198, 199, GLITCH, 200, 201], cuts)
    assert _cycles(outcomes) == [198, 199, 200, 201]
    assert _refused(outcomes) == [(2, "Outlier")]
    (refusal,) = [r for o in outcomes for r in o.refused]
    assert refusal.message.startswith(
        "expected cycle at most 1000 after 199, got 4000000000, and the next reading did not"
    )


@pytest.mark.parametrize("cuts", [(), EACH])
def test_a_jump_that_the_next_reading_confirms_loses_nothing(cuts: Sequence[int]) -> None:
    outcomes = _steps(_pipeline(jump=1000), [1, 2, 9000, 9001, 9001, 9002], cuts)
    assert _cycles(outcomes) == [1, 2, 9000, 9001, 9002] and not _refused(outcomes)


@pytest.mark.parametrize("cuts", [(), EACH, (4,)])
@pytest.mark.parametrize("late", [0, 2])
def test_a_counter_that_starts_again_goes_on_with_windows_of_its_new_life(cuts: Sequence[int], late: int) -> None:
    outcomes = _steps(_pipeline(window=2, restart=10, late=late), [498, 499, 500, 1, 1, 2, 3, 4, 5], cuts)
    assert not _refused(outcomes)
    windows = [w for o in outcomes for w in o.results["window"].to_pylist()]
    assert windows[:4] == [[498, 499], [499, 500], [1, 2], [2, 3]]


def test_a_late_reading_does_not_start_a_counter_again_nor_does_one_that_is_high() -> None:
    assert _refused(_steps(_pipeline(restart=10), [498, 499, 5, 500])) == [(2, "TooLate")]
    assert _refused(_steps(_pipeline(restart=10), [498, 499, 400, 401])) == [(2, "TooLate"), (3, "TooLate")]
    assert _refused(_steps(_pipeline(), [498, 499, 1, 2, 3])) == [(n, "TooLate") for n in (2, 3, 4)]


def test_a_fractional_order_has_its_bounds_in_its_own_unit() -> None:
    outcomes = _steps(_pipeline(kind=pa.float64(), jump=0.5, restart=0.25), [8.0, 8.25, 80.5, 8.5, 0.25, 0.5])
    assert _cycles(outcomes) == [8.0, 8.25, 8.5, 0.25, 0.5]
    assert _refused(outcomes) == [(2, "Outlier")]


def test_a_doubt_that_no_reading_settles_is_a_dead_letter_after_a_week() -> None:
    p = _pipeline(jump=1000)
    machine = Machine(p)
    for n, cycle in enumerate((1, GLITCH)):
        row = {"_partition": 0, "_offset": n, "_row": 0, "_timestamp": NOW, "unit": "a", "cycle": cycle}
        machine.step(pa.RecordBatch.from_pylist([row], schema=pa.schema([*IDENTITY, *READING])), NOW)
    assert not machine.step(empty(READING), NOW + CONFIRM_MS - 1).refused
    assert [r.error for r in machine.step(empty(READING), NOW + CONFIRM_MS).refused] == ["Outlier"]


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 2, 3, 5, 40, 41, 44, 900, 901])), max_size=25),
    st.sets(st.integers(1, 24), max_size=8),
    st.sampled_from([0, 2]),
)
def test_any_split_settles_the_same_doubts(rows: list[tuple[str, float]], cuts: set[int], late: int) -> None:
    p = _pipeline(window=2, jump=50, restart=3, late=late)

    def said(at: Sequence[int]) -> tuple[list[str], list[tuple[int, str]]]:
        outcomes = _steps(p, rows, at)
        results = [str(r | {"processed_at": None}) for o in outcomes for r in o.results.to_pylist()]
        return sorted(results), sorted(_refused(outcomes))

    assert said(EACH) == said(()) == said(sorted(cuts))
