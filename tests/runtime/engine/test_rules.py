"""Alert rules: hysteresis, hold and cool-down of each key, however its rows are split into steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import AlertRule
from tocsin.pipelines.runtime.declare.rows import Groups
from tocsin.pipelines.runtime.declare.state import State
from tocsin.pipelines.runtime.engine.rules import RuleSet

COLUMNS = pa.schema({"unit": pa.string(), "rul": pa.float64(), "on": pa.bool_(), "off": pa.bool_()})
Edges = list[tuple[int, str, str]]


class Watch:
    """A rule set with its state. Row numbers continue over the steps."""

    def __init__(self, *rules: AlertRule) -> None:
        self.book = RuleSet(rules, COLUMNS)
        self.state = State({f"rules/{n}": cell for n, cell in self.book.state.items()}, pa.int64())
        self.rows = 0

    def step(self, keys: Sequence[int], times: Sequence[int], **columns: Sequence[Any]) -> Edges:
        slots = self.state.slots(np.zeros(len(keys), np.int32), pa.array(keys, pa.int64()))
        frame = pl.DataFrame(
            columns, schema={n: t for n, t in pl.DataFrame(COLUMNS.empty_table()).schema.items() if n in columns}
        )
        self.state.delta(full=False)  # from here on only the rules' own writes are dirty
        edges = self.book.step(frame, Groups.of(slots), np.array(times, np.int64), self.state.of("rules"))  # type: ignore[arg-type]
        self.rows += len(keys)
        return [(self.rows - len(keys) + e.row, e.rule.name, e.transition) for e in edges]

    def rul(self, *values: float | None, times: Sequence[int] | None = None) -> Edges:
        """Run a step of one key with these values."""
        return self.step([1] * len(values), times or range(self.rows, self.rows + len(values)), rul=values)


LOW = pl.col("rul") < 30


def test_an_alert_is_raised_once_and_cleared_once() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW))
    assert watch.rul(50, 29, 28, 31, 32, 29) == [(1, "low", "raised"), (3, "low", "cleared"), (5, "low", "raised")]
    assert watch.rul(28) == []
    assert watch.rul(31) == [(7, "low", "cleared")]


def test_between_its_two_levels_an_alert_stays_as_it_is() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, clear=pl.col("rul") > 40))
    assert watch.rul(35, 29, 35, 29, 35) == [(1, "low", "raised")]
    assert watch.rul(41) == [(5, "low", "cleared")]
    assert watch.rul(35, 29) == [(7, "low", "raised")]


def test_a_row_that_is_both_rings_and_does_not_clear() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, clear=pl.col("rul") < 40))
    assert watch.rul(29, 28, 35) == [(0, "low", "raised"), (2, "low", "cleared")]


def test_a_missing_value_is_false_so_it_ends_an_alert_without_a_clear_level_and_keeps_one_with_it() -> None:
    plain, levels = (
        AlertRule(name="plain", severity="warning", when=LOW),
        AlertRule(name="levels", severity="warning", when=LOW, clear=pl.col("rul") > 40),
    )
    assert Watch(plain, levels).rul(None, 29, None) == [
        (1, "plain", "raised"),
        (1, "levels", "raised"),
        (2, "plain", "cleared"),
    ]


def test_hold_counts_rows_without_a_gap_over_steps() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, hold=3))
    assert watch.rul(29, 29, 31, 29, 29) == []
    assert watch.rul(31) == []
    assert watch.rul(29, 29) == []
    assert watch.rul(29) == [(8, "low", "raised")]


def test_within_its_cool_down_an_alert_does_not_ring_and_a_suppressed_one_has_no_clear() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, cooldown="10ms"))
    assert watch.rul(29, 31, 29, 31, 29, times=[0, 1, 5, 6, 11]) == [
        (0, "low", "raised"),
        (1, "low", "cleared"),
        (4, "low", "raised"),
    ]


def test_a_condition_that_outlasts_the_cool_down_rings_at_its_end() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, cooldown="10ms"))
    assert watch.rul(29, 31, 29, times=[0, 1, 8]) == [(0, "low", "raised"), (1, "low", "cleared")]
    assert watch.rul(29, 29, 29, times=[9, 10, 11]) == [(4, "low", "raised")]


def test_keys_and_rules_do_not_touch_each_other() -> None:
    watch = Watch(
        AlertRule(name="low", severity="warning", when=LOW),
        AlertRule(name="critical", severity="critical", when=pl.col("rul") < 10),
    )
    edges = watch.step([1, 2, 1, 3, 2], [0] * 5, rul=[29, 50, 9, 5, 31])
    assert edges == [(0, "low", "raised"), (2, "critical", "raised"), (3, "low", "raised"), (3, "critical", "raised")]
    assert watch.step([1, 2], [1, 1], rul=[50, 29]) == [
        (5, "low", "cleared"),
        (5, "critical", "cleared"),
        (6, "low", "raised"),
    ]


def test_only_keys_whose_alert_state_changes_are_written() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, hold=2))

    def written(*values: float) -> int:
        watch.step(range(len(values)), [0] * len(values), rul=values)
        return watch.state.delta(full=False).keys.num_rows

    assert written(50, 50, 50) == 0
    assert written(50, 29, 50) == 1  # a run begins
    assert written(50, 29, 50) == 1  # raised
    assert written(50, 29, 50) == 0  # still firing
    assert written(29, 50, 50) == 2


def test_a_step_without_rows_rings_nothing() -> None:
    watch = Watch(AlertRule(name="low", severity="warning", when=LOW, cooldown="1s"))
    watch.rul(29)
    assert watch.rul() == []


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([AlertRule(name="a", severity="warning", when=pl.col("rull") < 3)], r'alert rule a: .*when.*"rull"'),
        ([AlertRule(name="a", severity="warning", when=LOW, clear=pl.col("x") > 3)], r'alert rule a: .*clear.*"x"'),
        ([AlertRule(name="a", severity="warning", when=pl.col("unit") < 3)], "alert rule a: .*when.*compar"),
        (
            [AlertRule(name="a", severity="warning", when=pl.col("rul") - 30)],
            "alert rule a: .*when to return one boolean per row, got rul Float64",
        ),
        (
            [AlertRule(name="a", severity="warning", when=pl.col("on", "off"))],
            "alert rule a: .*got on Boolean, off Boolean",
        ),
        (
            [AlertRule(name="a", severity="warning", when=pl.col("rul").min() < 30)],
            "alert rule a: .*got one for all rows of a step",
        ),
        (
            [AlertRule(name="a", severity="warning", when=LOW, data=["rul", "cycle"])],
            r"alert rule a: expected data among .*'rul'.*, got \['cycle'\]",
        ),
        (
            [AlertRule(name="a", severity="warning", when=LOW), AlertRule(name="a", severity="critical", when=LOW)],
            r"alert rules: .*\['a'\]",
        ),
    ],
)
def test_a_wrong_rule_is_refused_in_one_line(rules: list[AlertRule], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        RuleSet(rules, COLUMNS)
    assert "\n" not in str(refused.value)


class Oracle:
    """Evaluates one rule row by row."""

    def __init__(self, hold: int, cooldown: int, has_clear: bool) -> None:
        self.hold, self.cooldown, self.has_clear = hold, cooldown, has_clear
        self.keys: dict[int, tuple[bool, int, int | None]] = {}

    def row(self, key: int, time: int, on: bool | None, off: bool | None) -> str | None:
        firing, run, rung = self.keys.get(key, (False, 0, None))
        run = run + 1 if on else 0
        clear = not on and (bool(off) if self.has_clear else True)
        cool = not self.cooldown or rung is None or time - rung >= self.cooldown
        transition = None
        if firing and clear:
            firing, transition = False, "cleared"
        elif not firing and run >= self.hold and cool:
            firing, rung, transition = True, time, "raised"
        self.keys[key] = firing, run, rung
        return transition


Row = tuple[int, int, bool | None, bool | None]
MAYBE = st.sampled_from([True, True, False, False, None])
SETTINGS = st.tuples(
    st.integers(1, 3), st.sampled_from([0, 1, 5, 20]), st.booleans()
)  # hold, cool-down in ms, has clear
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), MAYBE, MAYBE), max_size=60)


def agree(rules: Sequence[tuple[int, int, bool]], rows: Sequence[Row], splits: Iterable[int]) -> Edges:
    """Check the rule set against the oracle. Returns the edges."""
    made = [
        AlertRule(
            name=f"{i}",
            severity="warning",
            when=pl.col("on"),
            clear=pl.col("off") if has_clear else None,
            hold=hold,
            cooldown=f"{cooldown}ms",
        )
        for i, (hold, cooldown, has_clear) in enumerate(rules)
    ]
    oracles = [Oracle(*rule) for rule in rules]
    expected = [
        (i, f"{j}", t) for i, row in enumerate(rows) for j, oracle in enumerate(oracles) if (t := oracle.row(*row))
    ]
    watch = Watch(*made)
    bounds = [0, *sorted(c for c in splits if c < len(rows)), len(rows)]
    got: Edges = []
    for start, end in pairwise(bounds):
        key, time, on, off = zip(*rows[start:end], strict=True) if end > start else [()] * 4
        got += watch.step(key, time, on=on, off=off)
    assert got == expected
    return got


@settings(max_examples=300, deadline=None)
@given(st.lists(SETTINGS, min_size=1, max_size=3), ROWS, st.sets(st.integers(1, 59), max_size=30), st.booleans())
def test_any_split_into_steps_gives_what_a_loop_over_rows_gives(
    rules: list[tuple[int, int, bool]], rows: list[Row], splits: set[int], ascending: bool
) -> None:
    if ascending:
        times = np.cumsum([time for _, time, _, _ in rows]).tolist()
        rows = [(key, time, on, off) for (key, _, on, off), time in zip(rows, times, strict=True)]
    else:
        rows = [(key, 9 * time, on, off) for key, time, on, off in rows]
    agree(rules, rows, splits)


@pytest.mark.parametrize("keys", [1, 70, 5000])
@pytest.mark.parametrize("step", [617, 5000])
def test_large_steps_give_what_a_loop_over_rows_gives(keys: int, step: int) -> None:
    draw, n = np.random.default_rng(keys), 5000
    key = draw.integers(keys, size=n)
    times = np.arange(n) + draw.integers(-40, 40, n) + draw.integers(0, n, keys)[key]
    on, off = (draw.choice(np.array([True, False, None]), n, p=[0.5, 0.45, 0.05]) for _ in range(2))
    rows: list[Row] = list(zip(key.tolist(), times.tolist(), on.tolist(), off.tolist(), strict=True))
    rules = [(1, 0, True), (2, 7, False), (1, 60, True), (1, 900, False)]
    edges = agree(rules, rows, range(step, n, step))
    assert {name for _, name, _ in edges} == {"0", "1", "2", "3"}


def test_an_alert_goes_on_after_its_state_was_restored() -> None:
    rule = AlertRule(name="low", severity="warning", when=LOW, clear=pl.col("rul") > 40, cooldown="10ms")
    before, after = Watch(rule), Watch(rule)
    assert before.rul(29, times=[0]) == [(0, "low", "raised")]
    after.state.restore([before.state.delta(full=True)])
    assert after.rul(29, 41, 29, 29, times=[1, 2, 9, 10]) == [(1, "low", "cleared"), (3, "low", "raised")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hold": 0}, "alert rule high: expected hold of at least 1 row, got 0"),
        ({"cooldown": "often"}, "alert rule high: cooldown: expected a duration such as .*, got 'often'"),
    ],
)
def test_a_wrong_number_in_a_rule_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        AlertRule(**{"name": "high", "severity": "warning", "when": LOW, **change})
