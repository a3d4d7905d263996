"""The underwater pipeline: the same table for any split, independent cameras, gaps and lapses, alerts with kept frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg
import torch
from polars.testing import assert_frame_equal

from tests.conftest import Once
from tests.support.dives import SIZE, as_before, pan, small_model
from tocsin.models.domain import Shot
from tocsin.models.surprise import detector
from tocsin.models.surprise.detector import DetectorConfig, DetectorState
from tocsin.models.surprise.model import SurpriseModel, load
from tocsin.models.surprise.triage import Triage, TriageConfig
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import _with_identity, replay, replay_clip
from tocsin.pipelines.runtime.formats.jpeg import decode
from tocsin.pipelines.surprise import RESULTS, domain, pipeline

RATE_MS = 100


@pytest.fixture(scope="module")
def model(once: Once) -> Model:
    return Model(once("surprise-model", small_model), "1", "cpu")


def declared(model: Model, **options: Any) -> Pipeline:
    return pipeline(options, model)


def table(p: Pipeline, shots: Sequence[tuple[str, int, int, np.ndarray]]) -> pa.Table:
    """Frames (camera, sequence, time in ms, image) as the engine reads them."""
    files = [simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90) for *_, image in shots]
    pixels = np.empty((len(files), *SIZE, 3), np.uint8)
    for file, image in zip(files, pixels, strict=True):
        decode(file, image)
    columns = [[shot[n] for shot in shots] for n in range(3)]
    values = [*columns, files, [image.tobytes() for image in pixels]]
    return pa.table([pa.array(v, f.type) for v, f in zip(values, p.schema, strict=True)], schema=p.schema)


def clip(camera: str, count: int = 60, **how: Any) -> list[tuple[str, int, int, np.ndarray]]:
    frames = pan(count, **how).permute(0, 2, 3, 1).numpy()
    return [(camera, at, at * RATE_MS, frame) for at, frame in enumerate(frames)]


def side_by_side(*clips: list[tuple[str, int, int, np.ndarray]]) -> list[tuple[str, int, int, np.ndarray]]:
    return [shot for together in zip(*clips, strict=True) for shot in together]


COLUMNS = [name for name in RESULTS.names if name != "frame"]


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    both = (frame.select(COLUMNS).sort("camera", "sequence") for frame in (one, other))
    assert_frame_equal(*both, rel_tol=1e-5, abs_tol=1e-4)


@pytest.fixture(scope="module")
def event(model: Model) -> tuple[pl.DataFrame, list[Any], int]:
    """Replay a recorded clip that a fish enters at frame 40."""
    frames = pan(60, fish=(40, 50), seed=3).permute(0, 2, 3, 1).numpy()
    return replay_clip(pipeline({}, model), map(Shot, frames), rate=10)


def test_something_new_rings_once_names_its_place_and_a_frame_of_it_is_kept(event) -> None:
    rows, alerts, sent = event
    raised = [a for a in alerts if a.transition == "raised"]
    assert len(raised) == 1 and 40 <= raised[0].data["sequence"] <= 43
    assert raised[0].data["frame"] == rows.row(raised[0].data["sequence"], named=True)["frame"]
    assert raised[0].data["score"] > raised[0].data["level"]
    grid = np.array(raised[0].data["map"])
    assert grid.shape == (8, 12)
    assert np.unravel_index(grid.argmax(), grid.shape)[0] in (2, 3, 4, 5)  # the fish enters half way up
    assert [a.transition for a in alerts] == ["raised", "cleared"]
    kept = rows.filter(pl.col("frame").is_not_null())
    assert kept["novel"].all() and 1 <= len(kept) < 10 and sent > 60 * 500
    # Nothing predicts the first frame.
    assert rows["score"].null_count() == 1 and rows["score"][0] is None


@pytest.mark.parametrize("splits", [[1] * 120, [7] * 17 + [1], [64, 56]])
def test_the_table_is_the_same_however_the_frames_are_split_into_steps(model: Model, splits: list[int]) -> None:
    p = declared(model, revisits=True)
    frames = table(p, side_by_side(clip("a", fish=(40, 50), seed=3), clip("b", seed=4, speed=6.0)))
    whole, rang = replay(p, frames)
    split, rang_split = replay(p, frames, splits=splits)
    same(whole, split)
    assert [a.id for a in rang] == [a.id for a in rang_split] and rang


def test_a_camera_is_judged_as_if_it_were_alone(model: Model) -> None:
    p = declared(model, revisits=True)
    a, b = clip("a", 30, seed=3), clip("b", 30, seed=4, speed=6.0)
    together, _ = replay(p, table(p, side_by_side(a, b)))
    for own in (a, b):
        alone, _ = replay(p, table(p, own))
        same(together.filter(camera=own[0][0]), alone)


def test_missing_frames_are_counted_and_a_lapse_begins_anew(model: Model) -> None:
    p = declared(model)
    shots = [shot for shot in clip("a", 30) if shot[1] not in (10, 11)]
    lapse = [(c, n, at + (5000 if n >= 20 else 0), image) for c, n, at, image in shots]
    rows, _ = replay(p, table(p, lapse))
    assert rows.filter(pl.col("missed") > 0).select("sequence", "missed").rows() == [(12, 2)]
    assert rows.filter(pl.col("score").is_null())["sequence"].to_list() == [0, 20]
    assert rows.filter(pl.col("flow").is_null())["sequence"].to_list() == [0, 20]


def test_repeated_frames_are_dropped_and_those_that_come_too_late_refused(model: Model) -> None:
    p = declared(model)
    shots = clip("a", 12)
    order = [0, 1, 2, 3, 3, 4, 6, 5, 7, 8, 9, 10, 11]
    machine, frames = Machine(p), table(p, [shots[n] for n in order])
    outcome = machine.step(_with_identity(p, frames, 0).combine_chunks().to_batches()[0], 0)
    assert outcome.results["sequence"].to_pylist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert outcome.counts["duplicates"] == 1 and [(r.offset, r.error) for r in outcome.refused] == [(7, "TooLate")]
    waits = declared(model, late="200ms")
    rows, _ = replay(waits, table(waits, [shots[n] for n in order]))
    assert rows["sequence"].to_list() == list(range(10))  # the last two wait for earlier frames


def test_a_camera_that_goes_dark_rings_and_is_named(model: Model) -> None:
    p = declared(model)
    shots = clip("a", 200)
    dark = [(c, n, at, image // 40 if n >= 60 else image) for c, n, at, image in shots]
    rows, alerts = replay(p, table(p, dark))
    (alert,) = [a for a in alerts if a.rule == "out_of_domain"]
    assert (alert.key, alert.severity, alert.transition) == ("a", "warning", "raised")
    assert 60 < alert.data["sequence"] <= 180 and "highlights" in alert.data["unlike"]
    verdicts = rows.sort("sequence")["in_domain"].to_list()
    assert verdicts[0] is None and verdicts[55] is True and verdicts[-1] is False


def test_a_step_without_frames_changes_nothing(model: Model) -> None:
    p = declared(model)
    machine = Machine(p)
    machine.step(empty(p.schema), 0)  # the first step schedules the sweep of inactive keys
    outcome = machine.step(empty(p.schema), 1)
    assert not outcome.results.num_rows and not outcome.changed


def test_a_second_novelty_within_a_running_event_raises_a_second_alert(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [1.0, 1.1] * 50
    scores[40:90] = [20.0] * 50
    scores[70:90] = [50.0] * 20
    by_itself = detector.step

    def scripted(state: DetectorState, score: torch.Tensor, config: DetectorConfig) -> Any:
        told = torch.tensor([scores[int(frames) + 1] for frames in state.frames])
        return by_itself(state, told, config)

    monkeypatch.setattr(detector, "step", scripted)
    p = declared(model)
    rows, alerts = replay(p, table(p, clip("a", 100)))
    said = [(alert.transition, alert.data["sequence"]) for alert in alerts]
    assert [transition for transition, _ in said] == ["raised", "cleared", "raised", "cleared"]
    (_, first), (_, over), (_, second), (_, end) = said
    assert 40 <= first <= 41 and 70 <= over <= 72 and second == over + 1 and 90 <= end <= 95
    # Each event keeps its first frame.
    assert {first, second} <= {*rows.filter(pl.col("frame").is_not_null())["sequence"]}


def test_level_and_factor_set_the_sensitivity_and_are_the_models_own_by_default(model: Model) -> None:
    frames = clip("a", fish=(40, 50), seed=3)

    def scored(**options: Any) -> tuple[pl.DataFrame, int]:
        p = declared(model, **options)
        rows, alerts = replay(p, table(p, frames))
        return rows, sum(alert.transition == "raised" for alert in alerts)

    (own, rang), (deaf, none), (keen, _) = scored(), scored(level=1e6), scored(factor=0.5)
    assert rang == 1 and none == 0 and deaf["level"].max() == pytest.approx(1e6)
    assert own["score"][:40].equals(deaf["score"][:40])
    assert (keen["level"].drop_nulls() <= own["level"].drop_nulls()).all() and keen["novel"].sum() > own["novel"].sum()
    same(own, scored(level=0.0, factor=12.0)[0])  # the test model's own


def halves(p: Pipeline, frames: pa.Table) -> list[pa.RecordBatch]:
    """The first 30 frames and the others, as steps."""
    batches = [part.combine_chunks().to_batches()[0] for part in (frames.slice(0, 30), frames.slice(30))]
    with_identity = [
        _with_identity(p, pa.Table.from_batches([batch]), at) for batch, at in zip(batches, (0, 30), strict=True)
    ]
    return [part.combine_chunks().to_batches()[0] for part in with_identity]


@pytest.mark.parametrize("version", [1, 2])
def test_state_of_a_version_before_goes_on(model: Model, tmp_path: Path, version: int) -> None:
    """Version 1 had no recent course, and both had one head of triage: the stored model's, which it has twice now."""
    small, sizes = load(model.folder, "cpu"), TriageConfig(hidden=4, memory=2, heads=1)
    torch.manual_seed(0)
    triage = Triage(sizes, tokens=small.config.network.tokens, compensates=True)
    SurpriseModel(replace(small.config, triage=sizes), small.predictor, small.encoder, triage).save(tmp_path)
    as_before(tmp_path)
    p = declared(Model(tmp_path, "1", "cpu"))
    first, second = halves(p, table(p, clip("a", 60, fish=(40, 50), seed=3)))
    before, whole = Machine(p), Machine(p)
    for machine in (before, whole):
        machine.step(first, 0)
    delta = before.delta(full=True)
    cells = {name: t for name, t in delta.cells.items() if version > 1 or not name.endswith("/course|")}
    (suspects,) = (name for name in cells if name.endswith("/suspects|"))
    old = replace(delta, cells={**cells, suspects: cells[suspects][:, :2]})
    assert len(old.cells) == len(delta.cells) - (version == 1) and old.cells[suspects].any()
    assert p.state_version == 3 and p.migrate is not None and p.migrate(0, old) is None
    after = Machine(p)
    carried = p.migrate(version, old)
    assert carried is not None
    after.migrate(carried)
    one, other = (machine.step(second, 1).results for machine in (after, whole))
    same(*(pl.DataFrame(pl.from_arrow(results)) for results in (one, other)))


