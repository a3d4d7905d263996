"""The result columns that people watch: their units, the axes they are drawn on, and the levels at which rules raise alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from tocsin.pipelines.runtime.declare.pipeline import AlertRule

STEP = 1e-3
"""How far from a constant a condition is tried, as a share of it."""


@dataclass(frozen=True)
class Curve:
    """A result column over time, as the metadata of its field declares it.

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
