"""The damage pipeline on the shipped weights: damage and its growth ring, and the table is the same for any split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg
import torch
from polars.testing import assert_frame_equal

from tocsin.models.damage.model import SHIPPED, load
from tocsin.models.damage.simulation.watch import Watch
from tocsin.models.domain import Shot
from tocsin.pipelines.damage import MAP, RESULTS, pipeline
from tocsin.pipelines.runtime import Model, Pipeline, replay, replay_clip
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats.jpeg import readings

MODEL = Model(SHIPPED, "1", "cpu")
SIZE, SEED = (180, 320), 7
GROWS = Watch(SEED, frames=40, begins=14, ends=26, size=SIZE)
"""A wall that is intact at first."""


def declared(**options: Any) -> Pipeline:
    return pipeline(options, MODEL)


def table(p: Pipeline, shots: Sequence[tuple[str, int, np.ndarray]]) -> pa.Table:
    """Frames (camera, sequence, image), two a second."""
    files = [simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90) for *_, image in shots]
    facts = [{"camera": camera, "sequence": at, "time": 500 * at} for camera, at, _ in shots]
    return readings(p.schema, files, facts)


@pytest.fixture(scope="module")
def grown() -> tuple[pl.DataFrame, list[Any]]:
    torch.set_num_threads(1)
    rows, alerts, _ = replay_clip(declared(settle=5, hold=2, keep_every=4), map(Shot, GROWS), rate=2)
    return rows, alerts


def test_a_crack_rings_when_it_shows_and_when_it_has_grown(grown: tuple[pl.DataFrame, list[Any]]) -> None:
    rows, alerts = grown
    raised = {alert.rule: alert for alert in alerts if alert.transition == "raised"}
    assert {"damage", "growth"} <= raised.keys()
    damage, growth = raised["damage"], raised["growth"]
    assert 14 < damage.data["sequence"] < 26 and damage.data["kind"] == "crack" and damage.data["score"] >= 0.5
    assert np.array(damage.data["map"]).shape == MAP
    assert growth.severity == "critical" and growth.data["growth"] >= 0.01 and growth.data["place"] == 1
    assert rows.sort("sequence")["extent"][-1] > rows.sort("sequence")["extent"][0] + 0.01


def test_of_damaged_frames_one_in_so_many_is_kept_and_the_first_that_has_grown(
    grown: tuple[pl.DataFrame, list[Any]],
) -> None:
    rows, wanted, run, grew = grown[0].sort("sequence"), [], 0, False
    for sequence, damaged, counts in rows.select("sequence", "damaged", "grown").iter_rows():
        if (damaged and run % 4 == 0) or (counts and not grew):
            wanted.append(sequence)
        run, grew = run + 1 if damaged else 0, bool(counts)
    assert rows.filter(pl.col("frame").is_not_null())["sequence"].to_list() == wanted and len(wanted) > 2


def test_the_model_says_the_same_of_a_picture_alone(grown: tuple[pl.DataFrame, list[Any]]) -> None:
    model, row = load(SHIPPED, "cpu"), grown[0].sort("sequence").row(30, named=True)
    file = simplejpeg.encode_jpeg([*GROWS][30], quality=90)
    found = model(simplejpeg.decode_jpeg(file, "RGB"))
    assert (row["kind"], row["looks"]) == (found.kind, found.looks[0])
    assert row["score"] == pytest.approx(found.score, abs=1e-4)
    assert row["extent"] == pytest.approx(found.extent, abs=1e-4)
    assert np.max(row["map"]) == pytest.approx(float(found.places.max()), abs=1e-4)


@pytest.mark.parametrize("splits", [pytest.param([1] * 24, marks=pytest.mark.slow), [5, 5, 5, 5, 4]])
def test_the_table_is_the_same_however_the_frames_are_split_and_cameras_do_not_mix(splits: list[int]) -> None:
    p = declared(settle=3, hold=2)
    one, other = [*Watch(SEED, frames=12, begins=4, ends=8, size=SIZE)], [*Watch(8, frames=12, begins=None, size=SIZE)]
    shots = [(c, at, f[at]) for at in range(12) for c, f in (("a", one), ("b", other))]
    whole, rang = replay(p, table(p, shots))
    split, rang_split = replay(p, table(p, shots), splits=splits)
    alone, _ = replay(p, table(p, [shot for shot in shots if shot[0] == "b"]))
    names = [name for name in RESULTS.names if name != "frame"]
    for some in (split, pl.concat([whole.filter(camera="a"), alone])):
        both = (frame.select(names).sort("camera", "sequence") for frame in (whole, some))
        assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-4)
    assert [a.id for a in rang] == [a.id for a in rang_split]


@pytest.mark.slow
def test_a_large_frame_costs_its_budget_and_a_camera_that_goes_dark_rings() -> None:
    p = declared(budget=0.25)
    large = [("a", at, frame) for at, frame in enumerate(Watch(SEED, frames=2, begins=None, size=(720, 1280)))]
    assert {*replay(p, table(p, large))[0]["looks"]} == {3}
    frames = [*Watch(SEED, frames=6, begins=None, size=(96, 160))]
    dark = [("a", at, frame if at < 5 else frame // 60) for at, frame in enumerate([*frames[:5], *[frames[5]] * 60])]
    rows, alerts = replay(p, table(p, dark))
    assert rows["looks"].sum() == 0
    (alert,) = [a for a in alerts if a.rule == "out_of_domain"]
    assert alert.transition == "raised" and "highlights" in alert.data["unlike"]


def test_a_step_without_frames_gives_no_rows() -> None:
    rows, alerts = replay(declared(), table(declared(), []))
    assert not len(rows) and not alerts


@pytest.mark.parametrize(
    "options", [{"budget": 1.5}, {"level": 0}, {"hold": 0}, {"growth": -1}, {"settle": 0}, {"nothing": 1}]
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        declared(**options)
