"""Charts of an asset and of a query, as ECharts options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from tocsin.pipelines.runtime.declare.curves import Curve
from tocsin.pipelines.ui.data.assets import IDENTITY
from tocsin.pipelines.ui.data.board import AlertState

GRID = {"left": 60, "right": 20, "top": 30, "bottom": 40}
INFERNO = ["#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4"]
DIVERGING = ["#b2182b", "#f4a582", "#f7f7f7", "#92c5de", "#2166ac"]
"""From what shortens a life to what prolongs it."""


def curve(
    rows: pl.DataFrame, drawn: Curve, *, alerts: Sequence[AlertState] = (), x: str = "event_time", kind: str = "line"
) -> dict[str, Any]:
    """A column over another, with a vertical line where an alert was raised.

    Args:
        x: a time, a number or a text.
        kind: "line", "bar" or "scatter".
    """
    name, along = drawn.name, rows.schema[x]
    is_time = along.is_temporal()
    values = [_plain(value) for value in rows[name].cast(pl.Float64).to_list()]
    places = [_place(value) for value in rows[x].to_list()]
    series: dict[str, Any] = {
        "type": kind,
        "name": name,
        "data": [[place, value] for place, value in zip(places, values, strict=True)],
        "showSymbol": len(values) < 40,
        "symbolSize": 5,
        "lineStyle": {"width": 1.5, "color": "#3d86d6"},
        "itemStyle": {"color": "#3d86d6"},
        "connectNulls": False,
    }
    if rows.schema[name] == pl.Boolean:
        series["step"] = "end"
    if marks := [{"xAxis": _place(state.alert.time), "name": state.alert.rule} for state in alerts]:
        series["markLine"] = {
            "symbol": "none",
            "data": marks,
            "lineStyle": {"color": "#d05050", "type": "dashed"},
            "label": {"formatter": "{b}", "fontSize": 10},
        }
    return {
        "animation": False,
        "grid": GRID,
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "time" if is_time else "value" if along.is_numeric() else "category"},
        "yAxis": {
            "type": "value",
            "name": drawn.label,
            "scale": rows.schema[name] != pl.Boolean,
            "splitLine": {"lineStyle": {"color": "rgba(128, 128, 128, 0.35)"}},
        },
        "useUTC": True,
        "aria": {"enabled": True},
        "series": [series],
    }


def attention_map(times: Sequence[datetime], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Attention: a column for each row of the table, from the oldest reading of its window below to the newest at the top."""
    height = max(map(len, values), default=0)
    return _heat_map(times, values, [str(n - height + 1) for n in range(height)], name="reading", colours=INFERNO)


def explanation_map(rows: pl.DataFrame) -> dict[str, Any]:
    """An explanation: a column for each row of the table, a line for each sensor.

    Args:
        rows: `event_time`, and a column for each sensor, see `Explanation.by_sensor`.
    """
    sensors = [name for name in rows.columns if name != "event_time"]
    return _heat_map(
        rows["event_time"].to_list(), rows.select(sensors).rows(), sensors, name="sensor", colours=DIVERGING
    )


def _heat_map(
    times: Sequence[datetime],
    values: Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    name: str,
    colours: Sequence[str],
) -> dict[str, Any]:
    """A column for each time; the first label is below. With negative values, 0 is in the middle of the colours."""
    cells = [[x, y, round(v, 4)] for x, column in enumerate(values) for y, v in enumerate(column) if not math.isnan(v)]
    most = max((abs(cell[2]) for cell in cells), default=1)
    return {
        "animation": False,
        "grid": GRID | {"right": 70},
        "tooltip": {},
        "xAxis": {"type": "category", "data": [f"{time:%m-%d %H:%M:%S}" for time in times]},
        "yAxis": {"type": "category", "data": [*labels], "name": name},
        "visualMap": {
            "min": -most if any(cell[2] < 0 for cell in cells) else 0,
            "max": most,
            "right": 0,
            "top": "middle",
            "itemHeight": 90,
            "inRange": {"color": [*colours]},
        },
        "useUTC": True,
        "aria": {"enabled": True},
        "series": [{"type": "heatmap", "data": cells, "name": name}],
    }


def chartable(frame: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Columns of an answer for the x axis, and for the y axis; those that a person wants first are first."""
    schema: Mapping[str, pl.DataType] = frame.schema
    ys = [name for name, dtype in schema.items() if dtype.is_numeric() or dtype == pl.Boolean]
    xs = [name for name, dtype in schema.items() if dtype.is_temporal() or dtype == pl.String or dtype.is_numeric()]
    ys = sorted(ys, key=lambda name: (name in IDENTITY, not schema[name].is_float()))
    return sorted(xs, key=lambda name: not schema[name].is_temporal()), ys


def _place(value: Any) -> Any:
    """A value on the x axis; times are ms since the epoch."""
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else _plain(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | None) else str(value)
