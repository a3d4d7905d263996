"""The touch pipeline: the same table for any split, independent cameras, alerts that clear, missing and invalid boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor

from tests.conftest import Once
from tests.support.touches import CONFIG, RATE_MS, SIZE, Taken, small_model, table, taken, touches
from tocsin.models.domain import Shot
from tocsin.models.touch.decode import decode, paired, spots
from tocsin.models.touch.truth import HANDS, Touch
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import StepContext
from tocsin.pipelines.runtime.declare.stores import Declared, Store
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome, empty
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import _with_identity, replay
from tocsin.pipelines.runtime.formats.video import encoded
from tocsin.pipelines.touch import BOXES, CLOSE, RESULTS, SCORES, ScoreFrame, pipeline

LEFT, RIGHT, CONTACT, RELEASE = 0, 1, 0, 1
COLUMNS = [name for name in RESULTS.names if name != "frame"]
OVER = "30s"
"""Time without frames after which no row waits any more."""


@pytest.fixture(scope="module")
def model(once: Once) -> Model:
    return Model(once("touch-model", small_model), "1", "cpu")


@pytest.fixture(scope="module")
def declared(model: Model) -> Pipeline:
    return pipeline({"hands": "none"}, model)


def side_by_side(*clips: Sequence[Taken]) -> list[Taken]:
    return [shot for together in zip(*clips, strict=True) for shot in together]


def same(one: pl.DataFrame, other: pl.DataFrame, *, missed: bool = True) -> None:
    columns = [name for name in COLUMNS if missed or name != "missed"]
    both = (rows.select(columns).sort("camera", "sequence") for rows in (one, other))
    assert_frame_equal(*both, rel_tol=0, abs_tol=1e-4)


def step(machine: Machine, shots: Sequence[Taken], *, offset: int = 0, now: int = 0) -> StepOutcome:
    p = machine.pipeline
    return machine.step(_with_identity(p, table(p, shots), offset).combine_chunks().to_batches()[0], now)


def frame(results: Sequence[pa.RecordBatch]) -> pl.DataFrame:
    """The results of several steps as one frame."""
    made = pl.from_arrow(pa.Table.from_batches(results))
    assert isinstance(made, pl.DataFrame)
    return made


def touched(rows: pl.DataFrame) -> list[Touch]:
    """The touches of one camera's table."""
    made = []
    for hand, name in enumerate(HANDS):
        said = rows.sort("sequence").select("sequence", f"{name}_touches", f"{name}_since").rows()
        since: int | None = None
        for sequence, touches_now, begun in said:
            if since is not None and (not touches_now or begun != since):
                made.append(Touch(hand, since, sequence))
            since = begun if touches_now else None
        made += [] if since is None else [Touch(hand, since, None)]
    return sorted(made, key=lambda touch: (touch.contact, touch.hand))


def edges(alerts: Sequence[Alert]) -> list[tuple[str, str, int, int | None]]:
    """Of each alert of a hand: hand, transition, frame, and the frame since which it holds or held its thing."""
    return [(a.rule, a.transition, a.data["sequence"], a.data[f"{a.rule}_since"]) for a in alerts if a.rule in HANDS]


def test_touches_ring_at_contact_end_at_release_and_are_those_that_there_were(declared: Pipeline) -> None:
    rows, alerts = replay(declared, table(declared, taken("a", 120)), after=OVER)
    assert rows["sequence"].to_list() == list(range(120))
    found, truth = touched(rows), touches(120, seed=9)
    right = [t for t in truth if any(t.hand == f.hand and abs(t.contact - f.contact) <= 2 for f in found)]
    assert len(right) >= len(truth) - 1 and len(found) <= len(truth) + 1
    expected = [(HANDS[t.hand], "raised", t.contact, t.contact) for t in found]
    expected += [(HANDS[t.hand], "cleared", t.release, t.contact) for t in found if t.release is not None]
    assert sorted(edges(alerts)) == sorted(expected) and {a.key for a in alerts} == {"a"}
    a = alerts[0]
    row = rows.row(a.data["sequence"], named=True)
    assert a.severity == "info" and a.data["frame"] == row["frame"] is not None
    assert a.data[f"{a.rule}_contact"] == row[f"{a.rule}_contact"] >= CONFIG.decode.contact


