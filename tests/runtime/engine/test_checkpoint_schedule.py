"""A checkpoint's schedule: its interval, and what comes earlier."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tocsin.pipelines.runtime.engine import checkpoint_schedule
from tocsin.pipelines.runtime.engine.checkpoint_schedule import BACKLOG_S, CAUGHT_UP_S, SOON_S, CheckpointSchedule

EVERY, BATCH = 5.0, 100
Go = Callable[[float], None]


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Go:
    """`go(seconds)` moves the clock."""
    now = [1000.0]
    monkeypatch.setattr(checkpoint_schedule, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


@pytest.fixture
def schedule(go: Go) -> CheckpointSchedule:
    """One whose first rows have been committed just now."""
    started = CheckpointSchedule()
    assert started.is_due(EVERY, has_rows=True)
    started.begin(has_rows=True)
    assert not started.is_due(EVERY, has_rows=True)
    return started


def test_it_is_due_by_its_interval(schedule: CheckpointSchedule, go: Go) -> None:
    go(EVERY - 0.1)
    assert not schedule.is_due(EVERY, has_rows=False)
    go(0.2)
    assert schedule.is_due(EVERY, has_rows=False)


def _work_off(schedule: CheckpointSchedule, go: Go, seconds: float = 2 * BACKLOG_S) -> None:
    schedule.note_read(pending=BATCH, lag=1000, batch=BATCH)
    go(seconds)
    schedule.note_read(pending=BATCH, lag=BATCH, batch=BATCH)


def test_the_end_of_a_backlog_is_due_and_a_checkpoint_before_it_changes_nothing(
    schedule: CheckpointSchedule, go: Go
) -> None:
    _work_off(schedule, go)
    # Less than a batch is left, but not all of it has been read.
    schedule.note_read(pending=BATCH // 2, lag=BATCH // 2, batch=BATCH)
    schedule.begin(has_rows=True)
    schedule.note_read(pending=BATCH // 2, lag=0, batch=BATCH)
    assert not schedule.is_due(EVERY, has_rows=True)
    go(CAUGHT_UP_S + 0.1)
    assert not schedule.is_due(SOON_S + 1, has_rows=True)
    assert not schedule.is_due(EVERY, has_rows=False)
    assert schedule.is_due(EVERY, has_rows=True)
    schedule.begin(has_rows=True)
    go(CAUGHT_UP_S + 0.1)
    assert not schedule.is_due(EVERY, has_rows=True)


def test_a_full_batch_now_and_then_is_no_backlog(schedule: CheckpointSchedule, go: Go) -> None:
    _work_off(schedule, go, BACKLOG_S / 2)
    schedule.note_read(pending=1, lag=0, batch=BATCH)
    go(CAUGHT_UP_S + 0.1)
    schedule.note_read(pending=BATCH, lag=0, batch=BATCH)
    assert not schedule.is_due(EVERY, has_rows=True)
