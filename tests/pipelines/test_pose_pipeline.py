"""The pose pipeline: the same table for any split, independent cameras, tracks, lost cameras, and places come back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from tests.support.films import ROOM, SEA, film, shots
from tocsin.models.domain import Shot
from tocsin.models.pose.evaluate import compared, steps_of
from tocsin.models.pose.model import SHIPPED
from tocsin.pipelines.pose import RESULTS, pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay, replay_clip
from tocsin.pipelines.runtime.formats.jpeg import readings
from tocsin.pipelines.runtime.formats.video import encoded

MODEL = Model(SHIPPED, "1", "cpu")
RATE_MS = 100
COLUMNS = [name for name in RESULTS.names if name != "frame"]

Taken = tuple[str, int, int, Shot]
"""A frame with its camera, its number and its time in ms."""


def declared(**options: Any) -> Pipeline:
    return pipeline(options, MODEL)


def clip(camera: str, seed: int, frames: int = 12) -> list[Taken]:
    return [(camera, at, at * RATE_MS, shot) for at, shot in enumerate(shots(seed, frames))]


def side_by_side(*clips: list[Taken]) -> list[Taken]:
    return [taken for together in zip(*clips, strict=True) for taken in together]


def table(p: Pipeline, taken: Sequence[Taken]) -> pa.Table:
    """Frames as the engine reads them."""
    facts = [{"camera": camera, "sequence": number, "time": at} for camera, number, at, _ in taken]
    return readings(p.schema, [encoded(shot) for *_, shot in taken], facts)


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    both = (frame.select(COLUMNS).sort("camera", "sequence") for frame in (one, other))
    assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-4)


@pytest.mark.parametrize("seed", [ROOM, SEA])
def test_it_follows_a_camera(seed: int) -> None:
    frames, path, focal = film(seed, 20)
    rows, _, _ = replay_clip(declared(focal=focal), map(Shot, frames), rate=10)
    errors = compared(steps_of(rows), path)
    assert np.median(errors.turn) < 0.5 and np.median(errors.direction) < 25
    turns = rows.select("qw", "qx", "qy", "qz").to_numpy()
    assert np.allclose(np.linalg.norm(turns, axis=1), 1) and turns[0].tolist() == [1, 0, 0, 0]
    assert rows.select("x", "y", "z").row(0) == (0, 0, 0) and (rows["track"] == 1).all()
    assert rows["confidence"].null_count() == 1 and rows["confidence"].drop_nulls().is_between(0, 1).all()


def test_frames_of_another_shape_are_followed_as_well() -> None:
    frames, path, focal = film(SEA, 20)
    wide = [Shot(np.ascontiguousarray(frame[20:-20])) for frame in frames]
    errors = compared(steps_of(replay_clip(declared(focal=focal), wide, rate=10)[0]), path)
    assert np.median(errors.turn) < 0.3  # 1.1 where the lens is taken for that of unscaled frames


def test_the_depth_of_the_first_frame_sets_the_scale() -> None:
    one, twice = (replay_clip(declared(depth=depth), shots(ROOM, 12), rate=10)[0] for depth in (1.5, 3.0))
    for name in ("x", "y", "z", "step", "depth"):
        assert np.allclose(2 * one[name].drop_nulls(), twice[name].drop_nulls(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("splits", [pytest.param([1] * 24, marks=pytest.mark.slow), [7] * 3 + [3]])
def test_the_table_is_the_same_however_the_frames_are_split_into_steps(splits: list[int]) -> None:
    p = declared()
    frames = table(p, side_by_side(clip("a", ROOM), clip("b", SEA)))
    same(replay(p, frames)[0], replay(p, frames, splits=splits)[0])


@pytest.mark.slow
def test_a_camera_is_judged_as_if_it_were_alone() -> None:
    p = declared()
    a, b = clip("a", ROOM), clip("b", SEA)
    together, _ = replay(p, table(p, side_by_side(a, b)))
    for own in (a, b):
        same(together.filter(camera=own[0][0]), replay(p, table(p, own))[0])


def test_a_lapse_begins_a_new_track_and_missing_frames_are_counted() -> None:
    p = declared()
    taken = [(c, n, at + (5000 if n >= 12 else 0), shot) for c, n, at, shot in clip("a", ROOM, 20) if n != 6]
    rows, _ = replay(p, table(p, taken))
    assert rows.filter(pl.col("missed") > 0).select("sequence", "missed").rows() == [(7, 1)]
    assert rows.filter(pl.col("confidence").is_null())["sequence"].to_list() == [0, 12]
    assert rows.filter(sequence=12).select("track", "x", "y", "z", "qw").row(0) == (2, 0, 0, 0, 1)
    again, _ = replay(p, table(p, clip("a", ROOM, 20)[12:]))
    one, other = (frame.filter(pl.col("sequence") >= 12).select("x", "z", "confidence") for frame in (rows, again))
    assert_frame_equal(one, other, rel_tol=1e-4, abs_tol=1e-4)


def test_a_camera_that_sees_nothing_is_lost_and_rings_once() -> None:
    dark = Shot(np.full((120, 160, 3), 4, np.uint8))
    seen = [*shots(ROOM, 12), *[dark] * 25, *shots(ROOM, 12)]
    rows, alerts, _ = replay_clip(declared(hold=5), seen, rate=10)
    assert [(alert.rule, alert.transition) for alert in alerts] == [("lost_track", "raised"), ("lost_track", "cleared")]
    raised, cleared = (alert.data["sequence"] for alert in alerts)
    assert 16 <= raised <= 24 and cleared >= 37
    assert rows.filter(pl.col("sequence").is_between(25, 34))["place"].null_count() == 10


def test_a_place_is_known_again_after_the_camera_was_away() -> None:
    here, there = shots(ROOM, 12), shots(SEA, 20)
    rows, _, _ = replay_clip(declared(away="1s"), [*here, *there, *here], rate=10)
    first, between, back = rows[:11], rows[15:32], rows[35:]
    assert not first["revisit"].any() and 1 in first["place"]
    assert not {*between["place"].drop_nulls()} & {*first["place"].drop_nulls()}
    known = back.filter(pl.col("revisit"))
    assert len(known) >= 5 and {*known["place"]} <= {*first["place"].drop_nulls()}
    assert {*known["since"]} <= {*first["since"].drop_nulls()}
    patient, _, _ = replay_clip(declared(away="1min"), [*here, *there, *here], rate=10)
    assert not patient["revisit"].any()
    kept = rows.filter(pl.col("frame").is_not_null())
    assert kept["place"].to_list() == [*range(1, rows["place"].max() + 1)]


@pytest.mark.slow
def test_the_places_of_a_camera_are_bounded_and_the_oldest_is_forgotten() -> None:
    here, there = shots(ROOM, 12)[:5], shots(SEA, 12)[:5]
    elsewhere = [Shot(np.ascontiguousarray(shot.picture[::-1])) for shot in there]
    turned = [Shot(np.ascontiguousarray(shot.picture[:, ::-1])) for shot in here]
    seen = [*here, *there, *turned, *elsewhere, *here]
    many, _, _ = replay_clip(declared(away="100ms"), seen, rate=10)
    few, _, _ = replay_clip(declared(away="100ms", places=2), seen, rate=10)
    assert many[-1]["place"].item() == 1 and many[-1]["revisit"].item()
    assert few[-1]["place"].item() > 3 and not few[-1]["revisit"].item()


def test_a_step_without_frames_changes_nothing() -> None:
    p = declared()
    machine = Machine(p)
    machine.step(empty(p.schema), 0)  # the first step schedules the sweep of inactive keys
    outcome = machine.step(empty(p.schema), 1)
    assert not outcome.results.num_rows and not outcome.changed


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"focal": 0}, "pipelines.pose.focal: expected greater than 0, got 0; correct tocsin.toml"),
        ({"focal": float("inf")}, "pipelines.pose.focal: expected a finite number, got inf; correct tocsin.toml"),
        ({"hold": 2**64}, f"pipelines.pose.hold: expected a number below 2**53, got {2**64}; correct tocsin.toml"),
        ({"away": "99999999999d"}, "pipelines.pose.away: expected a duration such as 20ms, 5s, 15min, 2h, 30d, got"),
        ({"depth": -1}, "pipelines.pose.depth: expected greater than 0, got -1; correct tocsin.toml"),
        ({"lost": 2}, "pipelines.pose.lost: expected less than or equal to 1, got 2; correct tocsin.toml"),
        ({"hold": 0}, "pipelines.pose.hold: expected greater than or equal to 1, got 0; correct tocsin.toml"),
        ({"places": 1}, "pipelines.pose.places: expected greater than or equal to 2, got 1; correct tocsin.toml"),
        (
            {"foc": 1},
            "pipelines.pose: expected one of name, topic, late, roots, focal, depth, lost, hold, away, places, got foc",
        ),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pipeline(options, MODEL)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_it_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model, got none; set model = 'pose@champion'"):
        pipeline({}, None)
    with pytest.raises(ModelError, match="train it again with `tocsin train pose`"):
        pipeline({}, replace(MODEL, folder=tmp_path))
