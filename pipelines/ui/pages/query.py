"""Query: SQL over the lake's tables, with a chart of the answer."""

from __future__ import annotations

from typing import Any

import polars as pl
from nicegui import ui

from tocsin.pipelines.runtime.declare.curves import Curve
from tocsin.pipelines.ui.charts import chartable, curve
from tocsin.pipelines.ui.components import LiveGrid, attempt, heading, number, page
from tocsin.pipelines.ui.sources import Sources

KINDS = ["line", "bar", "scatter"]


def query(sources: Sources) -> None:
    """Draw the page."""
    with page("/query", "Query", sources):
        heading("Query", 1)
        limits = f"At most {sources.queries.rows:,} rows and {sources.queries.seconds:g} s."
        ui.label(
            f"Polars SQL, read-only. Each pipeline is a table, and so is `alerts`. {limits} Ctrl+Enter runs it."
        ).classes("soft")
        sql = ui.textarea("SQL").props("outlined autogrow spellcheck=false maxlength=20000").classes("mono").mark("sql")
        sql.style("width: 100%")
        sql.disable()  # until the suggestion is there: it would replace what a person begins to type
        with ui.element("div").classes("row"):
            button = ui.button("Run", on_click=lambda: ask()).props("no-caps").mark("run")
            said = ui.label("").classes("soft").props('role="status"')
        answer = ui.element("div")
        sql.on("keydown.ctrl.enter.prevent", lambda: ask())

        async def suggest() -> None:
            names = await attempt(sources.assets.pipelines)
            if names:
                sql.value = f"SELECT * FROM {names[0]} ORDER BY event_time DESC LIMIT 100"
            sql.enable()

        async def ask() -> None:
            if not (sql.value or "").strip():
                said.set_text("Write a query first.")
                return
            button.disable()
            said.set_text("running")
            try:
                found = await attempt(sources.queries.ask, sql.value)
            finally:
                button.enable()
            if found is None:
                said.set_text("no answer")
                return
            frame, has_more = found
            said.set_text(f"{frame.height:,} rows" + (", more are left out; narrow the query" if has_more else ""))
            answer.clear()
            with answer:
                _chart(frame)
                _table(frame)

        ui.timer(0.01, suggest, once=True)


def _table(frame: pl.DataFrame) -> None:
    columns: list[dict[str, Any]] = []
    for n, (name, dtype) in enumerate(frame.schema.items()):
        columns.append({"headerName": name, "field": f"c{n}", "width": 190 if dtype.is_temporal() else 150})
        if dtype.is_numeric():
            columns[-1]["type"] = "rightAligned"
    grid = LiveGrid(columns, label="The answer")
    grid.show(
        [
            {"id": str(n), **{f"c{i}": _cell(value) for i, value in enumerate(row)}}
            for n, row in enumerate(frame.iter_rows())
        ]
    )


def _cell(value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else number(value)[:300]


def _chart(frame: pl.DataFrame) -> None:
    xs, ys = chartable(frame)
    if not (xs and ys and frame.height > 1):
        return
    with ui.element("div").classes("row"):
        kind = ui.select(KINDS, value=KINDS[0], label="Chart").props("outlined dense").style("min-width: 7rem")
        x = ui.select(xs, value=xs[0], label="Along").props("outlined dense").style("min-width: 10rem")
        y = ui.select(ys, value=next((n for n in ys if n != xs[0]), ys[0]), label="Up").props("outlined dense")
        y.style("min-width: 10rem")
    chart = ui.echart({}, renderer="svg").classes("chart").props('role="img" aria-label="Chart of the answer"')

    def draw() -> None:
        by_x = frame.sort(x.value, nulls_last=True) if frame.schema[x.value] != pl.String else frame
        chart.options.clear()
        chart.options.update(curve(by_x, Curve(y.value), x=x.value, kind=kind.value))
        chart.update()

    for choice in (kind, x, y):
        choice.on_value_change(draw)
    draw()
