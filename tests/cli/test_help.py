"""Help output: no text is lost, flags show no type, arguments are written alike, and shells complete."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from tests.support.tour import environment
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.engine.alerts import Alert


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yield every command and group, with the words that invoke it."""
    found: Any = typer.main.get_command(app)
    yield [], found
    for name, command in found.commands.items():
        yield [name], command
        for below, one in getattr(command, "commands", {}).items():
            yield [name, below], one


ALL = {" ".join(words) or "tocsin": (words, command) for words, command in commands()}


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """Each command's help on a wide terminal, without frames and line breaks."""
    wide = {"COLUMNS": "250", "TERMINAL_WIDTH": "250"}
    said = {name: CliRunner().invoke(app, [*words, "--help"], env=wide).output for name, (words, _) in ALL.items()}
    return {name: re.sub(r"[\s│]+", " ", text) for name, text in said.items()}


def test_no_word_of_a_help_text_is_lost(shown: dict[str, str]) -> None:
    for name, (_, command) in ALL.items():
        for param in command.params:
            written = " ".join((param.help or "").replace("\\[", "[").split())
            assert written in shown[name], f"{name}: {param.name}"
        assert not re.search(r"\w [.,;](\s|$)", shown[name]), name


def test_a_flag_has_no_type_and_arguments_are_written_alike(shown: dict[str, str]) -> None:
    for name, text in shown.items():
        assert "<bool>" not in text, name
        usage = text.partition("Usage: ")[2].partition("[OPTIONS]")[2].split(".")[0]
        assert "{" not in usage and "[[" not in usage, f"{name}: {usage}"
    for name, (_, command) in ALL.items():
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        assert [a.name for a in arguments if not re.fullmatch(r"[A-Z]+([|@][A-Z]+)*", a.metavar or "")] == [], name
    assert " alerts [OPTIONS] [PIPELINE] " in shown["alerts"] and " run [OPTIONS] PIPELINE " in shown["run"]


def test_a_group_says_what_it_is_for(shown: dict[str, str]) -> None:
    groups = [name for name, (_, command) in ALL.items() if hasattr(command, "commands") and name != "tocsin"]
    assert groups == ["dlq", "state"]
    for group in groups:
        (said,) = re.findall(rf" {group} ([A-Z][^.]+\.)", shown["tocsin"])
        assert len(said) > 40, said


def test_a_shell_completes_commands() -> None:
    asked = {"_TOCSIN_COMPLETE": "complete_bash", "COMP_WORDS": "tocsin ale", "COMP_CWORD": "1"}
    done = subprocess.run("tocsin", env=environment(**asked), text=True, capture_output=True, shell=True)
    assert (done.returncode, done.stdout.split()) == (0, ["alerts"])


def test_alerts_have_a_header_a_date_and_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.fromisoformat("2026-01-31T23:30:00-01:00")
    alert = Alert("1", "rul", "warning", "warning", "raised", "7", at, {"rul": 3.0})
    monkeypatch.setattr("tocsin.alerts", lambda *_, **__: iter([alert]))
    said = CliRunner().invoke(app, ["alerts"], catch_exceptions=False).output.splitlines()
    assert said[0].split() == ["time", "(UTC)", "severity", "what", "key", "evidence"]
    assert said[1].startswith("2026-02-01 00:30:00Z warning  raised       7 ")
    assert [said[0].index("severity"), said[0].index("key")] == [said[1].index("warning"), said[1].index("7 ")]


def test_a_table_without_small_files_is_said_to_have_none(tmp_path: Path) -> None:
    for n in range(2):
        deltalake.write_deltalake(tmp_path / "rul", pa.table({"n": [n], "event_date": ["2026-01-01"]}), mode="append")
    call = ["--set", f"lake.path={tmp_path}", "compact", "rul"]
    said = [CliRunner().invoke(app, call, catch_exceptions=False).output.strip() for _ in range(2)]
    assert said == [f"{tmp_path}/rul: 2 small files became 1", f"{tmp_path}/rul: no small files"]
