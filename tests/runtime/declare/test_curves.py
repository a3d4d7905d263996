"""Curves: what a field's metadata says of a column, and the levels of rules, which are found in conditions of any form."""

from __future__ import annotations

import polars as pl
import pytest

from tocsin.pipelines.runtime.declare.curves import Curve, levels
from tocsin.pipelines.runtime.declare.pipeline import AlertRule

A, B = pl.col("a"), pl.col("b")


def test_a_curve_is_labelled_with_its_unit() -> None:
    assert Curve.of("co2", {"unit": "ppm", "axis": "air", "from": "value"}) == Curve("co2", "ppm", "air")
    assert (Curve("co2", "ppm").label, Curve.of("score", {}).label) == ("co2 [ppm]", "score")


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (A < 20, {"a": [20]}),
        (A < 20.0, {"a": [20.0]}),
        (pl.lit(20.5) >= A, {"a": [20.5]}),
        (A == -3, {"a": [-3]}),
        (A > 0, {"a": [0]}),
        (B & (A > 1200), {"a": [1200]}),
        (~((A < 1) | (B >= 2)), {"a": [1], "b": [2]}),
        (A.is_between(3, 5) | (A == 3), {"a": [3, 5]}),
        (B, {}),
        (A > B, {}),
        (A + 1 > 5, {}),
        (A.abs() > 3, {}),
        (A == "warm", {}),
        (A == True, {}),  # noqa: E712
        (A.is_null(), {}),
    ],
    ids=str,
)
def test_levels_are_constants_at_which_a_comparison_changes(condition: pl.Expr, found: dict[str, list[float]]) -> None:
    assert levels(AlertRule(name="r", severity="warning", when=condition)) == found
