"""Overview: every pipeline's health, lag and rates, and the alerts that are raised now."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui

from tocsin.pipelines.ui.components import LOOK_S, SIGNS, described, heading, page, spark, utc
from tocsin.pipelines.ui.data.board import AlertState, evidence
from tocsin.pipelines.ui.data.fleet import PipelineStatus
from tocsin.pipelines.ui.sources import Sources

SHOWN = 25
"""Alerts listed."""
STATE_SIGNS = {"running": "✓", "paused": "‖", "starting": "…", "not running": "○"}


def overview(sources: Sources) -> None:
    """Draw the page."""
    with page("/", "Overview", sources):
        heading("Overview", 1)
        problem = ui.label("").classes("soft").props('role="status"')
        cards: dict[str, _Card] = {}
        grid = ui.element("div").classes("cards")
        heading("Alerts now")
        alerts = ui.element("ul").classes("list")
        shown = list[int]()

        def look() -> None:
            problem.set_text(sources.fleet.problem or sources.feed.problem)
            for status in sources.fleet.pipelines():
                if status.name not in cards:
                    with grid:
                        cards[status.name] = _Card(status.name)
                cards[status.name].show(status)

        def look_for_alerts() -> None:
            if shown == [sources.board.number]:
                return
            shown[:] = [sources.board.number]
            raised = sources.board.raised()
            alerts.clear()
            with alerts:
                for state in raised[:SHOWN]:
                    _line(state)
                if len(raised) > SHOWN:
                    with ui.element("li"):
                        ui.link(f"{len(raised) - SHOWN:,} more", "/alerts")
                if not raised:
                    with ui.element("li"):
                        ui.label("No alert is raised.").classes("soft")

        look()
        look_for_alerts()
        ui.timer(1.0, look)
        ui.timer(LOOK_S, look_for_alerts)


class _Card:
    """One pipeline. Only texts that change are sent."""

    def __init__(self, name: str) -> None:
        with described(ui.element("section").classes("card"), f"Pipeline {name}"):
            with ui.element("div").classes("row between"):
                with ui.link(target=f"/assets?pipeline={quote(name)}"):
                    heading(name)
                self._state = ui.label("")
            self._rate = ui.html("", sanitize=False).classes("spark")
            self._lag_line = ui.html("", sanitize=False).classes("spark")
            with ui.element("dl").classes("facts"):
                self._facts = {
                    title: _fact(title) for title in ("rows/s", "lag", "p99 ms", "dead letters", "restarts", "model")
                }
            self._mutes = ui.label("").classes("soft").style("white-space: pre-line")
            self._notes = ui.label("").classes("problem").style("white-space: pre-line")

    def show(self, status: PipelineStatus) -> None:
        """Show a status."""
        sign = STATE_SIGNS.get(status.state, "!")
        self._state.set_text(f"{sign} {status.state}")
        self._state.classes(replace="good" if status.is_healthy else "soft" if status.report is None else "warning")
        self._mutes.set_text("\n".join(status.mutes))
        self._notes.set_text("\n".join(status.notes))
        history = status.history
        self._rate.set_content(spark([sample.rows_per_s for sample in history], "rows/s", "rows per second"))
        self._lag_line.set_content(spark([sample.lag for sample in history], "lag", "lag in records"))
        last, report = (history[-1] if history else None), status.report
        texts = {
            "rows/s": f"{last.rows_per_s:,.0f}" if last else "-",
            "lag": f"{last.lag:,}" if last and last.lag is not None else "-",
            "p99 ms": f"{last.latency_ms:,.0f}" if last and last.latency_ms is not None else "-",
            "dead letters": f"{status.dead_letters:,}" if report else "-",
            "restarts": f"{report['restarts']}" if report else "-",
            "model": ", ".join(status.models) or "-",
        }
        for title, text in texts.items():
            self._facts[title].set_text(text)


def _fact(title: str) -> ui.label:
    with ui.element("div"):
        ui.html(title, sanitize=False, tag="dt")
        with ui.element("dd"):
            return ui.label("-")


def _line(state: AlertState) -> None:
    alert = state.alert
    with ui.element("li"), ui.link(target=f"/alerts?id={alert.id}"):
        ui.label(f"{SIGNS.get(alert.severity, '●')} {alert.severity}").classes(
            alert.severity if alert.severity in ("critical", "warning") else "soft"
        )
        ui.label(f"{alert.pipeline} {alert.key}").style("font-weight: 600")
        ui.label(alert.rule)
        ui.label(utc(alert.time)).classes("soft")
        ui.label(state.state if state.state != "raised" else "").classes("soft")
        ui.label(evidence(alert)).classes("soft")