@pytest.mark.parametrize("splits", [[1] * 100, [7] * 14 + [2], [64, 36]])
def test_the_table_is_the_same_however_the_frames_are_split_into_steps(declared: Pipeline, splits: list[int]) -> None:
    frames = table(declared, side_by_side(taken("a", 50), taken("b", 50, seed=10)))
    whole, rang = replay(declared, frames)
    split, rang_split = replay(declared, frames, splits=splits)
    same(whole, split)
    assert len(whole) == 2 * (50 - 6)  # the events of the last frames are not known yet
    assert sorted(a.id for a in rang) == sorted(a.id for a in rang_split) and rang


def test_a_camera_is_judged_as_if_it_were_alone(declared: Pipeline) -> None:
    a, b = taken("a", 40), taken("b", 40, seed=10)
    together, rang = replay(declared, table(declared, side_by_side(a, b)), after=OVER)
    for own in (a, b):
        alone, rang_alone = replay(declared, table(declared, own), after=OVER)
        same(together.filter(camera=own[0].camera), alone)
        assert sorted(edges([x for x in rang if x.key == own[0].camera])) == sorted(edges(rang_alone)) != []


def test_a_machine_that_goes_on_from_a_checkpoint_gives_what_one_gives_that_never_stopped(declared: Pipeline) -> None:
    shots = taken("a", 60)
    steady = Machine(declared)
    machine, chain = Machine(declared), [Machine(declared).delta(full=True)]
    results, alerts = list[pa.RecordBatch](), list[Alert]()
    for at in range(0, 60, 3):  # each cut divides the frames that some rows need
        whole, outcome = (step(m, shots[at : at + 3], offset=at) for m in (steady, machine))
        assert outcome.results.drop_columns("processed_at") == whole.results.drop_columns("processed_at")
        results.append(outcome.results)
        assert [a.id for a in outcome.alerts] == [a.id for a in whole.alerts]
        alerts += outcome.alerts
        chain.append(machine.delta(full=False))
        machine = Machine(declared)
        machine.restore(chain)
    assert frame(results)["sequence"].to_list() == list(range(54)) and len(alerts) > 4


