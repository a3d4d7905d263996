"""Assets: the latest row of each asset of a pipeline, and the way to one asset."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import polars as pl
from nicegui import run, ui

from tocsin.pipelines.ui.components import NARROW, LiveGrid, attempt, heading, look_again, number, page
from tocsin.pipelines.ui.data.assets import ASSETS, IDENTITY, main_column
from tocsin.pipelines.ui.sources import Sources

EVERY_S = 5.0
"""How often an open page asks whether its table has a new commit."""
COLUMNS = 14
"""Most columns of a pipeline's own in the list."""


def assets(sources: Sources, pipeline: str) -> None:
    """Draw the page.

    Args:
        pipeline: whose assets; "": the first one's.
    """
    with page("/assets", "Assets", sources):
        heading("Assets", 1)
        place = ui.element("div")

        async def fill() -> None:
            with place:
                names = await attempt(sources.assets.pipelines)
                if not names:
                    ui.label("There is no results table yet.").classes("soft")
                    return
                chosen = pipeline if pipeline in names else names[0]
                await _list(sources, chosen, names)

        ui.timer(0.01, fill, once=True)


async def _list(sources: Sources, pipeline: str, names: list[str]) -> None:
    with ui.element("div").classes("row"):
        picked = ui.select(names, value=pipeline, label="Pipeline").props("outlined dense").style("min-width: 10rem")
        picked.on_value_change(lambda event: ui.navigate.to(f"/assets?pipeline={quote(event.value)}"))
        find = ui.input("Find").props('outlined dense clearable type="search"')
        counted = ui.label("").classes("soft").props('role="status"')
    problem = ui.label("").classes("problem").props('role="status"')
    latest: pl.DataFrame | None = await attempt(sources.assets.latest, pipeline)
    if latest is None:
        return
    curves = await attempt(sources.assets.curves, pipeline) or ()
    names, labels = _columns(latest, main_column(curves)), {one.name: one.label for one in curves}
    numeric = {name for name in names if latest.schema[name].is_numeric()}
    columns: list[dict[str, Any]] = [{"headerName": "asset", "field": "key", "width": 150, "pinned": "left"}]
    columns += [
        {
            "headerName": labels.get(name, name),
            "field": name,
            "width": 130,
            **({"type": "rightAligned"} if name in numeric else {}),
        }
        | ({":hide": NARROW} if n > 1 else {})
        for n, name in enumerate(names)
    ]
    columns.append({"headerName": "last row (UTC)", "field": "event_time", "width": 190})
    columns.append({"headerName": "model", "field": "model_version", "width": 120, ":hide": NARROW})

    def choose(row: dict[str, Any]) -> None:
        ui.navigate.to(f"/asset?pipeline={quote(pipeline)}&key={quote(row['id'], safe='')}")

    grid = LiveGrid(columns, label=f"Assets of {pipeline}", on_select=choose)
    find.on_value_change(lambda event: grid.find(event.value or ""))
    shown: list[pl.DataFrame] = []

    async def look() -> None:
        frame: pl.DataFrame | None = await look_again(problem, sources.assets.latest, pipeline)
        if frame is None or (shown and shown[0] is frame):
            return
        shown[:] = [frame]
        rows = await run.io_bound(_rows, frame, names)
        if rows is None:  # the person has left
            return
        more = ", the first ones by name" if len(rows) == ASSETS else ""
        counted.set_text(f"{len(rows):,} asset{'s' if len(rows) != 1 else ''}{more}")
        grid.show(rows)

    await look()
    ui.timer(EVERY_S, look)


def _columns(frame: pl.DataFrame, main: str) -> list[str]:
    """The pipeline's own columns, the one that assets are judged by first."""
    names = [name for name in frame.columns if name not in IDENTITY]
    return sorted(names, key=lambda name: name != main)[:COLUMNS]


def _rows(frame: pl.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    shown = ["key", *names, "event_time", "model_version"]
    numbers = [name for name in names if frame.schema[name].is_float()]
    rounded = frame.with_columns(pl.col(numbers).cast(pl.Float64).round_sig_figs(4))  # a float32 is no short decimal
    return [
        {"id": row["key"], **{n: v if v is None or type(v) in (int, float, str) else number(v) for n, v in row.items()}}
        for row in rounded.select(list(dict.fromkeys(shown))).iter_rows(named=True)
    ]
