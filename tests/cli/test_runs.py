"""The files that `tocsin run` leaves in its folder, and how other commands use them. No Ray is started."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tocsin.pipelines.cli import cluster, runs
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.declare.errors import Unavailable


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "TOCSIN_RAY__ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _status() -> list[dict[str, object]]:
    said = CliRunner().invoke(app, ["status", "--json"])
    assert said.exit_code == 0, said.output
    (look,) = map(json.loads, said.stdout.splitlines())
    assert look["at"]
    return look["pipelines"]


def test_status_of_a_folder_in_which_nothing_runs_joins_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "joined_at", lambda *_, **__: pytest.fail("joined a Ray"))
    assert _status() == []
    assert "no pipeline runs in this folder" in CliRunner().invoke(app, ["status"]).stdout


def test_a_run_whose_ray_has_not_started_is_starting() -> None:
    with runs.announced("rul"):
        (look,) = _status()
        assert (look["pipeline"], look["ready"]) == ("rul", False)
        assert "starting" in CliRunner().invoke(app, ["status"]).stdout
        assert isinstance(CliRunner().invoke(app, ["stop", "rul"]).exception, Unavailable)
    assert _status() == []


def test_other_commands_join_the_ray_of_this_folders_run_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def joined_at(address: str, **_: object) -> Iterator[None]:
        found.append(address)
        yield

    found: list[str] = []
    monkeypatch.setattr(cluster, "joined_at", joined_at)
    settings = _settings()
    with runs.announced("rul") as say, runs.announced("touch") as say_other:
        say("127.0.0.1:1")
        say_other("127.0.0.1:2")
        for pipeline in ("rul", "touch"):
            with cluster.joined(settings, pipeline):
                pass
        assert found == ["127.0.0.1:1", "127.0.0.1:2"]
        (other := folder / "other").mkdir()
        monkeypatch.chdir(other)
        with (
            pytest.raises(Unavailable, match=r"expected a `tocsin run` in .*/other, got none"),
            cluster.joined(settings),
        ):
            pass


def _settings() -> object:
    from tocsin.pipelines.cli.invocation import Invocation

    return Invocation().settings()


def test_word_of_a_run_that_was_killed_is_deleted() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        pass
    runs.FOLDER.mkdir(parents=True)
    (runs.FOLDER / "rul-1.json").write_text(json.dumps({"pipeline": "rul", "pid": ended.pid, "address": "127.0.0.1:1"}))
    assert runs.active_runs() == []
    assert list(runs.FOLDER.iterdir()) == []


def test_a_ray_that_does_not_answer_ends_the_command_with_one_line() -> None:
    code = "import time; from tocsin.pipelines.cli.cluster import within\nwith within(0.2, 'Ray at x'): time.sleep(60)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tocsin: Ray at x: expected an answer within 0.2 s, got none")
    assert time.monotonic() - started < 30