def test_a_camera_that_goes_dark_rings_and_is_named(declared: Pipeline) -> None:
    shots = taken("a", 300)
    dark = [s if s.sequence < 60 else s._replace(frame=Shot(s.frame.picture // 40, s.frame.facts)) for s in shots]
    rows, alerts = replay(declared, table(declared, dark), after=OVER)
    (alert,) = [a for a in alerts if a.rule == "out_of_domain"]
    assert (alert.key, alert.transition) == ("a", "raised")
    assert 60 < alert.data["sequence"] <= 240 and "highlights" in alert.data["unlike"]
    verdicts = rows.sort("sequence")["in_domain"].to_list()
    assert verdicts[0] is None and verdicts[55] is True and verdicts[-1] is False


def test_a_step_without_frames_changes_nothing(declared: Pipeline) -> None:
    machine = Machine(declared)
    machine.step(empty(declared.schema), 0)  # the first step schedules the sweep of inactive keys
    outcome = machine.step(empty(declared.schema), 1)
    assert not outcome.results.num_rows and not outcome.changed


def test_a_camera_that_falls_silent_is_waited_for_two_seconds(declared: Pipeline) -> None:
    machine, last = Machine(declared), 9 * RATE_MS
    assert step(machine, taken("a", 10), now=last).results["sequence"].to_pylist() == [0, 1, 2, 3]
    assert not machine.step(empty(declared.schema), last + 1999).results.num_rows
    assert machine.step(empty(declared.schema), last + 2000).results["sequence"].to_pylist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "box",
    [
        {"left_x0": 0.9},  # right of x1
        {"right_x1": 320.0},  # in pixels
        {"right_y0": -1.5},
        {"left_y1": None},  # part of the box is missing
        {"left_x0": 0.5, "left_x1": 0.5},
        {"right_x1": float("inf")},
    ],
)
def test_a_box_that_is_none_is_a_dead_letter_and_the_stream_goes_on(
    declared: Pipeline, box: dict[str, float | None]
) -> None:
    shots = taken("a", 20)
    bad = shots[8]._replace(frame=Shot(shots[8].frame.picture, {**shots[8].frame.facts, **box}))
    machine = Machine(declared)
    first = step(machine, [*shots[:8], bad, *shots[9:]])
    last = machine.step(empty(declared.schema), 10**9)
    (letter,) = first.refused
    assert (letter.offset, letter.stage, letter.error) == (8, "boxes", "BadValue")
    words, _, got = letter.message.partition(", got ")
    hand = next(iter(box)).partition("_")[0]
    assert words == f"expected {hand} x0 < x1 and y0 < y1 as shares of the frame"
    given = [
        np.nan if (value := bad.frame.facts[f"{hand}_{side}"]) is None else value for side in ("x0", "y0", "x1", "y1")
    ]
    assert np.allclose([float(number) for number in got.split(", ")], given, rtol=1e-5, equal_nan=True)
    rows = frame([first.results, last.results])
    others, _ = replay(declared, table(declared, [*shots[:8], *shots[9:]]), after=OVER)
    same(rows, others, missed=False)
    assert rows["missed"].sum() == 0  # the refused frame did arrive


def test_a_box_may_reach_beyond_the_frame_a_little(declared: Pipeline) -> None:
    shots = taken("a", 20)

    def with_right(x1: float) -> pl.DataFrame:
        here = shots[8]._replace(frame=Shot(shots[8].frame.picture, {**shots[8].frame.facts, "right_x1": x1}))
        return replay(declared, table(declared, [*shots[:8], here, *shots[9:]]), after=OVER)[0]

    same(with_right(1.1), with_right(1.0))


def test_frames_without_boxes_are_judged_and_a_hand_at_a_time_may_be_unseen(declared: Pipeline) -> None:
    shots = taken("a", 30)
    named = [{f.name for f in BOXES if f.name.startswith(f"{hand}_")} for hand in HANDS]

    def without(*names: set[str]) -> pl.DataFrame:
        kept = [
            s._replace(
                frame=Shot(s.frame.picture, {k: v for k, v in s.frame.facts.items() if k not in set().union(*names)})
            )
            for s in shots
        ]
        return replay(declared, table(declared, kept), after=OVER)[0]

    whole, no_left, blind = without(), without(named[0]), without(*named)
    for rows in (no_left, blind):
        assert len(rows) == 30 and not rows.select(SCORES).to_numpy().max() > 1
        assert not np.allclose(rows.select(SCORES), whole.select(SCORES), atol=0.05)
    assert not np.allclose(no_left.select(SCORES), blind.select(SCORES), atol=0.05)


def test_the_finder_is_asked_where_no_box_is_given_and_only_there(
    model: Model, declared: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shots = list[int](), taken("a", 20)
    boxes = torch.tensor([[0.1, 0.2, 0.4, 0.7], [0.5, 0.3, 0.9, 0.6]])

    def detector(*_: str, **__: str) -> Any:
        def detect(pixels: Tensor) -> Tensor:
            assert pixels.shape[1:] == (3, *SIZE) and pixels.dtype == torch.uint8
            asked.append(len(pixels))
            return boxes.expand(len(pixels), 2, 4)

        return detect

    monkeypatch.setattr("tocsin.pipelines.touch.finder.load", detector)
    p = pipeline({}, model)
    left = {f.name: shots[0].frame.facts[f.name] for f in BOXES[:4]}
    given = dict(zip((f.name for f in BOXES), boxes.flatten().tolist(), strict=True))
    pattern: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [({}, given), (left, left), (given, given)]
    sent, known = (
        [s._replace(frame=Shot(s.frame.picture, pattern[n % 3][which])) for n, s in enumerate(shots)]
        for which in (0, 1)
    )
    rows, _ = replay(p, table(p, sent), after=OVER)
    same(rows, replay(declared, table(declared, known), after=OVER)[0])
    assert asked == [7]


@dataclass(frozen=True)
class Told:
    """Replaces the stages of the model: gives scripted output `[T, 2, 2, 2]` by frame number."""

    said: Tensor

    @property
    def state(self) -> Mapping[str, Declared]:
        return {}

    def step(self, rows: Rows, state: Mapping[str, Store], at: StepContext) -> Rows:
        told = Rows(rows.table, rows.slots, {}).without(*[f.name for f in BOXES])
        return told.with_tensors(said=self.said[rows.column("sequence")])


def scripted(declared: Pipeline, said: Tensor) -> Pipeline:
    judge = next(n for n, stage in enumerate(declared.stages) if isinstance(stage, ScoreFrame))
    return replace(declared, stages=[*declared.stages[:3], Told(said), *declared.stages[judge + 1 :]])


def script(frames: int, *events: tuple[int, int, int]) -> Tensor:
    """Scripted output `[frames, 2, 2, 2]` with a score of 0.9 at each event (frame, hand, kind)."""
    said = torch.zeros(frames, 2, 2, 2)
    for frame, hand, kind in events:
        said[frame, 0, hand, kind] = 0.9
    return said


def played(declared: Pipeline, said: Tensor, *, times: Sequence[int] | None = None) -> tuple[pl.DataFrame, list[Alert]]:
    """Replay a script. Returns the table and the alerts."""
    blank = Shot(np.zeros((*SIZE, 3), np.uint8))
    at = times or [n * RATE_MS for n in range(len(said))]
    p = scripted(declared, said)
    return replay(p, table(p, [Taken("a", n, at[n], blank) for n in range(len(said))]), after=OVER)


def test_only_frames_near_an_event_are_kept_and_whole(declared: Pipeline) -> None:
    said = script(30, (10, LEFT, CONTACT))
    said[[14, 18, 22], 0, RIGHT, RELEASE] = torch.tensor([CLOSE + 0.01, CLOSE, 0.6])
    said[8, :, RIGHT, CONTACT] = torch.tensor([0.4, 2.0])  # points at two frames earlier
    machine = Machine(scripted(declared, said))
    shots = [Taken("a", n, n * RATE_MS, Shot(np.full((*SIZE, 3), 8 * n, np.uint8))) for n in range(30)]
    outcomes = [step(machine, shots), machine.step(empty(declared.schema), 10**9)]
    kept = {row["sequence"]: row["frame"] for o in outcomes for row in o.results.to_pylist() if row["frame"]}
    assert sorted(kept) == [6, 10, 14, 22]
    assert all(path.startswith("frames/touch/") and path.endswith(".jpg") for path in kept.values())
    files = dict(file for outcome in outcomes for file in outcome.files)
    assert files == {path: encoded(shots[n].frame) for n, path in kept.items()}


def test_contact_raises_the_hands_alert_once_and_release_ends_it(declared: Pipeline) -> None:
    events = [
        (8, RIGHT, RELEASE),
        (10, RIGHT, CONTACT),
        (14, RIGHT, CONTACT),
        (20, RIGHT, RELEASE),
        (25, RIGHT, RELEASE),
    ]
    rows, alerts = played(declared, script(30, *events))
    assert rows.filter(pl.col("right_event").is_not_null()).select("sequence", "right_event").rows() == [
        (8, "release"), (10, "contact"), (14, "contact"), (20, "release"), (25, "release")
    ]  # fmt: skip
    assert rows.filter("right_touches")["sequence"].to_list() == list(range(10, 20))
    assert rows.filter(right_since=10)["sequence"].to_list() == list(range(10, 21))  # includes the frame of the release
    assert rows["right_since"].null_count() == 30 - 11
    assert not rows["left_touches"].any() and rows["left_since"].null_count() == rows["left_event"].null_count() == 30
    assert edges(alerts) == [("right", "raised", 10, 10), ("right", "cleared", 20, 10)]


def test_thresholds_are_options_and_the_models_where_they_are_not_given(model: Model) -> None:
    said = script(30, (10, RIGHT, CONTACT), (20, RIGHT, RELEASE))
    said[:, 0] *= 0.4  # scores of 0.36, below the model's thresholds
    assert edges(played(pipeline({"hands": "none"}, model), said)[1]) == []
    _, one = played(pipeline({"hands": "none", "contact": 0.3}, model), said)
    _, both = played(pipeline({"hands": "none", "contact": 0.3, "release": 0.3}, model), said)
    assert [edge[1:3] for edge in edges(one)] == [("raised", 10)]
    assert [edge[1:3] for edge in edges(both)] == [("raised", 10), ("cleared", 20)]


def test_a_hand_may_let_go_and_take_in_one_frame(declared: Pipeline) -> None:
    both = [(16, LEFT, CONTACT), (16, LEFT, RELEASE)]
    rows, alerts = played(declared, script(30, (8, LEFT, CONTACT), *both, (24, LEFT, RELEASE)))
    assert rows["left_since"].to_list() == [None] * 8 + [8] * 8 + [16] * 9 + [None] * 5
    assert rows.row(16, named=True)["left_event"] == "contact"
    assert edges(alerts) == [("left", "raised", 8, 8), ("left", "cleared", 24, 16)]
    rows, alerts = played(declared, script(30, *both))  # the hand held nothing
    assert touched(rows) == [Touch(LEFT, 16, None)] and edges(alerts) == [("left", "raised", 16, 16)]


def test_hands_hold_each_their_own(declared: Pipeline) -> None:
    events = [(6, LEFT, CONTACT), (10, RIGHT, CONTACT), (15, LEFT, RELEASE), (21, RIGHT, RELEASE)]
    rows, alerts = played(declared, script(30, *events))
    assert touched(rows) == [Touch(LEFT, 6, 15), Touch(RIGHT, 10, 21)]
    assert edges(alerts) == [
        ("left", "raised", 6, 6), ("right", "raised", 10, 10), ("left", "cleared", 15, 6), ("right", "cleared", 21, 10)
    ]  # fmt: skip


@pytest.mark.parametrize(("lapse", "holds"), [(500, True), (501, False)])
def test_a_lapse_ends_what_is_held(declared: Pipeline, lapse: int, holds: bool) -> None:
    times = [n * RATE_MS + (lapse - RATE_MS if n >= 15 else 0) for n in range(30)]
    rows, alerts = played(declared, script(30, (8, LEFT, CONTACT), (24, LEFT, RELEASE)), times=times)
    assert rows["left_since"].to_list() == [None] * 8 + [8] * (17 if holds else 7) + [None] * (5 if holds else 15)
    assert edges(alerts)[1] == (("left", "cleared", 24, 8) if holds else ("left", "cleared", 15, None))


@pytest.mark.parametrize("seed", range(4))
def test_touches_are_those_of_a_whole_clips_events(declared: Pipeline, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    said = torch.rand(150, 2, 2, 2, generator=generator)
    said[:, 1] = 6 * said[:, 1] - 3
    rows, _ = played(declared, said)
    c = CONFIG.decode
    decoded = decode(*said.unbind(1), radius=c.radius)
    expected = paired(spots(decoded, apart=c.apart), c.thresholds)
    assert touched(rows) == expected and len(expected) > 8
    assert np.array_equal(rows.select(SCORES).to_numpy(), decoded.flatten(1).numpy())


def test_missing_frames_are_counted_and_repeated_or_late_ones_are_not_judged(model: Model, declared: Pipeline) -> None:
    shots = taken("a", 30)
    order = [n for n in range(30) if n not in (10, 11)]
    swapped = [*order[:4], 3, 5, 4, *order[6:]]  # 3 is repeated, 4 comes after 5
    machine = Machine(declared)
    outcome = step(machine, [shots[n] for n in swapped])
    rows = [*outcome.results.to_pylist(), *machine.step(empty(declared.schema), 10**9).results.to_pylist()]
    assert [row["sequence"] for row in rows] == [n for n in order if n != 4]
    assert {row["sequence"]: row["missed"] for row in rows if row["missed"]} == {5: 1, 12: 2}
    assert outcome.counts["duplicates"] == 1 and [(r.offset, r.error) for r in outcome.refused] == [(6, "TooLate")]
    waits = pipeline({"late": "200ms"}, model)
    patient, _ = replay(waits, table(waits, [shots[n] for n in swapped]), after=OVER)
    same(patient, replay(declared, table(declared, [shots[n] for n in order]), after=OVER)[0])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"roots": "/frames"}, "pipelines.touch.roots: expected a valid list, got '/frames'"),
        ({"roots": [1], "name": "desk"}, "pipelines.desk.roots.0: expected a valid string, got 1"),
        ({"hands": "/nowhere.task"}, "pipelines.touch: hands: expected "),
        ({"late": "soon"}, "pipelines.touch.late: expected a whole number, or a duration such as 200ms, got 'soon'"),
        (
            {"hand": "none"},
            "pipelines.touch: expected one of name, topic, late, roots, hands, contact, release, got hand",
        ),
        ({"contact": 0}, "pipelines.touch.contact: expected greater than 0, got 0; correct tocsin.toml"),
        ({"release": 1.5}, "pipelines.touch.release: expected less than or equal to 1, got 1.5; correct tocsin.toml"),
        ({"contact": "low"}, "pipelines.touch.contact: expected a valid number, got 'low'; correct tocsin.toml"),
    ],
)
def test_a_wrong_option_is_one_line(model: Model, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pipeline(options, model)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_it_says_what_it_lacks(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model, got none; set model = 'touch@champion'"):
        pipeline({}, None)
    with pytest.raises(ModelError, match="train it again with `tocsin train touch`"):
        pipeline({}, replace(model, folder=tmp_path))
