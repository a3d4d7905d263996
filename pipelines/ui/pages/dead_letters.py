"""Dead letters: the newest ones with their reason, one as it was read, and its replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from nicegui import ui

from tocsin.pipelines.runtime.kafka.redelivery import PublishedDeadLetter
from tocsin.pipelines.ui.components import NARROW, LiveGrid, attempt, heading, page, utc
from tocsin.pipelines.ui.data.letters import Original, outcome
from tocsin.pipelines.ui.data.times import at
from tocsin.pipelines.ui.sources import Sources

COLUMNS = [
    {"headerName": "time (UTC)", "field": "time", "width": 180},
    {"headerName": "record", "field": "record", "width": 240},
    {"headerName": "stage", "field": "stage", "width": 110, ":hide": NARROW},
    {"headerName": "error", "field": "error", "width": 150},
    {"headerName": "message", "field": "message", "flex": 1, "minWidth": 200, ":hide": NARROW},
    {"headerName": "bytes", "field": "bytes", "width": 100, "type": "rightAligned", ":hide": NARROW},
    {"headerName": "replays", "field": "replays", "width": 100, "type": "rightAligned", ":hide": NARROW},
]


def dead_letters(sources: Sources) -> None:
    """Draw the page."""
    found: dict[str, PublishedDeadLetter] = {}
    with page("/dead-letters", "Dead letters", sources):
        heading("Dead letters", 1)
        host = ui.element("div")
        with ui.element("div").classes("row"):
            ui.button("Read again", on_click=lambda: fill()).props("no-caps outline")
            find = ui.input("Find").props('outlined dense clearable type="search"')
            counted = ui.label("reading").classes("soft").props('role="status"')
        grid = LiveGrid(
            COLUMNS,
            label="Dead letters, the newest first",
            on_select=lambda row: choose(row["id"]),
            on_several=(lambda rows: choose_several([row["id"] for row in rows])) if sources.actions.allowed else None,
        )
        detail = (
            ui.element("section").classes("detail card").props('aria-label="The chosen dead letter" aria-live="polite"')
        )
        with detail:
            ui.label("Choose a dead letter with a click, or with the arrow keys and the space bar.").classes("soft")

        async def fill() -> None:
            letters = await attempt(sources.letters.newest)
            if letters is None:
                counted.set_text("not read")
                return
            found.clear()
            found.update({_id(entry): entry for entry in letters})
            counted.set_text(f"the newest {len(found):,}" if found else "no dead letters")
            grid.show([_row(id, entry) for id, entry in found.items()])

        async def choose(id: str) -> None:
            entry = found.get(id)
            original = await attempt(sources.letters.original, entry) if entry else None
            if entry and original:
                detail.clear()
                with detail:
                    _detail(sources, entry, original, host)

        def choose_several(ids: list[str]) -> None:
            entries = [found[id] for id in ids if id in found]
            detail.clear()
            with detail:
                heading(f"{len(entries):,} dead letters")
                for reason, count in Counter(f"{e.dead_letter.stage}: {e.dead_letter.error}" for e in entries).items():
                    ui.label(f"{count:,}  {reason}").classes("mono")
                _replay(sources, entries, f"{len(entries):,} records", host)

        find.on_value_change(lambda event: grid.find(event.value or ""))
        ui.timer(0.01, fill, once=True)


def _id(entry: PublishedDeadLetter) -> str:
    return f"{entry.dead_letter.destination}/{entry.partition}/{entry.offset}"


def _record(entry: PublishedDeadLetter) -> str:
    letter = entry.dead_letter
    row = "" if letter.row is None else f" row {letter.row}"
    return f"{letter.topic}[{letter.partition}]@{letter.offset}{row}"


def _row(id: str, entry: PublishedDeadLetter) -> dict[str, Any]:
    letter = entry.dead_letter
    return {
        "id": id,
        "time": utc(at(entry.at)),
        "record": _record(entry),
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "bytes": letter.size,
        "replays": entry.replays,
    }


def _detail(sources: Sources, entry: PublishedDeadLetter, original: Original, host: ui.element) -> None:
    letter = entry.dead_letter
    heading(_record(entry))
    ui.label(f"{letter.stage}: {letter.error}: {letter.message}")
    size = "gone" if original.size is None else f"{original.size:,} bytes"
    ui.label(f"{size}, dead letter of {utc(at(entry.at))}, replayed {entry.replays} times").classes("soft")
    for name, text in original.headers.items():
        ui.label(f"{name}: {text}").classes("mono soft")
    with ui.element("pre").classes("mono").props('tabindex=0 aria-label="The value as it was read"'):
        ui.label(original.text)
    if not sources.actions.allowed:
        ui.label("This page is read-only. `tocsin ui --allow-changes` lets you replay.").classes("soft")
        return

    _replay(sources, [entry], _record(entry), host)


def _replay(sources: Sources, entries: Sequence[PublishedDeadLetter], what: str, host: ui.element) -> None:
    """A button that replays dead letters. `what` names their records."""

    async def replay() -> None:
        with host:
            if await _is_sure(what) and (report := await attempt(sources.actions.replay, entries)):
                ui.notify(outcome(report))

    ui.button("Replay", on_click=replay).props("no-caps").style("justify-self: start")


async def _is_sure(what: str) -> bool:
    with ui.dialog() as dialog, ui.card().classes("detail"):
        heading("Replay")
        ui.label(f"Send {what} to the topic again. Fix the cause first: a dead letter is sent once.")
        with ui.element("div").classes("row"):
            ui.button("Replay", on_click=lambda: dialog.submit(True)).props("no-caps")
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps")
    answer = bool(await dialog)
    dialog.delete()
    return answer
