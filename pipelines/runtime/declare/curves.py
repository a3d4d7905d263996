"""The result columns that people watch: their units, axes and explanations, and the levels at which rules raise alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from tocsin.pipelines.runtime.declare.pipeline import AlertRule

STEP = 1e-3
"""How far from a constant a condition is tried, as a share of it."""


@dataclass(frozen=True)
class Curve:
    """A result column over time, as the metadata of its field declares it.

    If the table has columns with its name and `_low` and `_high`, they are the ends of an interval around it.

    Args:
        unit: of its values, such as "ppm"; "": none.
        axis: columns of one axis are drawn together; "": the column is not drawn unless a person asks for it.
    """

    name: str
    unit: str = ""
    axis: str = ""

    @classmethod
    def of(cls, name: str, metadata: Mapping[str, object]) -> Curve:
        """A column by its field's metadata."""
        return cls(name, str(metadata.get("unit", "")), str(metadata.get("axis", "")))

    @property
    def label(self) -> str:
        """The name with its unit, for an axis."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Explanation:
    """A result column of lists that say how much each sensor at each step moved the result, step by step.

    Args:
        steps, sensors: their names, as the metadata of the column's field declare them.
        unit: of the values.
    """

    name: str
    steps: tuple[str, ...]
    sensors: tuple[str, ...]
    unit: str = ""

    @classmethod
    def of(cls, name: str, metadata: Mapping[str, object]) -> Explanation | None:
        """A column by its field's metadata; None if it is not one."""
        steps, sensors = (tuple(str(metadata.get(part, "")).split(",")) for part in ("steps", "sensors"))
        return cls(name, steps, sensors, str(metadata.get("unit", ""))) if all((*steps, *sensors)) else None

    def by_sensor(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Sum over the steps: `event_time`, and a column for each sensor. Rows without it are left out."""
        size = len(self.steps) * len(self.sensors)
        known = rows.filter(pl.col(self.name).list.len() == size)
        values = np.array(known[self.name].to_list(), np.float64).reshape(-1, len(self.steps), len(self.sensors)).sum(1)
        return pl.DataFrame({"event_time": known["event_time"], **dict(zip(self.sensors, values.T, strict=True))})


def levels(rule: AlertRule) -> dict[str, list[float]]:
    """By column, the constants with which a rule's condition compares it; those alone at which the comparison changes.

    A condition may be any expression, so a rule can have levels that are not found here.
    """
    found: dict[str, list[float]] = {}
    parts = [rule.when]
    while parts:
        part = parts.pop()
        inner = part.meta.pop()
        parts += inner
        columns = [each for each in inner if each.meta.is_column()]
        constants = [each for each in inner if each.meta.is_literal()]
        if len(columns) != 1 or len(columns) + len(constants) != len(inner):
            continue
        name = columns[0].meta.output_name()
        for value in (pl.select(constant).item() for constant in constants):
            if type(value) in (int, float) and _changes(part, name, value) and value not in found.get(name, ()):
                found.setdefault(name, []).append(value)
    return {name: sorted(values) for name, values in found.items()}


def _changes(condition: pl.Expr, name: str, value: float) -> bool:
    """Whether a condition over one column changes at a value."""
    step = max(abs(value) * STEP, STEP)
    try:
        tried = pl.DataFrame({name: [value - step, value, value + step]}).select(condition).to_series()
    except PolarsError:
        return False
    return tried.dtype == pl.Boolean and tried.n_unique() == 2
