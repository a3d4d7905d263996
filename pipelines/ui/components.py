"""What the pages share: the bar at the top, sparklines, grids that change row by row, and forms with a name and a reason."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from nicegui import context, run, ui

from tocsin.pipelines.runtime import TocsinError
from tocsin.pipelines.runtime.telemetry.logs import one_line
from tocsin.pipelines.ui.sources import Sources
from tocsin.pipelines.ui.style import CSS

PAGES = {
    "/": "Overview",
    "/alerts": "Alerts",
    "/assets": "Assets",
    "/dead-letters": "Dead letters",
    "/models": "Models",
    "/query": "Query",
}
SIGNS = {"critical": "▲", "warning": "◆", "info": "●"}
"""A sign for each severity, so that colour is not alone."""
LOOK_S = 0.25
"""How often an open page looks for changed alerts. It costs one comparison if there are none."""
NARROW = "window.innerWidth < 700"
"""JavaScript: whether a grid leaves out columns, as on a phone."""
THEME = "tocsin-dark"


@contextmanager
def page(path: str, title: str, sources: Sources) -> Iterator[None]:
    """The frame of a page: a link that skips the bar, the bar, and the main part, which the body fills."""
    ui.page_title(f"{title} - Tocsin")
    ui.add_css(CSS)
    ui.add_head_html('<meta name="color-scheme" content="light dark">')
    dark = ui.dark_mode(None)
    ui.link("Skip to the content", "#main").classes("skip")
    with ui.header(fixed=False, elevated=False).classes("bar"):
        ui.label("Tocsin").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for target, name in PAGES.items():
                link = ui.link(name, target)
                if target == path:
                    link.props("aria-current=page")
        raised = ui.link("", "/alerts").props('aria-live="polite"')
        toggle = ui.button("Theme", on_click=lambda: _toggle(dark)).props(
            'flat dense no-caps aria-label="Switch theme"'
        )
        toggle.classes("soft")

    def count() -> None:
        n = len(sources.board.raised())
        raised.set_text(f"▲ {n} alert{'s' if n != 1 else ''} now" if n else "no alerts now")

    count()
    ui.timer(1.0, count)
    ui.timer(0.1, lambda: _restore(dark), once=True)
    with ui.element("div").classes("content").props("id=main tabindex=-1"):
        yield


async def _restore(dark: ui.dark_mode) -> None:
    """Use the theme that this browser chose before."""
    try:
        chosen = await ui.run_javascript(f"localStorage.getItem('{THEME}')", timeout=5)
    except TimeoutError:  # the person has left the page already
        return
    if chosen in ("true", "false"):
        dark.value = chosen == "true"


async def _toggle(dark: ui.dark_mode) -> None:
    is_dark = await ui.run_javascript("document.body.classList.contains('body--dark')", timeout=5)
    dark.value = not is_dark
    ui.run_javascript(f"localStorage.setItem('{THEME}', '{str(not is_dark).lower()}')")


def heading(text: str, level: int = 2) -> ui.html:
    """A heading of the document's outline."""
    return ui.html(html.escape(text), sanitize=False, tag=f"h{level}")


def described(element: Any, label: str, role: str = "") -> Any:
    """Give an element a name for a screen reader. It may hold any characters, unlike one in a text of props."""
    element.props["aria-label"] = label
    if role:
        element.props["role"] = role
    return element


def person() -> str:
    """Whom a reverse proxy names; "" without one."""
    request = context.client.request
    return str(request.scope.get("tocsin.user", "")) if request else ""


def utc(moment: datetime | None) -> str:
    """A time as the commands print it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def number(value: Any) -> str:
    """A value of a results column for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return utc(value) if isinstance(value, datetime) else str(value)


def spark(values: Sequence[float | None], name: str, what: str) -> str:
    """A sparkline as SVG, with a name beside it and a text for a screen reader. It begins at zero."""
    return f"<span>{html.escape(name)}</span>{_curve(values, what)}"


def _curve(values: Sequence[float | None], what: str) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f'<svg viewBox="0 0 100 30" role="img" aria-label="{html.escape(what)}: no history yet"></svg>'
    top, step = max(*known, 1e-9), 100 / (len(values) - 1)
    points = " ".join(f"{n * step:.1f},{29 - 27 * v / top:.1f}" for n, v in enumerate(values) if v is not None)
    label = f"{what}: {known[-1]:,.0f} now, at most {top:,.0f}"
    return (
        f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{html.escape(label)}">'
        f'<polyline points="{points}" vector-effect="non-scaling-stroke"/></svg>'
    )