@pytest.mark.parametrize("revisits", [True, False])
def test_revisits_can_be_turned_on_and_off(model: Model, revisits: bool) -> None:
    p, other = declared(model, revisits=not revisits), declared(model, revisits=revisits)
    first, second = halves(p, table(p, clip("a", 60, fish=(40, 50), seed=3)))
    before, running, restarted = Machine(p), Machine(p), Machine(other)
    for machine in (before, running):
        machine.step(first, 0)
    delta = before.delta(full=True)
    assert any(name.startswith("Revisits/") for name in delta.cells) is not revisits
    restarted.restore([delta])
    assert running.adopt(other)
    one, two, three = (pl.DataFrame(pl.from_arrow(m.step(second, 1).results)) for m in (running, restarted, before))
    same(one, two)
    same(*(rows.with_columns(again=None, since=None) for rows in (one, three)))
    assert one["again"].null_count() == (len(one) - one["novel"].sum() if revisits else len(one))


def flashes(*begins: int) -> list[tuple[str, int, int, np.ndarray]]:
    """A camera that goes to and fro. From each of the frames on, something bright lies on the ground for 12 frames."""
    shots = clip("a", 138)
    for begin in begins:
        for _, frame, _, image in shots[begin : begin + 12]:
            x = round(150 * (np.sin(begin / 50) - np.sin(frame / 50))) + 40
            image[24:44, max(x, 0) : max(x + 26, 0)] = (250, 240, 40)
    return shots


