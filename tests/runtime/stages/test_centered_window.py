"""Centered windows against a loop over rows that shares no code with them, for any steps, inactive keys and restarts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.declare.stage import Stage
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome, empty
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.stages.centered_window import CenteredWindow
from tocsin.pipelines.runtime.stages.infer import Encode, Infer
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NOW = 1_767_225_600_000
READING = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
    ]
)
WAIT_MS, LAPSE_MS = 2000, 1000


class Row(NamedTuple):
    """A reading: its number, key, event time in ms, value."""

    offset: int
    key: str
    at: int
    x: float


Window = list[float | None]


class Naive:
    """Computes the stage's output row by row."""

    def __init__(self, past: int, ahead: int, lapse: int | None) -> None:
        self.past, self.ahead, self.lapse = past, ahead, lapse
        self.rows: dict[str, list[Row]] = {}
        self.through: dict[str, int] = {}
        self.came: list[int] = []

    def step(self, rows: Sequence[Row], silent: set[str]) -> list[tuple[Row, Window]]:
        """Process new rows and keys that have become inactive. Returns the rows passed on and their windows."""
        for row in rows:
            self.rows.setdefault(row.key, []).append(row)
            self.came.append(row.offset)
        out = []
        for key, had in self.rows.items():
            for i in range(self.through.get(key, 0), len(had)):
                ahead = self._until_lapse(had[i:])
                ended = i + len(ahead) < len(had) or key in silent
                if len(ahead) <= self.ahead and not ended:
                    break
                before = self._until_lapse(had[i::-1])
                out.append((had[i], self._window(before[1 : self.past + 1], had[i], ahead[1 : self.ahead + 1])))
                self.through[key] = i + 1
        return sorted(out, key=lambda pair: self.came.index(pair[0].offset))

    def _until_lapse(self, rows: Sequence[Row]) -> list[Row]:
        reached = [rows[0]]
        for row in rows[1:]:
            earlier, later = sorted([reached[-1], row], key=lambda r: r.offset)
            if self.lapse is not None and later.at - earlier.at > self.lapse:
                break
            reached.append(row)
        return reached

    def _window(self, before: Sequence[Row], row: Row, after: Sequence[Row]) -> Window:
        lacking = [None] * (self.past - len(before)), [None] * (self.ahead - len(after))
        return [*lacking[0], *(r.x for r in reversed(before)), row.x, *(r.x for r in after), *lacking[1]]


class Silences:
    """Splits a step into parts: keys that become inactive before its rows, its rows, keys that become inactive after them."""

    def __init__(self) -> None:
        self._heard: dict[str, int] = {}
        self._newest = 0

    def parts(self, now: int, stamp: int, rows: Sequence[Row]) -> list[tuple[Sequence[Row], set[str]]]:
        keys = {row.key for row in rows}
        if rows:
            self._newest = max(self._newest, stamp)  # Kafka's clock does not go back
        before = {key for key in keys & self._heard.keys() if self._heard[key] + WAIT_MS <= self._newest}
        self._heard |= dict.fromkeys(keys, self._newest)
        return [((), before), (rows, set()), ((), {key for key, at in self._heard.items() if at + WAIT_MS <= now})]


def pipeline(*stages: Stage, results: Mapping[str, pa.DataType], **more: Any) -> Pipeline:
    """Create a pipeline. Its `tensors["features"]` is `[B, 2, 3]`, the reading's x times 0 to 5."""
    features = Encode(lambda x: {"features": x * torch.arange(6.0).view(2, 3)}, tensor="x")
    return Pipeline(
        name="p",
        topic="t",
        schema=READING,
        key="unit",
        event_time="at",
        stages=[SlidingWindow(1, ["x"], name="x"), features, *stages],
        results=pa.schema([pa.field("x", pa.float64()), *(pa.field(n, t) for n, t in results.items())]),
        **more,
    )


def batch(rows: Sequence[Row], stamp: int) -> pa.RecordBatch:
    """Make a batch of readings with Kafka's timestamp `stamp`."""
    made = [
        {"_partition": 0, "_offset": r.offset, "_row": 0, "_timestamp": stamp, "unit": r.key, "at": r.at, "x": r.x}
        for r in rows
    ]
    return pa.RecordBatch.from_pylist(made, schema=pa.schema([*IDENTITY, *READING]))


class Beat(NamedTuple):
    """A step: ms since the previous one, ms that Kafka's timestamp is ahead of its clock, keys with ms since their last reading."""

    after: int
    lead: int
    came: Sequence[tuple[str, int]]
    restart: bool


BEAT = st.builds(
    Beat,
    st.integers(0, WAIT_MS // 2),
    st.sampled_from([0, 0, 0, 3000]),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 10, 10, 10, LAPSE_MS, LAPSE_MS + 1])), max_size=9),
    st.booleans(),
)
BEATS = st.lists(BEAT, max_size=16)