class LiveGrid:
    """A grid that draws only the rows on screen, and takes changes row by row.

    Args:
        columns: AG Grid's column definitions. A `:hide` of `NARROW` leaves a column out on a phone.
        label: what the grid holds, for a screen reader.
        on_select: is called with the row that a person chooses by a click or by the space bar.
        on_several: rows have checkboxes; is called with the rows instead if a person chooses more than one.
    """

    def __init__(
        self,
        columns: Sequence[Mapping[str, Any]],
        *,
        label: str,
        on_select: Callable[[dict[str, Any]], Awaitable[None] | None] | None = None,
        on_several: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        options: dict[str, Any] = {
            "columnDefs": [dict(column) for column in columns],
            "defaultColDef": {"sortable": True, "resizable": True, "filter": True, "suppressHeaderMenuButton": True},
            "rowData": [],
            ":getRowId": "params => params.data.id",
            "suppressFieldDotNotation": True,
            "animateRows": False,
            "overlayNoRowsTemplate": "<span>nothing yet</span>",
        }
        if on_select:
            several = {"mode": "multiRow", "checkboxes": True, "selectAll": "filtered"}
            kind = several if on_several else {"mode": "singleRow", "checkboxes": False}
            options["rowSelection"] = {**kind, "enableClickSelection": True}
        self._grid = described(ui.aggrid(options, auto_size_columns=False).classes("grid"), label)
        if on_select:
            self._grid.on("selectionChanged", lambda: self._chosen(on_select, on_several), [])

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows by id."""
        return self._rows

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make these the rows. Only what differs is sent."""
        wanted = {row["id"]: dict(row) for row in rows}
        if not self._rows and wanted:  # the first ones: also for a browser that has not drawn the grid yet
            self._rows = wanted
            self._grid.options["rowData"] = list(wanted.values())
            self._grid.update()
            return
        self.change(
            [row for id, row in wanted.items() if self._rows.get(id) != row],
            [id for id in self._rows if id not in wanted],
        )

    def change(self, rows: Sequence[Mapping[str, Any]], gone: Sequence[str] = ()) -> None:
        """Add or replace rows, newest first, and remove others."""
        add = [dict(row) for row in rows if row["id"] not in self._rows]
        update = [dict(row) for row in rows if row["id"] in self._rows]
        remove = [{"id": id} for id in gone if id in self._rows]
        if not (add or update or remove):
            return
        self._rows = {row["id"]: row for row in add} | self._rows | {row["id"]: row for row in update}
        for row in remove:
            del self._rows[row["id"]]
        self._grid.run_grid_method("applyTransaction", {"add": add, "addIndex": 0, "update": update, "remove": remove})

    def find(self, text: str) -> None:
        """Show only rows that contain a text."""
        self._grid.run_grid_method("setGridOption", "quickFilterText", text)

    async def _chosen(
        self,
        on_select: Callable[[dict[str, Any]], Awaitable[None] | None],
        on_several: Callable[[list[dict[str, Any]]], None] | None,
    ) -> None:
        rows = await self._grid.get_selected_rows()
        if on_several and len(rows) > 1:
            on_several(rows)
        elif rows and (result := on_select(rows[0])) is not None:
            await result


async def attempt(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Do work in a thread. What Tocsin raises on purpose becomes a notice; returns None then."""
    try:
        return await run.io_bound(work, *arguments, **named)
    except TocsinError as reason:
        ui.notify(str(reason), type="negative", multi_line=True, close_button="Close", timeout=0)
    except Exception as reason:  # a broken lake or broker: the page stays
        ui.notify(one_line(reason), type="negative", multi_line=True, close_button="Close", timeout=0)
    return None


async def look_again(problem: ui.label, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do work that an open page repeats, in a thread. Why it failed is on the label until it works again.

    Returns None if it failed, and if the person leaves or the server ends meanwhile.
    """
    try:
        found = await run.io_bound(work, *arguments)
    except Exception as reason:  # such as a lake that is away: the page shows what it has
        problem.set_text(str(reason) if isinstance(reason, TocsinError) else one_line(reason))
        return None
    problem.set_text("")
    return found


async def ask_reason(title: str, what: str, *, durations: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """Ask for a name and a reason, and for a duration if there are some. Returns None if the person cancels."""
    known = person()
    with ui.dialog() as dialog, ui.card().classes("detail").style("min-width: min(26rem, 90vw)"):
        heading(title)
        ui.label(what)
        last = (
            ui.select(dict(durations), value=next(iter(durations)), label="For").props("outlined")
            if durations
            else None
        )
        by = ui.input("Your name", value=known).props("outlined autofocus maxlength=100 autocomplete=name")
        if known:
            by.disable()  # the proxy vouches for it
        reason = ui.textarea("Reason").props("outlined maxlength=500 rows=3")
        error = ui.label("").classes("problem").props('role="alert"')

        def done() -> None:
            if not (known or by.value or "").strip() or not (reason.value or "").strip():
                error.set_text("Name and reason are needed.")
                return
            dialog.submit({"by": known or by.value, "reason": reason.value, **({"last": last.value} if last else {})})

        with ui.element("div").classes("row"):
            ui.button(title, on_click=done).props("no-caps").mark("confirm")
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat no-caps")
    answer: dict[str, str] | None = await dialog
    dialog.delete()
    return answer
