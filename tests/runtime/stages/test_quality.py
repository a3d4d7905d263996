"""Judging windows, against a loop over rows that shares no code with it; any split; what is remembered stays bounded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.stages.quality import SPAN, TURNS, Quality

COLUMNS, WINDOW, MEMORY, EVERY, LEVEL = ("x", "y"), 4, 6, 2, 0.5
REASONS = ("big", "missing")
YOUNG = 16
FIELDS = [
    pa.field("unit", pa.string(), nullable=False),
    pa.field("at", pa.float64(), nullable=False),
    *(pa.field(name, pa.float64()) for name in COLUMNS),
]
JUDGED = [pa.field("quality", pa.float32()), pa.field("reason", pa.string()), pa.field("channel", pa.string())]
Row = tuple[str, float, tuple[float | None, float | None]]


@pytest.fixture(autouse=True)
def young(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.pipelines.runtime.stages.quality.YOUNG", YOUNG)


class Sums:
    """A judge whose verdict depends on all that it is given."""

    def __call__(
        self, times: Tensor, windows: Tensor, memory: Tensor, limits: Tensor, seen: Tensor
    ) -> Mapping[str, Tensor]:
        total = windows.nan_to_num(0.5).sum((1, 2)) + memory.nan_to_num(0.25).double().sum((1, 2)).float()
        total = total + limits.nan_to_num(0.0).sum((1, 2)) + seen + times.sum(1).float()
        missing = windows.isnan().any(1)  # [B, C]
        channel = torch.where(missing.any(1), missing.int().argmax(1), -1)
        return {"quality": (total * 0.37) % 1, "reason": missing.any(1).long(), "channel": channel}


def _stage(**more: Any) -> Quality:
    options = {"window": WINDOW, "memory": MEMORY, "reasons": REASONS, "level": LEVEL, "every": EVERY, "time": "at"}
    return Quality(COLUMNS, Sums(), **{**options, **more})


def _pipeline(stage: Quality) -> Pipeline:
    return Pipeline(
        name="p", topic="t", schema=pa.schema(FIELDS), key="unit", stages=[stage], results=pa.schema(FIELDS + JUDGED)
    )


def _table(rows: Sequence[Row]) -> pa.Table:
    columns = [[r[0] for r in rows], [r[1] for r in rows], *([r[2][i] for r in rows] for i in range(2))]
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, FIELDS, strict=True)], schema=pa.schema(FIELDS)
    )


class _Key:
    """One key, a row at a time."""

    def __init__(self, *, timed: bool, relearn: int | None) -> None:
        self.rows, self.timed, self.relearn = list[tuple[float, list[float]]](), timed, relearn
        self.verdict: tuple[float, int, int] = (math.nan, 0, -1)
        self.worst, self.doubted, self.good = 1.0, 0, False
        self.forget()

    def forget(self) -> None:
        self.memory = [[math.nan] * 5 for _ in range(MEMORY)]
        self.low, self.high, self.trusted = [math.inf] * 2, [-math.inf] * 2, 0

    def add(self, at: float, values: Sequence[float | None]) -> tuple[float | None, str | None, str | None]:
        number = len(self.rows) + 1
        self.rows.append((at if self.timed else float(number), [math.nan if v is None else v for v in values]))
        if number % EVERY == 0:
            if self.trusted >= WINDOW:
                self.judge()
            else:
                self.verdict = (math.nan, 0, -1)
        if number % WINDOW == 0:
            self.end()
        quality, reason, channel = self.verdict
        if math.isnan(quality) or quality >= LEVEL:
            return (None if math.isnan(quality) else quality), None, None
        return quality, REASONS[reason], COLUMNS[channel] if channel >= 0 else None

    def judge(self) -> None:
        part = self.rows[-WINDOW - 1 :]
        limits = [[v if math.isfinite(v) else math.nan for v in each] for each in (self.low, self.high)]
        found = Sums()(
            torch.tensor([[at - part[-1][0] for at, _ in part]], dtype=torch.float64),
            torch.tensor([[values for _, values in part]]),
            torch.tensor([self.memory]),
            torch.tensor([limits]),
            torch.tensor([min(self.trusted, SPAN)]),
        )
        self.verdict = (float(found["quality"]), int(found["reason"]), int(found["channel"]))
        self.worst = min(self.worst, self.verdict[0])

    def end(self) -> None:
        good = self.worst >= LEVEL * min(self.trusted / YOUNG, 1)
        start = len(self.rows) - 2 * WINDOW
        if good and self.good:
            for place in range(start, start + WINDOW):
                before, now = (self.rows[place - 1] if place else (math.nan, [math.nan] * 2)), self.rows[place]
                kept, slot = (math.modf(self.trusted * turn)[0] for turn in TURNS)
                if self.trusted < MEMORY or kept * min(self.trusted + 1, SPAN) < MEMORY:
                    slot = self.trusted if self.trusted < MEMORY else int(slot * MEMORY)
                    self.memory[int(slot)] = [*now[1], *before[1], now[0] - before[0]]
                self.low = [min(a, b) if b == b else a for a, b in zip(self.low, now[1], strict=True)]
                self.high = [max(a, b) if b == b else a for a, b in zip(self.high, now[1], strict=True)]
                self.trusted += 1
        self.doubted = 0 if good else self.doubted + WINDOW
        if self.relearn is not None and self.doubted >= self.relearn:
            self.forget()
            self.doubted, good = 0, True
        self.good, self.worst = good, 1.0


def _naive(rows: Sequence[Row], *, timed: bool = True, relearn: int | None = None) -> list[Any]:
    keys: dict[str, _Key] = defaultdict(lambda: _Key(timed=timed, relearn=relearn))
    return [keys[unit].add(at, values) for unit, at, values in rows]


def _rows(count: int, *, seed: int, units: str = "ab") -> list[Row]:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 2)).astype(np.float32).astype(float)
    return [
        (
            str(rng.choice([*units])),
            float(number) + (rng.random() < 0.05) * 7,
            (None if rng.random() < 0.1 else numbers[number][0], None if rng.random() < 0.1 else numbers[number][1]),
        )
        for number in range(count)
    ]


def _assert_equal(frame: Any, expected: Sequence[Any]) -> None:
    assert len(frame) == len(expected)
    got = frame["quality"].to_list()
    assert [q is None for q in got] == [q is None for q, _, _ in expected]
    # A thousandth: float32 sums in another order.
    assert got == [None if q is None else pytest.approx(q, abs=2e-3) for q, _, _ in expected]
    assert frame.select("reason", "channel").rows() == [(r, c) for _, r, c in expected]


@pytest.mark.parametrize(("timed", "relearn"), [(True, None), (False, None), (True, 8)])
def test_each_row_has_the_verdict_of_a_loop_over_rows(timed: bool, relearn: int | None) -> None:
    rows = _rows(300, seed=1)
    stage = _stage(time="at" if timed else None, relearn=relearn)
    frame, _ = replay(_pipeline(stage), _table(rows), splits=[300])
    expected = _naive(rows, timed=timed, relearn=relearn)
    _assert_equal(frame, expected)
    known = [q for q, _, _ in expected if q is not None]
    assert len(known) > 150 and {r for _, r, _ in expected} == {None, *REASONS}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 5))
def test_any_split_gives_the_same(splits: list[int], seed: int) -> None:
    rows = _rows(sum(splits), seed=seed, units="abc")
    frame, _ = replay(_pipeline(_stage()), _table(rows), splits=splits)
    _assert_equal(frame, _naive(rows))


def test_sparse_passes_on_the_rows_with_a_verdict_of_their_own() -> None:
    rows = _rows(120, seed=2, units="a")
    whole, _ = replay(_pipeline(_stage()), _table(rows))
    few, _ = replay(_pipeline(_stage(sparse=True)), _table(rows))
    own = whole.with_row_index("n", offset=1).filter(pl.col("quality").is_not_null() & (pl.col("n") % EVERY == 0))
    assert len(own) > 30 and few.equals(own.drop("n"))


def test_the_state_of_a_key_does_not_grow_and_a_reading_of_any_size_is_finite() -> None:
    rows = [("a", float(at), (1e300 if at == 30 else 1.0, None)) for at in range(400)]
    machine = Machine(_pipeline(_stage()))
    identity = {
        "_partition": pa.array([0] * 400, pa.int32()),
        "_offset": pa.array(range(400), pa.int64()),
        "_row": pa.array([0] * 400, pa.int32()),
        "_timestamp": pa.array([0] * 400, pa.timestamp("ms", tz="UTC")),
    }
    table = _table(rows)
    batch = pa.RecordBatch.from_arrays(
        [*(identity[f.name] for f in IDENTITY), *(c.combine_chunks() for c in table.columns)],
        schema=pa.schema([*IDENTITY, *FIELDS]),
    )
    sizes = set[int]()
    for at in range(0, 400, 50):
        machine.step(batch.slice(at, 50), now=at)
        cells = machine.delta(full=True).cells
        sizes.add(sum(tensor.numel() for tensor in cells.values()))
        past = next(tensor for name, tensor in cells.items() if "past" in name)
        assert not past.isinf().any()
    assert len(sizes) == 1


def test_a_step_that_does_not_divide_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every: expected a divisor of the window \(4\), got 3"):
        _stage(every=3)