def steps(beats: Sequence[Beat]) -> list[tuple[int, int, list[Row]]]:
    """Return each step's clock, Kafka's timestamp and readings."""
    now, offset, at, made = NOW, 0, dict.fromkeys("abc", NOW - 600_000), []
    for beat in beats:
        now += beat.after
        rows = []
        for key, gap in beat.came:
            at[key] += gap
            rows.append(Row(offset, key, at[key], offset + 1.0))
            offset += 1
        made.append((now, now + beat.lead, rows))
    return made


def run(p: Pipeline, beats: Sequence[Beat]) -> list[StepOutcome]:
    """Run the steps. At a restart, a new machine restores the state of the previous one."""
    machine, chain, outcomes = Machine(p), [Machine(p).delta(full=True)], []
    for beat, (now, stamp, rows) in zip(beats, steps(beats), strict=True):
        if beat.restart:
            chain.append(machine.delta(full=False))
            machine = Machine(p)
            machine.restore(chain)
        outcomes.append(machine.step(batch(rows, stamp), now))
    return outcomes


def flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


WINDOWED = {"window": pa.list_(pa.float32()), "there": pa.list_(pa.bool_()), "own": pa.list_(pa.float32())}
JUDGES = [
    Infer(lambda t: {"window": flat(t)}),
    Infer(lambda t: {"there": t}, tensor="window_there"),
    Infer(lambda t: {"own": flat(t)}, tensor="features"),
]


@settings(max_examples=100, deadline=None)
@given(BEATS, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_each_row_goes_on_once_and_when_it_may_with_the_rows_around_it(
    beats: list[Beat], past: int, ahead: int, lapses: bool
) -> None:
    lapse = LAPSE_MS if lapses else None
    around = CenteredWindow(past, ahead, shape=(2, 3), lapse=f"{lapse}ms" if lapse else None, wait=f"{WAIT_MS}ms")
    naive, silences = Naive(past, ahead, lapse), Silences()
    for outcome, (now, stamp, rows) in zip(
        run(pipeline(around, *JUDGES, results=WINDOWED), beats), steps(beats), strict=True
    ):
        expected = [pair for part in silences.parts(now, stamp, rows) for pair in naive.step(*part)]
        assert offsets(outcome) == [row.offset for row, _ in expected]
        assert outcome.results["x"].to_pylist() == [row.x for row, _ in expected]
        assert outcome.results["own"].to_pylist() == [[row.x * i for i in range(6)] for row, _ in expected]
        assert outcome.results["there"].to_pylist() == [[x is not None for x in window] for _, window in expected]
        wanted = [[(x or 0) * i for x in window for i in range(6)] for _, window in expected]
        assert outcome.results["window"].to_pylist() == wanted


@settings(max_examples=50, deadline=None)
@given(BEATS)
def test_of_two_in_a_row_the_second_has_windows_of_what_the_first_ones_gave(beats: list[Beat]) -> None:
    p = pipeline(
        CenteredWindow(2, 1, shape=(2, 3), lapse="1s"),
        Encode(lambda window: {"total": window[..., 0, 1].sum(1)}, tensor="window"),
        CenteredWindow(1, 2, "total", shape=(), name="totals", lapse="1s", without=("window", "window_there")),
        Infer(lambda totals: {"totals": totals}, tensor="totals"),
        results={"totals": pa.list_(pa.float32())},
    )
    first, second, silences = Naive(2, 1, LAPSE_MS), Naive(1, 2, LAPSE_MS), Silences()
    for outcome, (now, stamp, rows) in zip(run(p, beats), steps(beats), strict=True):
        expected = []
        for came, silent in silences.parts(now, stamp, rows):
            totals = [row._replace(x=sum(x or 0 for x in window)) for row, window in first.step(came, silent)]
            expected += second.step(totals, silent)
        assert offsets(outcome) == [row.offset for row, _ in expected]
        assert outcome.results["totals"].to_pylist() == [[x or 0 for x in window] for _, window in expected]


TICK = empty(READING)
FOUR = [Row(n, "ab"[n % 2], NOW - 1000 + n, n + 1.0) for n in range(4)]


def offsets(outcome: StepOutcome) -> list[int]:
    return outcome.results["offset"].to_pylist()


def test_a_tick_changes_something_only_when_a_silence_ends_the_wait() -> None:
    machine = Machine(pipeline(CenteredWindow(1, 5, shape=(2, 3), wait="2s"), results={}))
    machine.step(batch(FOUR, NOW), NOW)
    early, due, after = (machine.step(TICK, NOW + ms) for ms in (1999, 2000, 2001))
    assert (offsets(early), early.changed) == ([], False)
    assert (offsets(due), due.changed) == ([0, 1, 2, 3], True)
    assert (offsets(after), after.changed) == ([], False)


def test_readings_that_no_stage_lets_through_are_heard() -> None:
    machine = Machine(pipeline(CenteredWindow(1, 5, shape=(2, 3), wait="2s"), results={}))
    machine.step(batch(FOUR[:1], NOW), NOW)
    refused = machine.step(batch([Row(9, "a", NOW, 1e39)], NOW + 1500), NOW + 1500)  # too large for `SlidingWindow`
    assert len(refused.refused) == 1
    assert [offsets(machine.step(TICK, NOW + ms)) for ms in (2000, 3499, 3500)] == [[], [], [0]]


def test_what_waits_is_in_a_snapshot_whatever_its_tensors_share(tmp_path: Path) -> None:
    shared = Encode(lambda f: {"turned": f.transpose(1, 2), "part": f[:, 0], "whole": f}, tensor="features")
    judge = Infer(lambda t: {"turned": flat(t)}, tensor="turned")
    p = pipeline(
        shared,
        CenteredWindow(2, 2, "part", shape=(3,)),
        judge,
        *JUDGES[:2],
        results=WINDOWED | {"turned": WINDOWED["own"]},
    )
    p = replace(p, results=pa.schema([f for f in p.results if f.name != "own"]))
    machine, snapshots = Machine(p), Snapshots(Lake(str(tmp_path)), "p", 0)
    machine.step(batch(FOUR, NOW), NOW)  # all of them wait
    snapshots.write(1, machine.delta(full=True), {})
    restored = Machine(p)
    restored.restore(snapshots.read(1).deltas)
    more = [Row(4, "a", NOW, 5.0), Row(5, "a", NOW, 6.0)]
    for m in (machine, restored):
        outcome = m.step(batch(more, NOW), NOW)
        assert offsets(outcome) == [0, 2]
        assert outcome.results["window"].to_pylist()[1] == [x * i for x in (0, 1, 3, 5, 6) for i in range(3)]
        assert outcome.results["there"].to_pylist()[1] == [False, True, True, True, True]
        assert outcome.results["turned"].to_pylist()[1] == [3.0 * i for i in (0, 3, 1, 4, 2, 5)]


def test_tensors_that_end_here_do_not_wait() -> None:
    machine = Machine(pipeline(CenteredWindow(1, 5, shape=(2, 3), without=("x",)), results={}))
    machine.step(batch(FOUR, NOW), NOW)
    (waiting,) = machine.waiting
    assert waiting.tensors.keys() == {"features"}


def test_a_key_that_is_forgotten_leaves_no_past_to_the_next_one_in_its_place() -> None:
    around = CenteredWindow(3, 0, shape=(2, 3), lapse="9999d")
    machine = Machine(pipeline(around, *JUDGES, results=WINDOWED, forget_after="1h"))
    machine.step(batch(FOUR, NOW), NOW)
    forgotten = machine.step(TICK, NOW + 2 * 3_600_000)
    assert (forgotten.counts["forgotten"], machine.keys) == (2, 0)
    (there,) = machine.step(batch([Row(4, "c", NOW, 5.0)], NOW), NOW + 2 * 3_600_000).results["there"].to_pylist()
    assert there == [False, False, False, True]


def test_a_key_is_not_forgotten_while_rows_of_it_wait() -> None:
    machine = Machine(pipeline(CenteredWindow(1, 5, shape=(2, 3), wait="3h"), results={}, forget_after="1h"))
    machine.step(batch(FOUR, NOW), NOW)
    assert (offsets(machine.step(TICK, NOW + 2 * 3_600_000)), machine.keys) == ([], 2)
    assert (offsets(machine.step(TICK, NOW + 3 * 3_600_000)), machine.keys) == ([0, 1, 2, 3], 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.bool])
