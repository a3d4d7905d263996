"""The general stages against loops over rows that share no code with them, however the rows are split into steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.declare.stage import Stage
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome, empty
from tocsin.pipelines.runtime.formats.jpeg import frame_fields
from tocsin.pipelines.runtime.stages.frames import Gaps, Keep, Pixels
from tocsin.pipelines.runtime.stages.inactivity import Inactivity
from tocsin.pipelines.runtime.stages.infer import Encode, Infer
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NOW = 1_767_225_600_000
FIELDS = [pa.field("unit", pa.string(), nullable=False), pa.field("at", pa.int64()), pa.field("x", pa.float64())]


def _pipeline(*stages: Stage, results: Sequence[pa.Field] = FIELDS, **more: Any) -> Pipeline:
    return Pipeline(
        name="p",
        topic="t",
        schema=more.pop("schema", pa.schema(FIELDS)),
        key="unit",
        stages=stages,
        results=pa.schema(results),
        **more,
    )


def _batch(p: Pipeline, columns: dict[str, Sequence[Any]], first: int = 0) -> pa.RecordBatch:
    """Make readings of partition 0, one per message, 1 ms apart."""
    n = len(columns["unit"])
    made: dict[str, Sequence[Any]] = {
        "_partition": [0] * n,
        "_offset": range(first, first + n),
        "_row": [0] * n,
        "_timestamp": range(NOW + first, NOW + first + n),
    }
    schema = pa.schema([*IDENTITY, *p.schema])
    return pa.RecordBatch.from_arrays([pa.array(list((made | columns)[f.name]), f.type) for f in schema], schema=schema)


def _steps(p: Pipeline, rows: Sequence[tuple[Any, ...]], splits: Iterable[int]) -> list[StepOutcome]:
    """Run rows in steps. A row is `(unit, at)` or `(unit, at, x)`."""
    machine = Machine(p)
    bounds = [0, *sorted(c for c in set(splits) if c < len(rows)), len(rows)]
    return [
        machine.step(
            _batch(
                p,
                {
                    "unit": [r[0] for r in rows[a:b]],
                    "at": [r[1] for r in rows[a:b]],
                    "x": [r[2] if len(r) > 2 else 0.0 for r in rows[a:b]],
                },
                a,
            ),
            NOW,
        )
        for a, b in pairwise(bounds)
    ]


def _column(outcomes: Sequence[StepOutcome], name: str) -> list[Any]:
    return [v for o in outcomes for v in o.results.column(name).to_pylist()]


CUTS = st.sets(st.integers(1, 79), max_size=30)
ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 25)), max_size=80)


def _sorted_oracle(rows: Sequence[tuple[str, int]], late: int) -> tuple[dict[str, list[int]], set[int], int]:
    """Return the offsets let through by key, the refused offsets, and the number of duplicates."""
    newest: dict[str, int] = {}
    passed: dict[str, int] = {}
    waiting: dict[str, dict[int, int]] = defaultdict(dict)
    through: dict[str, list[int]] = defaultdict(list)
    refused, duplicates = set(), 0
    for offset, (key, at) in enumerate(rows):
        least = newest.get(key, -(10**9)) - late
        if (at == passed.get(key) or at in waiting[key]) and at >= least:
            duplicates += 1
            continue
        if at < max(least, passed.get(key, -(10**9))):
            refused.add(offset)
            continue
        waiting[key][at] = offset
        newest[key] = max(newest.get(key, at), at)
        for ready in sorted(w for w in waiting[key] if w <= newest[key] - late):
            through[key].append(waiting[key].pop(ready))
            passed[key] = ready
    return through, refused, duplicates


@settings(max_examples=100, deadline=None)
@given(ROWS, CUTS, st.sampled_from([0, 1, 4]))
def test_rows_are_put_in_order_and_let_through_once_whatever_the_steps(
    rows: list[tuple[str, int]], splits: set[int], late: int
) -> None:
    through, refused, duplicates = _sorted_oracle(rows, late)
    for at in (splits, set[int]()):
        outcomes = _steps(_pipeline(Reorder(by="at", late=late)), rows, at)
        got = defaultdict(list)
        for key, offset in zip(_column(outcomes, "key"), _column(outcomes, "offset"), strict=True):
            got[key].append(offset)
        assert got == {k: v for k, v in through.items() if v}
        assert {r.offset for o in outcomes for r in o.refused} == refused
        assert sum(o.counts["duplicates"] for o in outcomes) == duplicates


def test_a_late_row_is_a_dead_letter_that_says_why() -> None:
    (outcome,) = _steps(_pipeline(Reorder(by="at")), [("a", 5), ("a", 3)], ())
    (refusal,) = outcome.refused
    assert (refusal.offset, refusal.stage, refusal.error) == (1, "sorted", "TooLate")
    assert refusal.message == "expected at after 5, got 3"


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize(("kind", "first", "beyond"), [(pa.int64(), -(2**62) + 1, -(2**62)), (pa.uint64(), 1, 2**63)])
def test_a_position_that_cannot_be_counted_with_is_a_dead_letter_and_no_duplicate(
    late: int, kind: pa.DataType, first: int, beyond: int
) -> None:
    fields = [pa.field("at", kind) if f.name == "at" else f for f in FIELDS]
    declared = _pipeline(Reorder(by="at", late=late), results=[fields[0], fields[2]], schema=pa.schema(fields))
    outcomes = _steps(declared, [("a", beyond), ("a", first), ("a", first + 5)], (1, 2))
    assert _column(outcomes, "offset") == ([1] if late else [1, 2])
    assert sum(o.counts["duplicates"] for o in outcomes) == 0
    (refusal,) = [r for o in outcomes for r in o.refused]
    assert (refusal.offset, refusal.stage, refusal.error) == (0, "sorted", "BadValue")
    assert str(beyond) in refusal.message


@pytest.mark.parametrize("late", [0, 1])
def test_positions_with_fractions_are_put_in_order_like_whole_ones(late: int) -> None:
    fields = [FIELDS[0], pa.field("at", pa.float64()), FIELDS[2]]
    p = _pipeline(Reorder(by="at", late=late), results=fields, schema=pa.schema(fields))
    rows = [("a", -0.5), ("a", 0.25), ("a", 0.5), ("a", 0.5), ("a", 9.0), ("a", 7.75), ("a", 5e12)]
    outcomes = _steps(p, rows, (3, 5))
    assert _column(outcomes, "at") == [-0.5, 0.25, 0.5, *([9.0] if not late else [])]
    assert sorted(r.message for o in outcomes for r in o.refused) == [
        f"expected at after {9.0 - late}, got 7.75",
        "expected at between -4.6e12 and 4.6e12, got 5000000000000.0",
    ]
    assert sum(o.counts["duplicates"] for o in outcomes) == 1


def test_a_row_without_a_position_is_a_dead_letter() -> None:
    outcomes = _steps(_pipeline(Reorder(by="at")), [("a", 1), ("a", None), ("a", 2)], (2,))
    assert _column(outcomes, "offset") == [0, 2]
    assert [(r.offset, r.error) for o in outcomes for r in o.refused] == [(1, "NoValue")]


def test_rows_of_a_silent_key_are_let_through_after_a_while_and_older_ones_are_late_then() -> None:
    p = _pipeline(Reorder(by="at", late=10, wait="5s"))
    machine = Machine(p)
    tick, more = empty(p.schema), {"unit": ["a"], "x": [0.0]}
    assert not machine.step(_batch(p, {"unit": ["a", "a"], "at": [7, 5], "x": [0, 0]}), NOW).results.num_rows
    before = machine.step(tick, NOW + 5000)  # the last reading's timestamp is NOW + 1
    assert not before.results.num_rows and not before.changed
    after = machine.step(tick, NOW + 5001)
    assert after.results.column("at").to_pylist() == [5, 7] and after.changed
    assert not machine.step(tick, NOW + 9000).results.num_rows
    late = machine.step(_batch(p, {"at": [6], **more}, 2), NOW + 9000)
    assert [r.offset for r in late.refused] == [2] and not late.results.num_rows
    again = machine.step(_batch(p, {"at": [7], **more}, 3), NOW + 9000)
    assert again.counts["duplicates"] == 1 and not again.refused


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_event_times_that_differ_by_their_smallest_unit_are_not_duplicates(unit: str) -> None:
    fields = [FIELDS[0], pa.field("at", pa.timestamp(unit, "UTC"))]
    p = _pipeline(Reorder(late="2ms"), schema=pa.schema(fields), results=[fields[0]], event_time="at")
    tick, ms = {"ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}[unit]
    times = [NOW * ms + 3 * ms, NOW * ms + 3 * ms + tick, NOW * ms + 3 * ms, NOW * ms + ms + tick, NOW * ms + 6 * ms]
    outcome = Machine(p).step(_batch(p, {"unit": ["a"] * 5, "at": times}), NOW)
    first = [3, 0] if unit != "ms" else [3, 0, 1]
    assert outcome.results.column("offset").to_pylist() == [*first, *([1] if unit != "ms" else [])]
    assert outcome.counts["duplicates"] == 1 and not outcome.refused


def _total(window: Tensor) -> dict[str, Tensor]:
    return {"total": window.sum((1, 2)), "seen": window[:, :, 0]}


WINDOWED = [FIELDS[0], pa.field("total", pa.float32()), pa.field("seen", pa.list_(pa.float32()))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.just(0), st.floats(-9, 9, width=32)), max_size=80),
    CUTS,
    st.integers(1, 5),
    st.integers(1, 7),
)
def test_each_row_has_the_window_of_its_keys_last_rows_whatever_the_steps(
    rows: list[tuple[str, int, float]], splits: set[int], length: int, batch: int
) -> None:
    past: dict[str, list[float]] = defaultdict(list)
    expected = {}
    for offset, (key, _, x) in enumerate(rows):
        past[key].append(x)
        if len(past[key]) >= length:
            expected[offset] = past[key][-length:]
    p = _pipeline(SlidingWindow(length, ["x"]), Infer(_total, batch=batch), results=WINDOWED)
    for at in (splits, set[int]()):
        outcomes = _steps(p, rows, at)
        offsets = _column(outcomes, "offset")
        assert offsets == list(expected)  # in order of arrival
        assert _column(outcomes, "seen") == [expected[o] for o in offsets]
        sums = [sum(expected[o]) for o in offsets]
        assert _column(outcomes, "total") == pytest.approx(sums, abs=1e-4)


def test_a_number_that_float32_cannot_hold_is_a_dead_letter_and_spoils_no_window() -> None:
    p = _pipeline(SlidingWindow(2, ["x"]), Infer(_total), results=WINDOWED)
    outcomes = _steps(p, [("a", 1, 0.5), ("a", 2, -1e39), ("a", 3, 3.4e38), ("b", 1, 1.0)], (3,))
    assert _column(outcomes, "offset") == [2]
    ((refusal,), ()) = (o.refused for o in outcomes)
    assert (refusal.offset, refusal.stage, refusal.error) == (1, "last", "BadValue")
    assert refusal.message == "expected x to fit float32, got -1e+39"


def test_a_verdict_that_is_not_a_number_neither_rings_nor_clears() -> None:
    def broken(window: Tensor) -> dict[str, Tensor]:
        return {"total": torch.where(window[:, 0, 0] < 0, torch.nan, window[:, 0, 0])}

    rule = AlertRule(name="low", severity="warning", when=pl.col("total") < 5, clear=pl.col("total") > 10)
    p = _pipeline(SlidingWindow(1, ["x"]), Infer(broken), results=WINDOWED[:2], rules=[rule])
    outcomes = _steps(p, [("a", 0, x) for x in (20, -1, 3, -1, 7, 11)], (2,))
    assert _column(outcomes, "total") == [20, None, 3, None, 7, 11]
    assert [(a.transition, a.data["offset"]) for o in outcomes for a in o.alerts] == [("raised", 2), ("cleared", 5)]


Beat = tuple[int, set[str]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.sets(st.sampled_from("abc"))), max_size=30))
def test_a_silent_key_is_told_of_once_a_silence(beats: list[Beat]) -> None:
    silent = pa.field("silent", pa.bool_())
    rule = AlertRule(name="silent", severity="warning", when=pl.col("silent"))
    p = _pipeline(Inactivity("5s"), results=[*FIELDS, silent], rules=[rule])
    machine, heard, told = Machine(p), dict[str, int](), set[str]()
    now, first = NOW, 0
    for wait, keys in beats:
        now += wait
        units = sorted(keys)
        columns = {"unit": units, "at": [1] * len(units), "x": [0.5] * len(units), "_timestamp": [now] * len(units)}
        outcome = machine.step(_batch(p, columns, first) if units else empty(p.schema), now)
        quiet = {k: at for k, at in heard.items() if at + 5000 <= now and k not in told}
        told |= set(quiet)
        back = told & keys
        told -= keys
        heard |= dict.fromkeys(keys, now)
        first += len(units)
        rows = [r for r in outcome.results.to_pylist() if r["silent"]]
        assert Counter(r["key"] for r in rows) == Counter(set(quiet))
        assert outcome.results.num_rows == len(units) + len(quiet)
        for r in rows:
            assert (r["offset"], r["row"], r["at"], r["x"]) == (None, None, None, None)
            assert r["event_time"].timestamp() * 1000 == pytest.approx(quiet[r["key"]])
        rang = {(a.key, a.transition) for a in outcome.alerts}
        assert rang == {(k, "raised") for k in quiet} | {(k, "cleared") for k in back}
        assert outcome.changed or not (units or quiet)


@settings(max_examples=60, deadline=None)
@given(ROWS, CUTS)
def test_what_is_missing_before_a_row_is_counted_a_key_at_a_time_whatever_the_steps(
    rows: list[tuple[str, int]], splits: set[int]
) -> None:
    last: dict[str, int] = {}
    wanted = []
    for key, at in rows:
        wanted.append(max(at - last.get(key, at - 1) - 1, 0))
        last[key] = at
    fields = [*FIELDS, pa.field("missed", pa.int64())]
    outcomes = _steps(_pipeline(Gaps(by="at"), results=fields), rows, splits)
    assert _column(outcomes, "missed") == wanted
    assert sum(o.counts["missed"] for o in outcomes) == sum(wanted)


def test_sources_that_leap_to_the_last_number_do_not_take_away_from_the_count() -> None:
    last = 2**63 - 1
    (outcome,) = _steps(_pipeline(Gaps(by="at")), [("a", 0), ("a", last), ("b", 0), ("b", last)], [])
    assert outcome.counts["missed"] == pytest.approx(2 * last)


def _filmed(*stages: Stage, results: Sequence[pa.Field] = FIELDS, **more: Any) -> Pipeline:
    """Create a pipeline of readings with frames of 2 x 3 pixels."""
    (file, pixels) = frame_fields(2, 3)
    schema = pa.schema([*FIELDS, file, pixels])
    return _pipeline(Pixels(pixels), *stages, schema=schema, results=results, **more)


def _frames(p: Pipeline, count: int, first: int = 0) -> pa.RecordBatch:
    """Make frames. The bytes of frame i are i, i + 1, ...; its file is its number."""
    pixels = [bytes(range(i, i + 18)) for i in range(first, first + count)]
    files = [str(i).encode() for i in range(first, first + count)]
    columns = {"unit": ["a"] * count, "at": range(count), "x": [0.0] * count, "jpeg": files, "pixels": pixels}
    return _batch(p, columns, first)


@pytest.mark.parametrize("cut", [(0, 5), (2, 5), (1, 1)])
def test_pixels_are_the_frames_bytes_as_channels_and_their_column_goes(cut: tuple[int, int]) -> None:
    seen: list[Tensor] = []

    def look(pixels: Tensor) -> dict[str, Tensor]:
        seen.append(pixels)
        return {"mean": pixels.float().mean((1, 2, 3))}

    p = _filmed(
        Encode(look, batch=2),
        Infer(lambda mean: {"mean": mean}, tensor="mean"),
        results=[pa.field("mean", pa.float32())],
    )
    start, end = cut
    outcome = Machine(p).step(_frames(p, 5).slice(start, end - start), NOW)
    assert outcome.results.column("mean").to_pylist() == [i + 8.5 for i in range(start, end)]
    assert all(len(pixels) <= 2 for pixels in seen)
    whole = torch.cat(seen)
    assert (whole.dtype, whole.shape) == (torch.uint8, (end - start, 3, 2, 3))
    for i, pixels in enumerate(whole, start):
        assert pixels.permute(1, 2, 0).flatten().tolist() == list(range(i, i + 18))


def test_a_row_that_is_kept_names_a_file_by_its_day_and_place_and_the_others_none() -> None:
    chosen = Infer(lambda pixels: {"chosen": pixels[:, 0, 0, 0] % 2 == 1}, tensor="pixels")
    p = _filmed(
        chosen,
        Keep(when="chosen", folder="frames/p", suffix=".jpg", into="frame"),
        results=[pa.field("frame", pa.string())],
        files={"frame": "jpeg"},
    )
    outcome = Machine(p).step(_frames(p, 4, first=7), NOW)
    paths = [f"frames/p/2026-01-01/{NOW + i}-0-{i}-0.jpg" for i in (7, 9)]
    assert outcome.results.column("frame").to_pylist() == [paths[0], None, paths[1], None]
    assert outcome.files == [(paths[0], b"7"), (paths[1], b"9")]
