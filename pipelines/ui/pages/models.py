"""Models: the registry's versions, which of them judge now, and how each scored when it was trained and since."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from tocsin.pipelines.ui.components import NARROW, LiveGrid, attempt, heading, page, utc
from tocsin.pipelines.ui.data.models import ModelVersion
from tocsin.pipelines.ui.sources import Sources

COLUMNS = [
    {"headerName": "model", "field": "name", "width": 140},
    {"headerName": "version", "field": "version", "width": 100, "type": "rightAligned"},
    {"headerName": "alias", "field": "alias", "width": 130},
    {"headerName": "judges now", "field": "serves", "width": 150},
    {"headerName": "registered (UTC)", "field": "created", "width": 190, ":hide": NARROW},
    {"headerName": "scores by labels", "field": "live", "flex": 1, "minWidth": 200, ":hide": NARROW},
    {"headerName": "scores of its training", "field": "scores", "flex": 2, "minWidth": 260, ":hide": NARROW},
    {"headerName": "note", "field": "note", "flex": 1, "minWidth": 160, ":hide": NARROW},
]


def models(sources: Sources) -> None:
    """Draw the page."""
    with page("/models", "Models", sources):
        heading("Models", 1)
        if sources.models is None:
            ui.label("MLflow is off in the settings, so there is no registry.").classes("soft")
            return
        with ui.element("div").classes("row"):
            ui.button("Read again", on_click=lambda: fill()).props("no-caps outline")
            counted = ui.label("reading").classes("soft").props('role="status"')
        grid = LiveGrid(COLUMNS, label="Registered models, the newest version first")
        ui.label(
            "`tocsin promote` and `tocsin rollback` change which version judges, or move the alias in MLflow: pipelines follow it "
            "within 15 s, at a checkpoint."
        ).classes("soft")

        async def fill() -> None:
            found = await attempt(sources.models.versions) if sources.models else None
            if found is None:
                counted.set_text("MLflow does not answer")
                return
            pipelines = sources.fleet.pipelines()
            serving = {model: f"{status.name}, in shadow" for status in pipelines for model in status.challengers}
            serving |= {model: status.name for status in pipelines for model in status.models}
            live = {version: text for status in pipelines for version, text in status.scores.items()}
            counted.set_text(f"{len(found):,} versions" if found else "no model is registered")
            grid.show([_row(version, serving, live) for version in found])

        ui.timer(0.01, fill, once=True)


def _row(version: ModelVersion, serving: dict[str, str], live: dict[str, str]) -> dict[str, Any]:
    """A version's row of the grid.

    Args:
        serving: version -> the pipeline that it judges for.
        live: version -> its scores by labels, in words.
    """
    name = f"{version.name}/{version.version}"
    return {
        "id": name,
        "name": version.name,
        "version": version.version,
        "alias": ", ".join(f"@{alias}" for alias in version.aliases),
        "serves": serving.get(name, ""),
        "created": utc(version.created),
        "live": live.get(name, ""),
        "scores": "  ".join(f"{score} {value:.4g}" for score, value in version.scores.items()),
        "note": version.description,
    }