@pytest.mark.parametrize("shape", [(), (6,), (1, 2, 3)])
def test_a_window_is_of_the_tensors_own_shape_and_type(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    given, seen = torch.arange(len(FOUR) * math.prod(shape)).reshape(len(FOUR), *shape).to(dtype), list[Tensor]()

    def look(window: Tensor) -> Mapping[str, Tensor]:
        seen.append(window)
        return {}

    around = CenteredWindow(2, 1, "given", shape=shape, dtype=dtype)
    p = pipeline(Encode(lambda f: {"given": given[: len(f)]}, tensor="features"), around, Infer(look), results={})
    machine = Machine(p)
    machine.step(batch([row._replace(key="a") for row in FOUR], NOW), NOW)
    (window,) = seen
    assert (window.dtype, window.shape) == (dtype, (3, 4, *shape))
    assert torch.equal(window[2], given) and torch.equal(window[0, 2:], given[:2]) and not window[0, :2].any()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected past and ahead of at least 0, got 2 and -1"):
        CenteredWindow(2, -1, shape=(2, 3))
    for wrong in (CenteredWindow(2, 1, shape=(6,)), CenteredWindow(2, 1, shape=(2, 3), dtype=torch.float64)):
        with pytest.raises(ConfigError, match=r"got \[4, 2, 3\] torch.float32; set its shape and dtype"):
            Machine(pipeline(wrong, results={})).step(batch(FOUR, NOW), NOW)
