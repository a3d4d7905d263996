"""The tampering pipeline on the shipped weights: attacks ring with their interval, quiet cameras do not, any split is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg
import torch
from polars.testing import assert_frame_equal

from tocsin.models.domain import Shot
from tocsin.models.tampering.evaluate import Scored, rung
from tocsin.models.tampering.interval import Interval
from tocsin.models.tampering.measures import GRID
from tocsin.models.tampering.model import SHIPPED, load
from tocsin.models.tampering.simulation.attacks import KINDS, attacked
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.pipelines.runtime import Model, Pipeline, replay, replay_clip
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats.jpeg import decode, readings
from tocsin.pipelines.tampering import RESULTS, pipeline

MODEL = Model(SHIPPED, "1", "cpu")
SIZE = 180, 320
GATE = Camera(seed=12, frames=80, size=SIZE, things=2)
"""A fixed camera at which things pass."""
BEGIN, END = 50, 64


def declared(**options: Any) -> Pipeline:
    return pipeline(options, MODEL)


def table(p: Pipeline, shots: Sequence[tuple[str, int, np.ndarray]]) -> pa.Table:
    """Frames (camera, sequence, image), ten a second."""
    files = [simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90) for *_, image in shots]
    facts = [{"camera": camera, "sequence": at, "time": 100 * at} for camera, at, _ in shots]
    return readings(p.schema, files, facts)


@pytest.fixture(scope="module")
def frozen() -> tuple[pl.DataFrame, list[Any]]:
    """The table and the alerts of a camera that is frozen from `BEGIN` to before `END`."""
    torch.set_num_threads(1)
    frames = attacked("frozen", np.random.default_rng(0), [*GATE], BEGIN, END, []).frames
    rows, alerts, _ = replay_clip(declared(level=0.8, hold=3, keep_every=4), map(Shot, frames), rate=10)
    return rows.sort("sequence"), alerts


def test_a_frozen_camera_rings_with_the_interval_and_a_map(frozen: tuple[pl.DataFrame, list[Any]]) -> None:
    rows, (raised, ended) = frozen
    assert (raised.rule, raised.severity, raised.transition) == ("tampered", "critical", "raised")
    since, sequence = raised.data["since"], raised.data["sequence"]
    assert BEGIN <= sequence < BEGIN + 8 and raised.data["kind"] == "frozen" and raised.data["until"] is None
    first = rows.filter(sequence=sequence - 2).row(0, named=True)
    assert first["event_time"] == first["since"] and first["tampered"] and first["since"] == since
    assert np.array(raised.data["map"]).shape == GRID and np.array(raised.data["map"]).mean() > 0.5
    assert ended.transition != "raised" and ended.data["since"] == since and ended.data["sequence"] >= END
    last = rows.filter(pl.col("tampered")).row(-1, named=True)
    assert last["event_time"] == ended.data["until"] and ended.data["kind"] == "frozen"


def test_columns_say_the_interval_and_nothing_before_the_camera_is_known(
    frozen: tuple[pl.DataFrame, list[Any]],
) -> None:
    rows, warm = frozen[0], load(SHIPPED).config.warm
    early, later = rows.head(warm), rows.slice(warm)
    assert early.select("score", "tampered", "kind", "since").null_count().row(0) == (warm,) * 4
    assert later["score"].null_count() == later["tampered"].null_count() == 0
    run, kept = 0, []
    for tampered, kind, since, until, sequence in later.select(
        "tampered", "kind", "since", "until", "sequence"
    ).iter_rows():
        ends = run > 0 and not tampered
        assert (kind in KINDS) == (since is not None) == (tampered or ends) and (until is not None) == ends
        if tampered and run % 4 == 0:
            kept.append(sequence)
        run = run + 1 if tampered else 0
    assert rows.filter(pl.col("frame").is_not_null())["sequence"].to_list() == kept and len(kept) > 2


def test_it_rings_where_figures_count_an_alert(frozen: tuple[pl.DataFrame, list[Any]]) -> None:
    rows, (raised, _) = frozen
    scores, marks = rows["score"].to_numpy(), np.arange(len(rows)) >= BEGIN
    counted = rung(Scored("gate", "frozen", scores, marks.astype(np.float32)), Interval(level=0.8, hold=3))
    assert counted.false == 0 and counted.delay == raised.data["sequence"] - BEGIN


def test_the_model_says_the_same_of_the_film_alone(frozen: tuple[pl.DataFrame, list[Any]]) -> None:
    frames = attacked("frozen", np.random.default_rng(0), [*GATE], BEGIN, END, []).frames
    pixels = np.empty((len(frames), *SIZE, 3), np.uint8)
    for picture, out in zip(frames, pixels, strict=True):
        decode(simplejpeg.encode_jpeg(picture, quality=90), out)
    verdict, rows = load(SHIPPED).watch(pixels), frozen[0]
    np.testing.assert_allclose(rows["score"].to_numpy()[-30:], verdict.score[-30:], atol=1e-3)
    np.testing.assert_allclose(np.array(rows["map"][-1].to_list()), verdict.places[-1], atol=1e-3)


def test_the_table_is_the_same_however_the_frames_are_split_and_cameras_do_not_mix() -> None:
    p = declared(warm=5, hold=2)
    other = Camera(seed=13, frames=20, size=SIZE, grain=4)
    one, two = [*replace(GATE, frames=20)], [*other][:12] + [[*other][11]] * 8
    shots = [(c, at, f[at]) for at in range(20) for c, f in (("a", one), ("b", two))]
    whole, rang = replay(p, table(p, shots))
    split, rang_split = replay(p, table(p, shots), splits=[1, 2, 7, 14, 16])
    alone, _ = replay(p, table(p, [shot for shot in shots if shot[0] == "b"]))
    names = [name for name in RESULTS.names if name != "frame"]
    for some in (split, pl.concat([whole.filter(camera="a"), alone])):
        both = (frame.select(names).sort("camera", "sequence") for frame in (whole, some))
        assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-4)
    assert [a.id for a in rang] == [a.id for a in rang_split]


def test_after_a_lapse_motion_begins_anew() -> None:
    """The same frame an hour later is no frozen camera."""
    p = declared(warm=1)
    frames = [*replace(GATE, frames=12)]
    shots = [("a", at, frame) for at, frame in enumerate(frames)] + [("a", 36_000, frames[-1])]
    later, at_once = replay(p, table(p, shots))[0], replay(p, table(p, [*shots[:-1], ("a", 12, frames[-1])]))[0]
    scores = [rows.sort("sequence")["score"][-1] for rows in (later, at_once)]
    assert scores[0] < scores[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_known_attack_rings_at_a_sensitive_level(kind: str) -> None:
    """At the shipped level, which hardly any clean frame reaches, spliced and generated pictures may pass."""
    frames, other = [*replace(GATE, frames=110)], [*Camera(seed=15, frames=40, size=SIZE)]
    done = attacked(kind, np.random.default_rng(4), frames, 60, 110, other).frames
    _, alerts, _ = replay_clip(declared(level=0.5), map(Shot, done), rate=10)
    assert alerts and alerts[0].transition == "raised" and alerts[0].data["sequence"] >= 60


@pytest.mark.slow
@pytest.mark.parametrize("skips", [0.0, 3.0])
def test_a_dark_still_camera_does_not_ring(skips: float) -> None:
    dark = Camera(seed=16, frames=400, size=SIZE, things=0, grain=8, gain=0.25, drift=0.02, skips=skips)
    _, alerts, _ = replay_clip(declared(), map(Shot, dark), rate=2)
    assert not alerts


def test_a_step_without_frames_gives_no_rows() -> None:
    rows, alerts = replay(declared(), table(declared(), []))
    assert not len(rows) and not alerts


@pytest.mark.parametrize(
    "options", [{"level": 1}, {"ease": 0}, {"hold": 0}, {"warm": 0}, {"keep_every": 0}, {"nothing": 1}]
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        declared(**options)