def test_what_was_seen_before_at_the_same_place_rings_only_without_revisits(model: Model) -> None:
    def rung(*begins: int, **options: Any) -> tuple[pl.DataFrame, list[int]]:
        p = declared(model, away="5s", **options)
        rows, alerts = replay(p, table(p, flashes(*begins)))
        return rows.sort("sequence"), [a.data["sequence"] for a in alerts if a.transition == "raised"]

    back = 127  # the camera sees what it saw at frame 30
    rows, rang = rung(30, back, revisits=True)
    assert 30 in rang and max(rang) < back
    again = rows.filter(pl.col("again"))
    assert (
        len(again)
        and again["sequence"].min() == back + 4
        and again["since"].dt.epoch("ms").unique().to_list() == [3000]
    )
    assert rows.filter(sequence=30)["again"].item() is False  # no place is known yet: it is decided at once
    assert rows.filter(pl.col("novel") & (pl.col("sequence") >= back))["again"].to_list()[:4] == [None] * 4
    others, all_of_them = rung(30, back)
    assert others["again"].null_count() == len(others) and {*all_of_them} - {*rang} == {back}
    assert any(90 <= at < 102 for at in rung(30, 90, revisits=True)[1])  # the same thing at another place


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"level": -1}, "pipelines.surprise.level: expected greater than or equal to 0, got -1; correct tocsin.toml"),
        ({"level": "high"}, "pipelines.surprise.level: expected a valid number, got 'high'; correct tocsin.toml"),
        ({"level": float("inf")}, "pipelines.surprise.level: expected a finite number, got inf; correct tocsin.toml"),
        ({"factor": 0}, "pipelines.surprise.factor: expected greater than 0, got 0; correct tocsin.toml"),
        ({"away": "-1s"}, "pipelines.surprise.away: expected"),
        ({"late": 0.5}, "pipelines.surprise.late: expected a whole number, or a duration such as 200ms, got 0.5"),
        (
            {"late": float("inf")},
            "pipelines.surprise.late: expected a whole number, or a duration such as 200ms, got inf",
        ),
        ({"away": 30}, "pipelines.surprise.away: expected a duration such as 20ms, 5s, 15min, 2h, 30d, got 30"),
        ({"keep_every": 0}, "pipelines.surprise.keep_every: expected greater than or equal to 1, got 0"),
        ({"roots": "/frames"}, "pipelines.surprise.roots: expected a valid list, got '/frames'"),
        ({"late": "soon"}, "pipelines.surprise.late: expected a whole number, or a duration such as 200ms, got 'soon'"),
        (
            {"keep_evry": 3},
            "pipelines.surprise: expected one of name, topic, late, roots, keep_every, level, factor, revisits, away, "
            "got keep_evry",
        ),
    ],
)
def test_a_wrong_option_is_one_line(model: Model, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pipeline(options, model)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_an_evaluation_counts_alerts_for_surprise_alone(model: Model) -> None:
    frames = [Shot(np.full((*SIZE, 3), 3, np.uint8))] * 30
    _, alerts, _ = replay_clip(pipeline({}, model), frames, rate=10)
    assert [a.rule for a in alerts] == ["out_of_domain"]
    _, begins, _ = domain.results(frames, 10.0, model.folder, "1", {}, None)
    assert not begins


def test_it_says_what_it_lacks(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model, got none; set model = 'surprise@champion'"):
        pipeline({}, None)
    with pytest.raises(ModelError, match="train it again with `tocsin train surprise`"):
        pipeline({}, replace(model, folder=tmp_path))
