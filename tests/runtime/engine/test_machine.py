"""The machine, a shard's deterministic part: what survives a restart, what it refuses, and which changes it accepts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tocsin.pipelines.runtime.declare.errors import ConfigError, StateMismatch
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, MAX_AGE, AlertRule, Batch, Commit, Pipeline, tuned
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.stages.inactivity import Inactivity
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NOW = 1_767_225_600_000
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("x", pa.float64()),
    ]
)
RESULTS = pa.schema([("x", pa.float64()), ("silent", pa.bool_())])
RULES = [
    AlertRule(name="high", severity="warning", when=pl.col("x") > 0.7, clear=pl.col("x") < 0.4, hold=2, cooldown="3s"),
    AlertRule(name="silent", severity="warning", when=pl.col("silent")),
]


def _pipeline(**changes: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "name": "p",
        "topic": "t",
        "schema": SCHEMA,
        "key": "unit",
        "event_time": "at",
        "stages": [Reorder(late="2s", wait="4s"), SlidingWindow(3, ["x"]), Inactivity("6s")],
        "results": RESULTS,
        "rules": RULES,
        "forget_after": "20s",
    }
    return Pipeline(**declared | changes)


def _batch(rows: Sequence[tuple[int, str, int | None, float]], first: int, kafka_ms: int | None) -> pa.RecordBatch:
    """Make a batch of rows (partition, unit, event time in ms, x)."""
    n = len(rows)
    made = [
        [r[0] for r in rows],
        list(range(first, first + n)),
        [0] * n,
        [kafka_ms] * n,
        [r[1] for r in rows],
        [None if r[2] is None else 1000 * r[2] for r in rows],
        [r[3] for r in rows],
    ]
    schema = pa.schema([*IDENTITY, *SCHEMA])
    return pa.RecordBatch.from_arrays([pa.array(v, f.type) for v, f in zip(made, schema, strict=True)], schema=schema)


def _stream(seed: int, steps: int) -> list[tuple[pa.RecordBatch, int]]:
    """Return steps of a changing fleet: readings out of order, repeated or late, and pauses after which keys are forgotten."""
    rng, now, first, stream = random.Random(seed), NOW, 0, []
    for _ in range(steps):
        now += rng.choice([100, 500, 1000, 1000, 7000])
        fleet = [f"u{(now - NOW) // 15_000 + k}" for k in range(5)]
        rows = sorted(
            (rng.randrange(2), rng.choice(fleet), now - rng.choice([0, 500, 1000, 2500]), rng.random())
            for _ in range(rng.choice([0, 0, 3, 12]))
        )
        stream.append((_batch(rows, first, now) if rows else empty(SCHEMA), now))
        first += len(rows)
    return stream


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_restored_after_any_step_goes_on_exactly_as_the_one_before(seed: int, tmp_path: Path) -> None:
    rng, machine = random.Random(seed), Machine(_pipeline())
    snapshots = Snapshots(Lake(str(tmp_path)), "p", 0)
    said = forgotten = restarts = 0
    other: Machine | None = None
    for n, (batch, now) in enumerate(_stream(seed, 120), 1):
        outcome = machine.step(batch, now)
        if other is not None:
            assert other.step(batch, now) == outcome
        said, forgotten = said + len(outcome.alerts), forgotten + outcome.counts["forgotten"]
        if rng.random() < 0.3:
            snapshots.write(n, machine.delta(full=snapshots.full_next), {})
            other = Machine(_pipeline())
            other.restore(Snapshots(Lake(str(tmp_path)), "p", 0).read(n).deltas)
            assert other.keys == machine.keys
            restarts += 1
    assert said > 20 and forgotten > 5 and restarts > 20


def test_the_same_steps_give_the_same_outcomes() -> None:
    one, other = Machine(_pipeline()), Machine(_pipeline())
    for batch, now in _stream(1, 50):
        assert one.step(batch, now) == other.step(batch, now)


def test_a_step_that_changed_nothing_says_so() -> None:
    machine = Machine(_pipeline())
    assert machine.step(empty(SCHEMA), NOW).changed  # the first step schedules the sweep of old keys
    assert not machine.step(empty(SCHEMA), NOW + 1).changed
    assert machine.step(_batch([(0, "a", NOW, 0.5)], 0, NOW), NOW + 2).changed
    assert not machine.step(empty(SCHEMA), NOW + 3).changed


def test_a_reading_from_the_future_is_a_dead_letter_and_makes_nobody_late() -> None:
    machine = Machine(_pipeline(max_skew="1min", stages=[Reorder(), Inactivity("1h")]))
    year_2099 = 4_070_908_800_000
    rows = [(0, "a", NOW, 0.1), (0, "a", year_2099, 0.2), (0, "a", NOW + 60_000, 0.3)]
    outcome = machine.step(_batch(rows, 0, NOW), NOW)
    assert outcome.results["offset"].to_pylist() == [0, 2]
    (refusal,) = outcome.refused
    assert (refusal.offset, refusal.error) == (1, "FromTheFuture")
    assert "at most 1min ahead" in refusal.message


@pytest.mark.parametrize(("off", "unit"), [(1000, "seconds"), (10**6, "")], ids=["seconds", "1970"])
def test_a_reading_of_an_absurd_age_is_a_dead_letter_that_guesses_the_unit(off: int, unit: str) -> None:
    machine = Machine(_pipeline(stages=[Reorder(), Inactivity("1h")]))
    rows = [(0, "a", NOW // off, 0.1), (0, "a", NOW - 20 * 365 * 86_400_000, 0.2), (0, "a", NOW, 0.3)]
    outcome = machine.step(_batch(rows, 0, NOW), NOW)
    assert outcome.results["offset"].to_pylist() == [1, 2]  # 20 years of history may be intended
    (refusal,) = outcome.refused
    assert (refusal.offset, refusal.stage, refusal.error) == (0, "event time", "TooOld")
    assert refusal.message.startswith(f"expected at at most {MAX_AGE} behind Kafka's timestamp, got ")
    assert refusal.message.endswith(f" ms; {unit}?" if unit else " ms")


def test_the_age_of_a_reading_is_bounded_by_a_setting_and_counts_from_kafkas_clock_not_from_when_it_is_read() -> None:
    rows = [(0, "a", NOW - 8 * 86_400_000, 0.1), (0, "a", NOW - 7 * 86_400_000, 0.2)]
    machine = Machine(tuned(_pipeline(stages=[Inactivity("1h")]), {"max_age": "7d"}))
    outcome = machine.step(_batch(rows, 0, NOW), NOW, wall=NOW + 30 * 86_400_000)
    assert [r.offset for r in outcome.refused] == [0] and "at most 7d behind" in outcome.refused[0].message
    old = Machine(_pipeline(stages=[Inactivity("1h")], max_age="30000d"))
    assert not old.step(_batch([(0, "a", 0, 0.1)], 0, NOW), NOW, wall=NOW).refused


@pytest.mark.parametrize("event_time", ["at", None])
def test_a_kafka_timestamp_in_seconds_is_held_against_the_machines_clock(event_time: str | None) -> None:
    seconds = NOW // 1000
    batch = _batch([(0, "a", seconds, 0.1)], 0, seconds)
    machine = Machine(_pipeline(stages=[Inactivity("1h")], event_time=event_time))
    (refusal,) = machine.step(batch, seconds, wall=NOW).refused
    assert refusal.error == "TooOld"
    assert refusal.message.startswith("expected Kafka's timestamp at most 10000 days behind this machine's clock")
    assert refusal.message.endswith("; seconds?")
    history = Machine(_pipeline(stages=[Inactivity("1h")], event_time=event_time, max_age="30000d"))
    assert not history.step(batch, seconds, wall=NOW).refused
    offline = Machine(_pipeline(stages=[Inactivity("1h")], event_time=event_time))
    assert not offline.step(batch, seconds).refused  # a replayed table may be of any time


def test_a_reading_without_an_event_time_is_a_dead_letter() -> None:
    outcome = Machine(_pipeline()).step(_batch([(0, "a", None, 0.1), (0, "a", NOW, 0.2)], 0, None), NOW)
    assert [(r.offset, r.error, r.message) for r in outcome.refused] == [(0, "NoValue", "expected at, got null")]
    untimed = Machine(_pipeline(event_time=None)).step(_batch([(0, "a", NOW, 0.1)], 0, None), NOW)
    assert [(r.offset, r.message) for r in untimed.refused] == [(0, "expected _timestamp, got null")]


def test_a_key_too_long_for_an_alert_is_a_dead_letter() -> None:
    outcome = Machine(_pipeline(stages=[Reorder(), Inactivity("1h")])).step(
        _batch([(0, "\u00e9" * 512, NOW, 0.1), (0, "\u00e9" * 513, NOW, 0.2)], 0, NOW), NOW
    )
    assert outcome.results["offset"].to_pylist() == [0]
    (refusal,) = outcome.refused
    assert (refusal.offset, refusal.stage, refusal.error) == (1, "key", "BadValue")
    assert refusal.message == "expected unit of at most 1024 bytes, got 1026"


@pytest.mark.parametrize("late", [100, 101])
def test_many_late_rows_of_one_message_are_one_dead_letter(late: int) -> None:
    rows = [(0, "a", NOW + 1000, 0.1), *((0, "a", NOW - n, 0.1) for n in range(late)), (0, "a", NOW, 0.2)]
    batch = _batch(rows, 7, NOW)
    batch = batch.set_column(1, "_offset", pa.array([7, *[8] * late, 9]))
    batch = batch.set_column(2, "_row", pa.array([0, *range(late), 0], pa.int32()))
    outcome = Machine(_pipeline(stages=[Reorder(), Inactivity("1h")])).step(batch, NOW)
    assert outcome.results["offset"].to_pylist() == [7]
    refused = sorted((r.offset, r.row is None) for r in outcome.refused)
    assert refused == ([(8, False)] * 100 if late == 100 else [(8, True)]) + [(9, False)]
    if late > 100:
        (whole,) = [r for r in outcome.refused if r.offset == 8]
        assert whole.message.startswith("101 rows; the first, row 0: expected at after ")


def test_a_slice_of_a_larger_poll_is_judged_as_a_batch_of_its_own() -> None:
    rows = [(0, f"u{n % 3}", NOW + 3000 * n, n / 10) for n in range(12)]
    whole = _batch(rows, 0, NOW + 60_000)
    sliced, copied = Machine(_pipeline()), Machine(_pipeline())
    for start, end in ((0, 5), (5, 12)):
        part = _batch(rows[start:end], start, NOW + 60_000)
        assert sliced.step(whole.slice(start, end - start), NOW) == copied.step(part, NOW)


def test_a_key_on_two_partitions_is_counted() -> None:
    machine = Machine(_pipeline())
    machine.step(_batch([(0, "a", NOW, 0.1), (1, "a", NOW, 0.1), (1, "b", NOW, 0.1)], 0, NOW), NOW)
    assert (machine.keys, machine.key_clashes) == (3, 1)


def test_rules_and_versions_may_change_and_alerts_go_on() -> None:
    pipeline = _pipeline(stages=[Inactivity("1h")])
    machine = Machine(pipeline)
    ring = machine.step(_batch([(0, "a", NOW + n, 0.9) for n in range(3)], 0, NOW), NOW)
    assert [a.transition for a in ring.alerts] == ["raised"]
    lower = replace(RULES[0], clear=pl.col("x") < 0.8)
    machine.adopt(replace(pipeline, rules=[lower, RULES[1]], model_version="rul/2"))
    after = machine.step(_batch([(0, "a", NOW + 9, 0.65)], 3, NOW), NOW)
    assert [(a.transition, a.data["model_version"]) for a in after.alerts] == [("cleared", "rul/2")]


def test_rules_come_and_go_and_what_stays_goes_on(tmp_path: Path) -> None:
    pipeline = _pipeline(stages=[Inactivity("1h")])
    machine, other = Machine(pipeline), AlertRule(name="other", severity="warning", when=pl.col("x") > 0.85)
    machine.step(_batch([(0, "a", NOW + n, 0.9) for n in range(3)], 0, NOW), NOW)
    snapshots = Snapshots(Lake(str(tmp_path)), "p", 0)
    snapshots.write(1, machine.delta(full=True), {})
    changed = replace(pipeline, rules=[RULES[0], other])
    assert machine.adopt(changed)
    restored = Machine(changed)
    restored.restore(snapshots.read(1).deltas)
    for one in (machine, restored):
        after = one.step(_batch([(0, "a", NOW + 9, 0.9), (0, "a", NOW + 10, 0.1)], 3, NOW), NOW)
        assert [(a.rule, a.transition) for a in after.alerts] == [
            ("other", "raised"), (RULES[0].name, "cleared"), ("other", "cleared"),
        ]  # fmt: skip
    assert not machine.adopt(replace(changed, rules=[replace(other, severity="critical"), RULES[0]]))


def test_a_silenced_asset_rings_at_its_first_row_after_the_silence_if_the_alert_still_holds() -> None:
    machine = Machine(_pipeline(stages=[Inactivity("1h")], silences={"a": NOW + 100}))
    alerts = [
        [(a.key, a.rule, a.transition) for a in machine.step(_batch(rows, 10 * n, NOW), NOW, wall=wall).alerts]
        for n, (wall, rows) in enumerate(
            [
                (NOW, [(0, k, NOW + i, 0.9) for k in ("a", "b") for i in range(3)]),
                (NOW + 99, [(0, "a", NOW + 4, 0.9)]),
                (NOW + 100, [(0, "a", NOW + 5, 0.9)]),
            ]
        )
    ]
    rule = RULES[0].name
    assert alerts == [[("b", rule, "raised")], [], [("a", rule, "raised")]]


def test_result_columns_come_and_go_while_it_runs() -> None:
    machine = Machine(_pipeline())
    machine.adopt(_pipeline(results=pa.schema([("unit", pa.string()), ("x", pa.float64())]), rules=RULES[:1]))
    machine.adopt(_pipeline())
    assert machine.pipeline.results == RESULTS


def _old_cut() -> StateDelta:
    """Return the state of a machine with a waiting row and a raised alert."""
    machine = Machine(_pipeline())
    machine.step(_batch([(0, "a", NOW + 4000 * i, 0.9) for i in range(6)], 0, NOW + 20_000), NOW)
    return machine.delta(full=True)


def test_a_migrated_state_goes_on_and_a_cell_that_is_new_starts_at_its_fill() -> None:
    old = _old_cut()
    wider = _pipeline(
        state_version=2, stages=[Reorder(late="2s", wait="4s"), SlidingWindow(3, ["x", "x"]), Inactivity("6s")]
    )
    ring = old.cells["1-Last/rows|data"].repeat(1, 1, 2)
    cells = {n: t for n, t in old.cells.items() if not n.startswith("2-Silence/")} | {"1-Last/rows|data": ring}
    machine = Machine(wider)
    machine.migrate(replace(old, cells=cells))
    new = machine.delta(full=True)
    assert new.cells["1-Last/rows|data"].equal(ring) and new.cells["2-Silence/told|"].tolist() == [True]
    assert new.cells["0-Sorted/newest|"].equal(old.cells["0-Sorted/newest|"])
    assert new.cells["rules/high/firing|"].tolist() == [True]
    assert new.waiting["0-Sorted/waiting"].table == old.waiting["0-Sorted/waiting"].table


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: {"cells": c.cells | {"1-Last/raws|data": c.cells["1-Last/rows|data"]}}, "1-Last/raws"),
        (
            lambda c: {"cells": c.cells | {"1-Last/rows|data": c.cells["1-Last/rows|data"][:, 1:]}},
            r"rows\|data \(1, 1\)",
        ),
        (lambda c: {"cells": c.cells | {"1-Last/rows|data": c.cells["1-Last/rows|data"].double()}}, "float64"),
        (lambda c: {"cells": c.cells | {"2-Silence/told|": c.cells["2-Silence/told|"][:0]}}, "got 2-Silence/told"),
        (lambda c: {"waiting": {"1-Last/rows": c.waiting["0-Sorted/waiting"]}}, "got 1-Last/rows;"),
        (lambda c: {"keys": c.keys.select(["slot", "partition", "key"])}, "got keys"),
        (lambda c: {"full": False}, "got keys"),
    ],
)
def test_a_migration_that_does_not_fit_is_refused_in_one_line(change: Any, says: str) -> None:
    old, machine = _old_cut(), Machine(_pipeline())
    with pytest.raises(StateMismatch, match=f"expected migrate to return state .*{says}") as refused:
        machine.migrate(replace(old, **change(old)))
    assert "\n" not in str(refused.value)
    with pytest.raises(StateMismatch, match="got 0-Sorted/waiting y;"):
        Machine(_pipeline(schema=pa.schema([*SCHEMA, ("y", pa.float64())]))).migrate(old)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"stages": [Reorder(late="2s"), SlidingWindow(4, ["x"]), Inactivity("6s")]},
            r"expected state .*rows=3.* raise state_version|rows=2.*rows=3",
        ),
        ({"state_version": 2}, r"expected state_version 1 while it runs, got 2; stop it and start it again"),
        (
            {"results": pa.schema([("x", pa.float32()), ("silent", pa.bool_())])},
            "expected results x:double silent:bool, got x:float silent:bool; give the pipeline another name",
        ),
        ({"schema": pa.schema([*SCHEMA, ("y", pa.float64())])}, "y:double"),
    ],
)
def test_what_state_or_table_would_not_fit_is_refused_before_anything_changed(
    change: dict[str, Any], says: str
) -> None:
    machine = Machine(_pipeline())
    other = _pipeline(**change)
    with pytest.raises(StateMismatch, match=says) as refused:
        machine.check(other)
    assert "\n" not in str(refused.value)
    with pytest.raises(StateMismatch):
        machine.adopt(other)
    assert machine.pipeline.results == RESULTS
    machine.step(_batch([(0, "a", NOW, 0.1)], 0, NOW), NOW)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "a/b"}, "pipeline a/b: expected a name of letters"),
        ({"key": "engine"}, r"expected key to be a field that is not nullable \(\['unit'\]\), got 'engine'"),
        ({"key": "x"}, r"expected key to be a field that is not nullable \(\['unit'\]\), got 'x'"),
        ({"event_time": "when"}, r"expected event_time to be a timestamp field \(\['at'\]\), got 'when'"),
        ({"event_time": "x"}, r"expected event_time to be a timestamp field \(\['at'\]\), got 'x'"),
        ({"schema": pa.schema([*SCHEMA, ("_row", pa.int32())])}, "must not start with an underscore"),
        ({"results": pa.schema([("offset", pa.int64())])}, r"the runtime does not write itself, got \['offset'\]"),
        ({"results": pa.schema([("severity", pa.string())])}, r"the runtime does not write itself, got \['severity'\]"),
        ({"forget_after": "a month"}, "pipeline p: forget_after: expected a duration such as .*, got 'a month'"),
        ({"max_skew": 5}, "pipeline p: max_skew: expected a duration such as .*, got 5"),
        ({"commit": Commit(size="64 potatoes")}, "pipeline p: size: expected a size such as .*, got '64 potatoes'"),
        ({"commit": Commit(every="5")}, "pipeline p: every: expected a duration"),
        ({"batch": Batch(rows=0)}, "expected rows per step to be at least 1, got 0"),
        ({"batch": Batch(rows="512")}, "expected rows per step to be at least 1, got '512'"),  # type: ignore[arg-type]
        ({"batch": Batch(wait="soon")}, "pipeline p: wait: expected a duration"),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        _pipeline(**change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("restart", [False, True])
def test_a_key_that_a_person_has_it_forget_begins_anew_and_what_waits_of_it_leaves_no_trace(
    restart: bool, tmp_path: Path
) -> None:
    p = _pipeline(stages=[Reorder(by="x", late=2), SlidingWindow(2, ["x"]), Inactivity("1h")], rules=[RULES[1]])
    machine = Machine(p)
    glitch = [(0, "a", NOW, x) for x in (1.0, 2.0, 3.0, 4e9)] + [(0, "b", NOW, x) for x in (1.0, 2.0, 3.0, 4.0)]
    machine.step(_batch(glitch, 0, NOW), NOW, wall=NOW)
    stuck = machine.step(_batch([(0, "a", NOW, 4.0)], 8, NOW), NOW, wall=NOW)
    assert [r.error for r in stuck.refused] == ["TooLate"]
    changed = replace(p, forgets={"a": 1})
    machine.adopt(changed)
    if restart:
        snapshots = Snapshots(Lake(str(tmp_path)), "p", 0)
        snapshots.write(1, machine.delta(full=True), {})
        machine = Machine(changed)
        machine.restore(snapshots.read(1).deltas)
    rows = [(0, unit, NOW, x) for x in (5.0, 6.0, 7.0, 8.0, 9.0) for unit in ("a", "b")]
    outcome = machine.step(_batch(rows, 9, NOW), NOW, wall=NOW)
    assert not outcome.refused and outcome.changed and outcome.counts["forgotten"] == 1
    xs = [(row["key"], row["x"]) for row in outcome.results.to_pylist()]
    assert [x for key, x in xs if key == "a"] == [6.0, 7.0]  # 5 only starts a window; 8 and 9 wait
    assert [x for key, x in xs if key == "b"] == [3.0, 4.0, 5.0, 6.0, 7.0]
    machine.adopt(replace(changed, silences={"b": NOW}))  # the same order is not applied twice
    assert not machine.step(empty(SCHEMA), NOW, wall=NOW).counts["forgotten"]
