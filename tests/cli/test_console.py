"""Data is printed literally: markup and emoji codes are not interpreted, and control characters are escaped."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from rich.color import ColorSystem
from typer.testing import CliRunner

from tocsin.pipelines.cli import console, dlq, query, state, status
from tocsin.pipelines.cli.alerts import line
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.cli.check import _printer
from tocsin.pipelines.demo.fleet import Fleet
from tocsin.pipelines.runtime.admin.inspection import KeyState, Rule
from tocsin.pipelines.runtime.admin.preflight import Finding
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka import redelivery
from tocsin.pipelines.runtime.kafka.redelivery import PublishedDeadLetter

KEY = "[default]Line 1/[red]Pump[/] :warning: 7\x1b[2J\n\x9b"
SEEN = r"[default]Line 1/[red]Pump[/] :warning: 7\x1b[2J\n\x9b"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SHARD: dict[str, Any] = {
    "pipeline": "pumps",
    "shard": 0,
    "state": "running",
    "error": KEY,
    "read": {0: 1},
    "committed": {0: 1},
    "lag": 0,
    "committed_lag": 0,
    "uncommitted_rows": 0,
    "rows_per_s": 1.0,
    "latency_ms": {"p50": 1.0},
    "unread_partitions": [],
    "damaged": {},
    "digest_mismatches": 0,
    "dead_letters": 1200,
    "dead_letter": {
        "topic": "sensors.industrial",
        "partition": 3,
        "offset": 1042,
        "row": None,
        "stage": "decode",
        "error": "BadValue",
        "message": f"expected int64, got {KEY}",
        "at": 0,
    },
    "restarts": 0,
    "model": "",
}
LOOK = {"pipeline": "pumps", "paused": False, "silences": {KEY: NOON}, "shards": [SHARD], "landing": [], "sinks": []}


def _query() -> None:
    query.show(pl.DataFrame({KEY: [KEY]}))
    query.show(pl.DataFrame({"keys": [[KEY]], "fact": [{"key": KEY}]}))


def _alert() -> None:
    alert = Alert("1", "pumps", "low", "warning", "raised", KEY, NOON, {"room": f"in {KEY}"})
    console.out.print(line(alert), soft_wrap=True)


def _state() -> None:
    rows = pl.DataFrame({"room": [KEY]})
    rule = Rule(firing=True, run=1, hold=1, raised_at=0)
    memory = KeyState(0, KEY, 0, 1, {KEY: KEY}, {}, {KEY: rule}, {"0-Sorted": rows})
    for each in state._lines(memory):
        console.out.print(each, soft_wrap=True)


def _status() -> None:
    console.out.print(status.table([LOOK]), soft_wrap=True)


def test_dead_letters_are_red_with_the_newest_reason(capsys: pytest.CaptureFixture[str]) -> None:
    _status()
    said = " ".join(capsys.readouterr().out.split())
    newest = "pumps/0: 1,200 dead letters, the newest 1970-01-01 00:00:00 UTC: sensors.industrial[3]@1042: decode: BadValue: "
    assert f"{newest}expected int64, got {SEEN}; see `tocsin dlq list sensors.industrial`" in said
    terminal = console._console(stderr=False)
    terminal._force_terminal, terminal._color_system = True, ColorSystem.STANDARD
    terminal.file = colours = io.StringIO()
    terminal.print(status.table([LOOK]))
    assert re.search(r"\x1b\[1;31m *1,200\x1b\[0m", colours.getvalue())
    assert "\x1b[31mpumps/0: 1,200 dead letters" in colours.getvalue()
    healthy = {**LOOK, "shards": [{**SHARD, "dead_letters": 0, "dead_letter": None, "error": ""}], "silences": {}}
    terminal.file = colours = io.StringIO()
    terminal.print(status.table([healthy]))
    assert "[31m" not in colours.getvalue() and "[1;31m" not in colours.getvalue()


def _check() -> None:
    _printer()(Finding("", "lake", "wrong", KEY))


def _note() -> None:
    console.note(KEY)


def _fail() -> None:
    console.fail(ConfigError(KEY.replace("\n", "")))


def _fleet() -> None:
    fleet = Fleet()
    fleet.watched[KEY] = {"cycle": 3, "rul": 20.0}
    console.out.print(fleet)


@pytest.mark.parametrize("say", [_query, _alert, _state, _status, _check, _note, _fail, _fleet])
def test_data_is_printed_as_it_is(say: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    say()
    seen, said = capsys.readouterr(), SEEN.replace(r"\n", "") if say is _fail else SEEN
    assert said in " ".join((seen.out + seen.err).split()), seen
    assert "\x1b[2J" not in seen.out + seen.err and "\x9b" not in seen.out + seen.err


def test_an_error_that_explains_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(AttributeError("dimension_attributes"))
    said = "tocsin: unexpected AttributeError: dimension_attributes; TOCSIN_DEBUG=1 shows where\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("say", [console.note, lambda text: console.fail(ValueError(text))])
def test_passwords_in_addresses_are_masked(say: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    say(
        "rtsp://me:se@cret@10.0.0.1/a,rtsp://10.0.0.2/live?user=me&Password=secret&channel=1: refused; rtsp://10.0.0.3:554/b"
    )
    said = (
        "rtsp://me:***@10.0.0.1/a,rtsp://10.0.0.2/live?user=me&Password=***&channel=1: refused; rtsp://10.0.0.3:554/b"
    )
    seen = capsys.readouterr().err
    assert said in seen and "cret" not in seen


def test_dead_letters_are_listed_and_shown_as_they_are(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = DeadLetter(
        "t", 0, 1, None, "decode", "BadValue", f"got {KEY}", 0, b"k", KEY.encode(), (("h", KEY.encode()),)
    )
    held = [PublishedDeadLetter(0, 0, 0, 0, letter)]
    monkeypatch.setattr(redelivery, "read_dead_letters", lambda *_: iter(held))
    monkeypatch.setattr(dlq, "_topics", lambda *_: ["t.dlq"])
    asked = ["--set", f"lake.path={tmp_path}", "dlq"]
    listed = CliRunner().invoke(app, [*asked, "list"]).output
    assert f"got {SEEN}" in " ".join(listed.split())
    shown = CliRunner().invoke(app, [*asked, "show", "t", "0@1"]).output
    assert f"got {SEEN}" in shown and f"h: {SEEN}" in shown
    assert shown.endswith("".join(f"{console.plain(part)}\n" for part in KEY.split("\n")))
    assert "\x1b" not in listed + shown


def test_what_is_waited_for_and_what_is_under_way_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = console._console(stderr=True)
    terminal._force_terminal = terminal.is_interactive = True
    terminal.file = said = io.StringIO()
    monkeypatch.setattr(console, "err", terminal)
    with console.working(f"compacting {KEY}"):
        pass
    assert f"compacting {SEEN}" in said.getvalue()
    with console.progress() as bar:
        bar.add_task("[default]Line 1/[red]Pump[/]", total=1)
    assert "[default]Line 1/[red]Pump[/]" in said.getvalue()
