"""The touch pipeline with the joints of hands: a painted hand reaches, holds still, and leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from tests.support.reaching import Seer, film
from tests.support.touches import RATE_MS, Taken, table
from tocsin.models.domain import Shot
from tocsin.models.touch.config import TouchConfig
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import _with_identity, replay
from tocsin.pipelines.touch import RESULTS, pipeline

STOP, START, END = 20, 45, 60
"""Frames in which the hand stops, in which it is away from there again, and after the last one."""
WRISTS = [(120.0 + 9 * min(n, STOP - 1) - 14 * max(n - START + 1, 0), 210.0) for n in range(END)]
COLUMNS = [name for name in RESULTS.names if name != "frame"]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    TouchConfig().save(tmp_path)
    return Model(tmp_path, "1", "cpu")


@pytest.fixture
def declared(model: Model, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The detector takes the hand for a left one while it holds still."""
    monkeypatch.setattr("tocsin.pipelines.touch.HandDetector", lambda file: Seer(WRISTS, range(STOP, START)))
    return pipeline({"hands": "hand_landmarker.task"}, model)


def frames(p: Pipeline, camera: str = "a") -> pa.Table:
    shots = [Shot(picture) for picture in film(WRISTS)]
    return table(p, [Taken(camera, n, n * RATE_MS, shot) for n, shot in enumerate(shots)])


def test_the_right_hands_alert_rings_where_it_stops_and_ends_where_it_leaves(declared: Pipeline) -> None:
    rows, alerts = replay(declared, frames(declared), after="30s")
    assert rows["sequence"].to_list() == list(range(END))
    raised, cleared = ((a.rule, a.transition, a.data["sequence"]) for a in alerts)
    assert raised[:2] == ("right", "raised") and abs(raised[2] - STOP) <= 1
    assert cleared[:2] == ("right", "cleared") and abs(cleared[2] - START) <= 2
    assert not rows["left_touches"].any() and rows["frame"].null_count() < END
    assert declared.experimental == ""


def test_a_row_waits_for_half_a_second_of_frames(declared: Pipeline) -> None:
    machine = Machine(declared)
    batch = _with_identity(declared, frames(declared), 0).combine_chunks().to_batches()[0]
    assert machine.step(batch, 0).results["sequence"].to_pylist() == list(range(END - 15))


def test_steps_and_checkpoints_do_not_change_the_table(declared: Pipeline) -> None:
    whole, _ = replay(declared, frames(declared), after="30s")
    split, _ = replay(declared, frames(declared), splits=[7] * 8 + [4], after="30s")
    assert_frame_equal(whole.select(COLUMNS), split.select(COLUMNS))
    machine, chain = Machine(declared), [Machine(declared).delta(full=True)]
    results, batch = list[pa.RecordBatch](), _with_identity(declared, frames(declared), 0).combine_chunks()
    for at in range(0, END, 4):
        results.append(machine.step(batch.slice(at, 4).combine_chunks().to_batches()[0], 0).results)
        chain.append(machine.delta(full=False))
        machine = Machine(declared)
        machine.restore(chain)
    restored = pl.from_arrow(pa.Table.from_batches(results))
    assert isinstance(restored, pl.DataFrame) and len(restored) == END - 15
    assert_frame_equal(restored.select(COLUMNS[1:]), whole.select(COLUMNS[1:]).head(END - 15))


def test_thresholds_of_the_options_hold_for_joints(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.pipelines.touch.HandDetector", lambda file: Seer(WRISTS, range(0)))
    strict = pipeline({"hands": "hand_landmarker.task", "contact": 1.0}, model)
    rows, alerts = replay(strict, frames(strict), after="30s")
    assert not alerts and np.nanmax(rows["right_contact"].to_numpy()) > 0.9
