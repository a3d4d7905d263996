"""Recurring threads: whatever fails in a round, the next round runs."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from tocsin.pipelines.runtime.control import recurring as recurring_
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.desired_state import DesiredState
from tocsin.pipelines.runtime.control.recurring import recurring
from tocsin.pipelines.runtime.control.supervisor import Supervisor
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.storage import Lake


class Panic(BaseException):
    """An exception as a library in Rust raises it: it is no `Exception`."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurring_, "FAILED_S", 0.0)


def test_an_error_is_logged_once_and_the_next_round_comes(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = [KeyError("a"), KeyError("a"), Panic("b"), None, KeyError("a")]
    rounds = iter(outcomes)

    def work() -> None:
        if outcome := next(rounds):
            raise outcome

    pauses = iter([*[False] * len(outcomes), True])
    recurring("job/follow", work, lambda: next(pauses)).join(10)
    assert next(rounds, "all done") == "all done"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"job/follow: this round failed with {what}; retrying in the next round"
        for what in ("KeyError: 'a'", "Panic: b", "KeyError: 'a'")
    ]


def test_a_wait_that_fails_ends_no_thread_either(caplog: pytest.LogCaptureFixture) -> None:
    waits = iter([RuntimeError("no cluster"), None])
    done = threading.Event()

    def pause() -> bool:
        if (reason := next(waits, "over")) == "over":
            return True
        if isinstance(reason, Exception):
            raise reason
        return False

    recurring("job/supervise", done.set, pause).join(10)
    assert done.is_set()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_supervisor_goes_on_following_the_registry_whatever_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, again = iter([KeyError("aliases"), OSError("no space left"), Panic("arrow")]), threading.Event()

    def follow(*_: object) -> bool:
        if reason := next(asked, None):
            raise reason
        again.set()
        return False

    monkeypatch.setattr(DesiredState, "follow", follow)
    monkeypatch.setattr("tocsin.pipelines.runtime.control.supervisor.drain", lambda *_: {})
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.logs.start", lambda **_: None)
    for name in ("_tick", "_track"):
        monkeypatch.setattr(Supervisor, name, lambda *_: None)
    plan = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
    tracked = {"tracking": ("sqlite://", "tocsin"), "follows": "job@champion", "follow_s": 0.05, "shadow": False}
    supervisor = Supervisor(Deployment(plan, Lake(str(tmp_path)), {}, partitions=1, **tracked))  # type: ignore[arg-type]
    assert again.wait(10)
    supervisor.stop()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split("failed with ")[1].split(":")[0] for line in said] == ["KeyError", "OSError", "Panic"]
