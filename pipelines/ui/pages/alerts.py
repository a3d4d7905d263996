"""Alerts: live, with a filter; a person acknowledges one or mutes its asset, with a name and a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nicegui import ui

from tocsin.pipelines.runtime.declare.trace import TraceContext
from tocsin.pipelines.ui.components import (
    LOOK_S,
    NARROW,
    SIGNS,
    LiveGrid,
    ask_reason,
    attempt,
    heading,
    number,
    page,
    utc,
)
from tocsin.pipelines.ui.data.actions import MUTES
from tocsin.pipelines.ui.data.board import AlertState, evidence
from tocsin.pipelines.ui.sources import Sources

SHOW: dict[str, Callable[[AlertState], bool]] = {
    "raised now": lambda state: state.is_open,
    "not acknowledged": lambda state: state.is_open and state.acknowledged is None,
    "all": lambda state: True,
}
COLUMNS = [
    {"headerName": "time (UTC)", "field": "time", "width": 180, "sort": "desc"},
    {"headerName": "severity", "field": "severity", "width": 120, "cellClassRules": {
        "critical": "data.severity.endsWith('critical')", "warning": "data.severity.endsWith('warning')"}},
    {"headerName": "state", "field": "state", "width": 130},
    {"headerName": "pipeline", "field": "pipeline", "width": 120, ":hide": NARROW},
    {"headerName": "asset", "field": "key", "width": 120},
    {"headerName": "rule", "field": "rule", "width": 130, ":hide": NARROW},
    {"headerName": "evidence", "field": "evidence", "flex": 2, "minWidth": 160, ":hide": NARROW},
    {"headerName": "by", "field": "by", "width": 110, ":hide": NARROW},
    {"headerName": "reason", "field": "reason", "flex": 1, "minWidth": 120, ":hide": NARROW},
]  # fmt: skip


def alerts(sources: Sources, id: str) -> None:
    """Draw the page.

    Args:
        id: the alert to show first; "": none.
    """
    board, seen = sources.board, dict[str, Any](number=0, id=id)
    with page("/alerts", "Alerts", sources):
        heading("Alerts", 1)
        host = ui.element("div")  # dialogs live here: the detail below is drawn anew with each change
        problem = ui.label("").classes("problem").props('role="status"')
        with ui.element("div").classes("row"):
            show = (
                ui.select(list(SHOW), value="raised now", label="Show")
                .props("outlined dense")
                .style("min-width: 11rem")
            )
            find = ui.input("Find").props('outlined dense clearable type="search"')
        grid = LiveGrid(COLUMNS, label="Alerts, the newest first", on_select=lambda row: choose(row["id"]))
        detail = ui.element("section").classes("detail card").props('aria-label="The chosen alert" aria-live="polite"')

        def fill() -> None:
            seen["number"] = board.number
            grid.show([_row(state) for state in reversed(board.alerts()) if SHOW[show.value](state)])

        def look() -> None:
            problem.set_text(sources.feed.problem)
            if (now := board.number) == seen["number"]:
                return
            changed, seen["number"] = board.alerts(seen["number"]), now
            wanted = [state for state in changed if SHOW[show.value](state)]
            gone = {state.alert.id for state in changed} - {state.alert.id for state in wanted}
            grid.change([_row(state) for state in reversed(wanted)], sorted(gone))
            if seen["id"] in {state.alert.id for state in changed}:
                choose(seen["id"])

        def choose(id: str) -> None:
            seen["id"] = id
            detail.clear()
            if state := board.get(id):
                with detail:
                    _detail(sources, state, host)

        with detail:
            ui.label("Choose an alert with a click, or with the arrow keys and the space bar.").classes("soft")
        fill()
        if id:
            choose(id)
        show.on_value_change(fill)
        find.on_value_change(lambda event: grid.find(event.value or ""))
        ui.timer(LOOK_S, look)


def _row(state: AlertState) -> dict[str, Any]:
    alert, act = state.alert, state.last_act
    return {
        "id": alert.id,
        "time": utc(alert.time),
        "severity": f"{SIGNS.get(alert.severity, '●')} {alert.severity}",
        "state": state.state,
        "pipeline": alert.pipeline,
        "key": alert.key,
        "rule": alert.rule,
        "evidence": evidence(alert),
        "by": act.by if act else "",
        "reason": act.reason if act else "",
    }


def _detail(sources: Sources, state: AlertState, host: ui.element) -> None:
    alert = state.alert
    heading(f"{alert.rule} of {alert.key} ({alert.pipeline})")
    with ui.element("div").classes("row"):
        ui.label(f"{SIGNS.get(alert.severity, '●')} {alert.severity}").classes(
            alert.severity if alert.severity in ("critical", "warning") else "soft"
        )
        ui.label(f"raised {utc(alert.time)}" + (f", cleared {utc(state.cleared)}" if state.cleared else ""))
        ui.link("Show the asset", f"/asset?pipeline={quote(alert.pipeline)}&key={quote(alert.key, safe='')}")
    for act in (state.acknowledged, state.silenced):
        if act:
            until = f", until {act.data['silenced_until'][:19]}Z" if "silenced_until" in act.data else ""
            ui.label(f"{act.transition} by {act.by}, {utc(act.time)}{until}: {act.reason}")
    facts = "\n".join(
        f"{name}  {number(value)}" for name, value in alert.data.items() if not isinstance(value, list | dict)
    )
    ui.label(facts).classes("mono").style("white-space: pre-wrap")
    ui.label(f"id {alert.id}").classes("mono soft")
    if alert.traceparent:
        ui.label(f"trace {TraceContext(alert.traceparent).trace_id}").classes("mono soft")
    if not sources.actions.allowed:
        ui.label("This page is read-only. `tocsin ui --allow-changes` lets you acknowledge and silence.").classes(
            "soft"
        )
        return

    async def acknowledge() -> None:
        with host:
            answer = await ask_reason("Acknowledge", f"{alert.rule} of {alert.key} ({alert.pipeline})")
            if answer and await attempt(sources.actions.acknowledge, alert.id, **answer):
                ui.notify(f"{alert.rule} of {alert.key} is acknowledged")

    async def silence() -> None:
        what = f"{alert.key} of {alert.pipeline} raises no alerts meanwhile. Its results are still written."
        with host:
            answer = await ask_reason("Silence", what, durations=MUTES)
            if answer and await attempt(sources.actions.silence, alert.id, **answer):
                ui.notify(f"{alert.key} is silenced for {MUTES[answer['last']]}")

    with ui.element("div").classes("row"):
        ui.button("Acknowledge", on_click=acknowledge).props("no-caps")
        ui.button("Silence", on_click=silence).props("no-caps outline")
