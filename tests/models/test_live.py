"""Scores by late truth, against one plain loop over the rows."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from tocsin.models.live import live_verdicts
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.live import live_scores

CONFIG = RulConfig(key="unit", order="cycle", features=("s1",), cap=100)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _minute(n: float) -> datetime:
    return NOON + timedelta(minutes=n)


def _rows(rng: random.Random) -> list[dict[str, Any]]:
    """Predictions of six units, by two versions; a unit's rows are a minute apart."""
    return [
        {
            "key": str(unit),
            "event_time": _minute(cycle),
            "model_version": f"rul/{1 + (cycle > 60)}",
            "cycle": cycle,
            "rul": (rul := rng.uniform(0, 100)),
            "rul_low": rul - 20,
            "rul_high": rul + 20,
        }
        for unit in range(6)
        for cycle in range(1, 150)
    ]


def _expected(rows: list[dict[str, Any]], fails: dict[str, list[int]]) -> dict[str, dict[str, float]]:
    errors, inside, units = (
        defaultdict[str, list[float]](list),
        defaultdict[str, list[bool]](list),
        defaultdict[str, set[str]](set),
    )
    for row in rows:
        ends = [end for end in fails.get(row["key"], ()) if end >= row["cycle"]]
        if ends and (true := min(ends) - row["cycle"]) <= 120:
            true, version = min(true, 100), row["model_version"]
            errors[version].append(row["rul"] - true)
            inside[version].append(row["rul_low"] <= true <= row["rul_high"])
            units[version].add(row["key"])
    return {
        version: {
            "rows": len(found),
            "assets": len(units[version]),
            "rmse": math.sqrt(sum(e * e for e in found) / len(found)),
            "mae": sum(map(abs, found)) / len(found),
            "mean_error": sum(found) / len(found),
            "coverage": sum(inside[version]) / len(found),
            "score": 100 * sum(math.exp(e / 10 if e >= 0 else -e / 13) - 1 for e in found) / len(found),
        }
        for version, found in errors.items()
    }


@pytest.mark.parametrize("restarts", [False, True])
def test_rul_is_scored_by_the_next_failure_of_each_unit(restarts: bool) -> None:
    """Unit 3 fails twice. If counters restart, its cycle after the first failure is 1. Of units 2, 4 and 5 nothing is known."""
    rows = _rows(random.Random(0))
    labels = [("0", 149, 149), ("1", 149, 149), ("3", 70, 70), ("3", 140, 140)]  # unit, minute, cycle
    expected = _expected(rows, {"0": [149], "1": [149], "3": [70, 140]})
    if restarts:
        labels[-1] = ("3", 140, 70)
        for row in rows:
            if row["key"] == "3" and row["cycle"] > 70:
                row["cycle"] -= 70
    table = pl.LazyFrame([{"key": unit, "event_time": _minute(at), "cycle": end} for unit, at, end in reversed(labels)])
    scores = live_scores(pl.LazyFrame(rows).sort("rul"), table, CONFIG, restarts=restarts).to_dicts()
    assert {row["model_version"] for row in scores} == expected.keys()
    for row in scores:
        assert {n: v for n, v in row.items() if n != "model_version"} == pytest.approx(expected[row["model_version"]])


def test_without_labels_there_is_no_score() -> None:
    none = pl.LazyFrame(schema={"key": pl.String, "event_time": pl.Datetime("us", "UTC"), "cycle": pl.Int64})
    assert live_scores(pl.LazyFrame(_rows(random.Random(0))), none, CONFIG, restarts=False).is_empty()


def test_verdicts_are_scored_inside_labelled_spans_only() -> None:
    said = [(0, True), (1, True), (2, False), (3, False), (4, True), (9, True), (20, None)]
    rows = [{"key": "r", "event_time": _minute(at), "model_version": "o/1", "verdict": verdict} for at, verdict in said]
    rows += [{"key": "other", "event_time": _minute(0), "model_version": "o/1", "verdict": True}]
    spans = [("r", 0, 3, True), ("r", 3, 5, False), ("r", 20, 30, True)]  # nothing is known of minute 9
    table = pl.LazyFrame([{"key": k, "start": _minute(a), "end": _minute(b), "truth": t} for k, a, b, t in spans])
    (score,) = live_verdicts(pl.LazyFrame(rows), table).to_dicts()
    assert score == {
        "model_version": "o/1",
        "rows": 5,
        "assets": 1,
        "accuracy": pytest.approx(3 / 5),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "positive": pytest.approx(3 / 5),
    }


def test_a_figure_without_a_meaning_is_null() -> None:
    rows = pl.LazyFrame([{"key": "r", "event_time": NOON, "model_version": "o/1", "verdict": False}])
    spans = pl.LazyFrame([{"key": "r", "start": NOON, "end": _minute(1), "truth": False}])
    (score,) = live_verdicts(rows, spans).to_dicts()
    assert [score[name] for name in ("accuracy", "precision", "recall", "f1")] == [1.0, None, None, None]
