"""Asset: one engine, room or camera: its curves, attention or explanation, kept frames, and alerts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl
from nicegui import run, ui

from tocsin.pipelines.ui.charts import attention_map, curve, explanation_map
from tocsin.pipelines.ui.components import SIGNS, attempt, described, heading, look_again, number, page, utc
from tocsin.pipelines.ui.data.assets import HEAT_ROWS, IDENTITY, History, around, frames, heat
from tocsin.pipelines.ui.data.board import AlertState, evidence
from tocsin.pipelines.ui.sources import Sources

EVERY_S = 10.0
FACTS = 24
"""Columns of the last row that are listed."""


def asset(sources: Sources, pipeline: str, key: str) -> None:
    """Draw the page."""
    with page("/assets", f"{key}, {pipeline}", sources):
        ui.link(f"All assets of {pipeline}", f"/assets?pipeline={quote(pipeline)}")
        heading(f"{key} ({pipeline})", 1)
        place = ui.element("div")

        async def fill() -> None:
            history: History | None = await attempt(sources.assets.history, pipeline, key)
            if history is None:
                return
            with place:
                if not history.total:
                    ui.label(f"There is no row of {key} yet.").classes("soft")
                    return
                await _draw(sources, pipeline, key, history)

        ui.timer(0.01, fill, once=True)


async def _draw(sources: Sources, pipeline: str, key: str, history: History) -> None:
    rows = history.rows
    by_name = {one.name: one for one in history.curves}
    known = sources.board.of(pipeline, key)
    counted = ui.label("").classes("soft").props('role="status"')
    problem = ui.label("").classes("problem").props('role="status"')
    charts: dict[str, ui.echart] = {}
    attention: ui.echart | None = None
    explained: ui.echart | None = None
    if by_name:

        def draw(name: str, rows: pl.DataFrame) -> None:
            heading(name)
            chart = ui.echart(curve(rows, by_name[name], alerts=known), renderer="svg").classes("chart")
            charts[name] = described(chart, f"{name} over time", "img")

        for one in history.drawn:
            draw(one.name, rows)
        with ui.element("div").classes("row"):
            more = ui.select([n for n in by_name if n not in charts], label="Add a curve").props("outlined dense")
            more.style("min-width: 12rem").set_visibility(len(charts) < len(by_name))
        added = ui.element("div")
        more.on_value_change(lambda event: add(event.value))

        def add(name: str | None) -> None:
            if name and name not in charts:
                with added:
                    draw(name, shown[0].rows)

    if "attention" in rows.columns:
        heading("Attention: which readings of its window each row looked at")
        attention = ui.echart(attention_map(*heat(rows))).classes("chart")
        described(attention, "Attention of the last rows over the readings of their windows", "img")
    if history.explanation:
        unit = f" [{history.explanation.unit}]" if history.explanation.unit else ""
        heading(f"Explanation: how much each sensor added to the result or took from it{unit}")
        explained = ui.echart(explanation_map(_explained(history))).classes("chart")
        described(explained, "How much each sensor moved the results of the last rows", "img")
    pictures = ui.element("div")
    if "frame" in rows.columns:
        await _pictures(sources, pictures, history, known)
    heading("Alerts")
    raised = ui.element("ul").classes("list")
    _alerts(raised, known)
    heading("Last row")
    last = rows.row(-1, named=True)
    facts = ui.element("dl").classes("facts")
    with facts:
        values = {name: ui.label() for name in _facts(last)}
    shown = [history]

    def show(now: History) -> None:
        shown[:] = [now]
        thin = f", drawn as {now.rows.height:,} points" if now.rows.height < now.total else ""
        newest = now.rows.row(-1, named=True)
        judged = f"judged by {newest['model_version'] or 'no model'}"
        counted.set_text(f"{now.total:,} rows until {utc(newest['event_time'])}, {judged}{thin}")
        for name, label in values.items():
            label.set_text(f"{name}  {number(newest[name])}")

    async def look() -> None:
        now: History | None = await look_again(problem, sources.assets.history, pipeline, key)
        if now is None:
            return
        alerts = sources.board.of(pipeline, key)
        if now.rows["event_time"][-1] == shown[0].rows["event_time"][-1] and alerts == known:
            return
        known[:] = alerts
        show(now)
        _alerts(raised, known)
        if "frame" in now.rows.columns:
            await _pictures(sources, pictures, now, known)
        for name, chart in charts.items():
            chart.options.update(curve(now.rows, by_name[name], alerts=known))
            chart.update()
        if attention:
            attention.options.update(attention_map(*heat(now.rows)))
            attention.update()
        if explained:
            explained.options.update(explanation_map(_explained(now)))
            explained.update()

    show(history)
    ui.timer(EVERY_S, look)


def _explained(history: History) -> pl.DataFrame:
    """How much each sensor moved the last rows' results."""
    assert history.explanation
    return history.explanation.by_sensor(history.rows.tail(HEAT_ROWS))


def _facts(row: Mapping[str, Any]) -> list[str]:
    own = [n for n, value in row.items() if n not in IDENTITY and not isinstance(value, list | dict | bytes)]
    return own[:FACTS]


async def _pictures(sources: Sources, place: ui.element, history: History, known: Sequence[AlertState]) -> None:
    """Draw the last kept frames, and those around the last alert."""
    place.clear()
    with place:
        heading("Last kept frames")
        judged = [one.name for one in history.drawn]
        await _strip(sources, frames(history.rows), judged)
        if known:
            heading(f"Around the last alert, {utc(known[0].alert.time)}")
            await _strip(sources, around(history.rows, known[0].alert.time), judged, at=known[0])


async def _strip(
    sources: Sources, rows: Sequence[Mapping[str, Any]], judged: Sequence[str], at: AlertState | None = None
) -> None:
    """Kept frames in a line, with what was judged under each. The frame nearest to an alert is marked."""
    nearest = (
        min(rows, key=lambda row: abs((row["event_time"] - at.alert.time).total_seconds()), default=None)
        if at
        else None
    )
    drawn = 0
    with ui.element("div").classes("strip").props('tabindex=0 role="group" aria-label="Frames"'):
        for row in rows:
            content = await run.io_bound(sources.assets.frame, row["frame"])
            if content is None:
                continue
            drawn += 1
            values = [f"{name} {row[name]:.2f}" for name in judged if row.get(name) is not None]
            caption = f"{row['event_time']:%H:%M:%S.%f}"[:-4] + "  " + "  ".join(values)
            with ui.element("figure").classes("at" if row is nearest else ""):
                data = base64.b64encode(content).decode()
                image = ui.element("img")
                image.props["src"], image.props["alt"] = f"data:image/jpeg;base64,{data}", f"frame of {caption}"
                with ui.element("figcaption"):
                    ui.label(caption + ("  (the alert)" if row is nearest else ""))
        if not drawn:
            ui.label("No kept frame: none was kept yet, or they have expired.").classes("soft")


def _alerts(place: ui.element, known: Sequence[AlertState]) -> None:
    place.clear()
    with place:
        for state in known[:20]:
            with ui.element("li"), ui.link(target=f"/alerts?id={state.alert.id}"):
                ui.label(f"{SIGNS.get(state.alert.severity, '●')} {state.alert.severity}")
                ui.label(state.alert.rule).style("font-weight: 600")
                ui.label(utc(state.alert.time)).classes("soft")
                ui.label(state.state)
                ui.label(evidence(state.alert)).classes("soft")
        if not known:
            with ui.element("li"):
                ui.label("No alert is known.").classes("soft")
