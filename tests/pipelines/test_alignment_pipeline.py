"""The alignment pipeline: the same table for any split, rigs by themselves, pushed cameras, missing partners, new references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.conftest import Once
from tests.support.rigs import EVERY_S, SEED, WATCH, rig, small_model, table
from tocsin.models.alignment.geometry import distance
from tocsin.models.alignment.simulation.rig import SIZE, Move, Rig
from tocsin.models.domain import Shot
from tocsin.pipelines.alignment import RESULTS, pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay

PUSH, PAIRS, PUSHED = 5, 9, 8.0


@pytest.fixture(scope="module")
def model(once: Once) -> Model:
    return Model(once("alignment-model", small_model), "1", "cpu")


def declared(model: Model, **options: Any) -> Pipeline:
    return pipeline({"pace": "1s", **options}, model)


@pytest.fixture(scope="module")
def pushed() -> list[Shot]:
    """A rig whose second camera is pushed."""
    return rig(PAIRS, moves=[Move(PUSH, PUSHED)])


@pytest.fixture(scope="module")
def whole(model: Model, pushed: list[Shot]) -> tuple[pl.DataFrame, list[Any]]:
    p = declared(model)
    return replay(p, table(p, pushed), after="10s")


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    names = [name for name in RESULTS.names if name in one.columns]
    both = (frame.select(names).sort("rig", "sequence") for frame in (one, other))
    assert_frame_equal(*both, rel_tol=1e-5, abs_tol=1e-4)


def test_pairs_are_aligned_and_a_pushed_camera_rings_once_with_a_kept_frame(
    whole: tuple[pl.DataFrame, list[Any]],
) -> None:
    rows, alerts = whole
    assert rows["sequence"].to_list() == rows["other_sequence"].to_list() == [*range(PAIRS)]
    assert rows["paired"].all() and (rows["apart"] == 0).all()
    sights = list(Rig(SEED, pairs=PAIRS, every=EVERY_S, start=11, moves=[Move(PUSH, PUSHED)]))
    errors = [
        distance(np.array(homography).reshape(3, 3), sight.homography, SIZE)
        for homography, sight in zip(rows["homography"].to_list(), sights, strict=True)
    ]
    assert np.median(errors) < 1.5
    assert (rows["confidence"] >= WATCH.confident).sum() >= PAIRS - 1
    raised = [a for a in alerts if a.transition == "raised"]
    assert [a.rule for a in raised] == ["moved"] and PUSH <= raised[0].data["sequence"] <= PUSH + 2
    assert raised[0].data["moved"] == pytest.approx(PUSHED, abs=1.5)
    kept = rows.filter(pl.col("frame").is_not_null())["sequence"].to_list()
    assert len(kept) == 2 and kept[0] < PUSH and kept[1] == raised[0].data["sequence"]


@pytest.mark.parametrize("splits", [pytest.param([1] * (2 * PAIRS), marks=pytest.mark.slow), [5, 1, 1, 6, 2, 3]])
def test_the_table_is_the_same_however_the_frames_are_split_into_steps(
    model: Model, pushed: list[Shot], whole: tuple[pl.DataFrame, list[Any]], splits: Sequence[int]
) -> None:
    p = declared(model)
    rows, alerts = replay(p, table(p, pushed), splits=splits, after="10s")
    same(rows, whole[0])
    assert [a.id for a in alerts] == [a.id for a in whole[1]]


@pytest.mark.slow
def test_a_rig_is_judged_as_if_it_were_alone(
    model: Model, pushed: list[Shot], whole: tuple[pl.DataFrame, list[Any]]
) -> None:
    p = declared(model)
    other = rig(PAIRS, seed=5, name="other")
    rows, _ = replay(p, table(p, [shot for both in zip(pushed, other, strict=True) for shot in both]), after="10s")
    # A kept frame's path names its offset.
    same(rows.filter(rig="rig").drop("frame"), whole[0].drop("frame"))
    assert len(rows.filter(rig="other")) == PAIRS


def test_a_rig_is_aligned_once_in_so_long(model: Model) -> None:
    p = declared(model, pace=f"{3 * EVERY_S:.0f}s")
    rows, _ = replay(p, table(p, rig(7)), after="10s")
    assert rows["sequence"].to_list() == [0, 3, 6]


def test_frames_without_a_partner_ring_and_are_not_aligned(model: Model) -> None:
    p = declared(model)
    frames = [shot for shot in rig(8) if shot.facts["view"] == "first" or shot.facts["sequence"] in (0, 7)]
    rows, alerts = replay(p, table(p, frames), after="10s")
    assert rows.filter(pl.col("paired"))["sequence"].to_list() == [0, 7]
    alone = rows.filter(~pl.col("paired"))
    assert len(alone) == 6 and alone["homography"].null_count() == alone["apart"].null_count() == 6
    assert [(a.rule, a.transition) for a in alerts] == [("unpaired", "raised"), ("unpaired", "cleared")]


def test_frames_too_far_apart_are_no_pair_unless_the_tolerance_allows_it(model: Model) -> None:
    apart = [Shot(s.picture, {**s.facts, "time": s.facts["time"] + 80 * (s.facts["view"] == "second")}) for s in rig(3)]
    p = declared(model)
    assert not replay(p, table(p, apart), after="10s")[0]["paired"].any()
    p = declared(model, tolerance="100ms")
    rows, _ = replay(p, table(p, apart), after="10s")
    assert rows["paired"].all() and rows["apart"].to_list() == [80] * 3


def test_cameras_that_see_different_things_are_not_compared_with_the_reference(model: Model) -> None:
    p = declared(model)
    frames = [
        one if one.facts["view"] == "first" else Shot(other.picture, one.facts)
        for one, other in zip(rig(3), rig(3, seed=77), strict=True)
    ]
    rows, alerts = replay(p, table(p, frames), after="10s")
    assert (rows["confidence"] < WATCH.confident).all() and rows["shift"].null_count() == 3 and not alerts


@pytest.mark.slow
def test_another_reference_in_the_settings_makes_rigs_take_a_new_one(model: Model, pushed: list[Shot]) -> None:
    from tocsin.pipelines.runtime.engine.machine import Machine
    from tocsin.pipelines.runtime.engine.replay import _with_identity

    machine, rows = Machine(declared(model)), list[dict[str, Any]]()
    for at, options in ((slice(0, 2 * PUSH), {}), (slice(2 * PUSH, None), {"reference": 1})):
        p = declared(model, **options)
        machine.adopt(p)
        batch = _with_identity(p, table(p, pushed[at]), at.start or 0).combine_chunks().to_batches()[0]
        rows += machine.step(batch, 10**12).results.to_pylist()
    after = [row for row in rows if row["sequence"] >= PUSH]
    assert all(not row["moved"] for row in after) and any(row["moved"] == 0 for row in after)


@pytest.mark.parametrize("options", [{"limit": 0}, {"reference": -1}, {"unknown": 1}, {"tolerance": "soon"}])
def test_wrong_options_are_refused(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        declared(model, **options)


def test_a_pipeline_without_a_model_says_how_to_get_one() -> None:
    with pytest.raises(ModelError, match="alignment"):
        pipeline({}, None)
