"""A dashboard as this project writes it, and the JSON that Grafana reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS, HEIGHT = 24, 8
SCHEMA = 39


@dataclass(frozen=True)
class Panel:
    """A panel.

    Args:
        queries: legend -> PromQL. `$pipeline` stands for the chosen pipelines, as a regular expression.
        unit: Grafana's name of it, such as "s", "ops", "percentunit".
        kind: a curve over time, or the newest value alone.
        width: columns out of 24.
        note: what it shows, and when to worry.
        limit: from here on the value is red.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    note: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels, each row with a title."""

    title: str
    note: str
    rows: Sequence[tuple[str, Sequence[Panel]]]


def dashboard(board: Board) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON."""
    return {
        "uid": f"tocsin-{board.title.lower()}",
        "title": f"Tocsin: {board.title}",
        "description": board.note,
        "tags": ["tocsin"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _pipelines()]},
        "links": [
            {
                "type": "dashboards",
                "title": "Tocsin",
                "tags": ["tocsin"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "panels": _panels(board.rows),
    }


def _panels(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[dict[str, Any]]:
    placed, y = list[dict[str, Any]](), 0
    for title, panels in rows:
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": title, "gridPos": _place(0, y, COLUMNS, 1), "panels": []}
        )
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            placed.append({"id": len(placed) + 1, **_panel(panel), "gridPos": _place(x, y, panel.width, HEIGHT)})
            x += panel.width
        y += HEIGHT
    return placed


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        style = "line" if panel.limit is not None else "off"
        defaults["custom"] = {"fillOpacity": 8, "showPoints": "never", "thresholdsStyle": {"mode": style}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": query, "legendFormat": legend, "range": True}
            for n, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        if panel.kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _pipelines() -> dict[str, Any]:
    query = "label_values(ray_tocsin_shards, pipeline)"
    return {
        "name": "pipeline",
        "label": "Pipeline",
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "pipelines"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
