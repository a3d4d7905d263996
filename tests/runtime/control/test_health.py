"""Health: live while the supervisor's loop runs, ready while every shard runs, and the reasons if not. See also test_seeing.py."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.ports import free_port
from tocsin.pipelines.runtime.control import health
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.health import COMMIT_S, SLOW_S, CommitAges, Health, problems
from tocsin.pipelines.runtime.control.supervisor import Supervisor
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.storage import Lake

Get = Callable[[str], tuple[int, dict[str, Any]]]


def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as said:
            return said.status, json.load(said)
    except urllib.error.HTTPError as said:
        return said.code, json.load(said)


@pytest.fixture
def endpoint() -> Iterator[Health]:
    served = Health("rul", "127.0.0.1", free_port())
    yield served
    served.close()


def shard(n: int = 0, state: str = "running", error: str = "", age: float = 0, **facts: Any) -> dict[str, Any]:
    return {"shard": n, "state": state, "error": error, "facts": {"turn_s": 0.1, **facts}, "uncommitted_s": age}


def status(*shards: dict[str, Any], of: int = 1) -> dict[str, Any]:
    return {"shards": list(shards), "problems": problems(of, shards)}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (shard(), ""),
        (shard(state="refused", error="topic sensors: expected it to exist"), "topic sensors: expected it to exist"),
        (shard(state="refused", error="lake s3://me:hush@host: gone"), "lake s3://me:***@host: gone"),
        (shard(state="restarting"), "its worker ended; another one is starting"),
        (shard(state="starting"), "it is recovering"),
        (shard(state="paused"), "the pipeline is paused"),
        (
            shard(topic="sensors") | {"unread": [4, 5]},
            "partitions 4, 5 were added to sensors; it will read them soon",
        ),
        (shard(turn_s=SLOW_S + 15), "its step has taken 45 s"),
        (shard(age=COMMIT_S + 12), "it has committed nothing for 312 s"),
        (shard(age=COMMIT_S + 12, commit_every_s=600.0), ""),
        (shard(1), "no worker has reported it yet"),
    ],
)
def test_a_shard_that_does_not_work_says_why(found: dict[str, Any], why: str) -> None:
    said = problems(1, [found])
    assert [p["why"] for p in said] == ([why] if why else [])
    if why:
        assert said[0]["shard"] == 0
        assert said[0]["state"] == (found["state"] if found["shard"] == 0 else "unknown")


def test_a_commits_age_grows_while_something_waits_and_its_worker_comes_and_goes(monkeypatch) -> None:
    now, commits = [0.0], CommitAges()
    monkeypatch.setattr("tocsin.pipelines.runtime.control.health.time.monotonic", lambda: now[0])

    def age(at: float, read: int = -1, committed: int = -1) -> float:
        now[0] = at
        return commits.age(0, {"read": {0: read}, "committed": {0: committed}} if read >= 0 else {})

    assert age(0) == 0  # the first recovery
    assert age(100, read=5, committed=5) == 0  # nothing to commit, however long
    assert age(900, read=5, committed=5) == 0
    assert age(910, read=9, committed=5) == 10
    assert age(915) == 15  # its worker is down
    assert age(920, read=9, committed=5) == 20
    assert age(925, read=12, committed=9) == 0


def test_it_answers_live_and_ready(endpoint: Health) -> None:
    endpoint.beat(status(shard(0), shard(1), of=2))
    assert get(endpoint.port, "/livez") == (200, {"pipeline": "rul", "live": True})
    assert get(endpoint.port, "/readyz?verbose") == (200, {"pipeline": "rul", "ready": True, "problems": []})
    everything = {
        "pipeline": "rul",
        "live": True,
        "ready": True,
        "problems": [],
        "shards": {"0": "running", "1": "running"},
    }
    assert get(endpoint.port, "/healthz") == (200, everything)
    assert get(endpoint.port, "/etc/passwd")[0] == 404


def test_it_is_live_but_not_ready_while_a_shard_needs_a_person(endpoint: Health) -> None:
    endpoint.beat(status(shard(0), shard(1, "refused", "restore the topic"), of=2))
    problem = {"shard": 1, "state": "refused", "why": "restore the topic"}
    assert get(endpoint.port, "/livez")[0] == 200
    assert get(endpoint.port, "/readyz") == (503, {"pipeline": "rul", "ready": False, "problems": [problem]})
    assert get(endpoint.port, "/healthz")[0] == 503


def test_before_the_first_beat_it_is_not_ready(endpoint: Health) -> None:
    assert get(endpoint.port, "/livez")[0] == 200
    code, said = get(endpoint.port, "/readyz")
    assert (code, said["problems"][0]["why"]) == (503, "no worker has reported it yet")


def test_it_listens_where_it_is_told_and_without_a_port_nowhere(endpoint: Health) -> None:
    assert endpoint._server and endpoint._server.server_address[0] == "127.0.0.1"
    assert Health("rul", "127.0.0.1", 0).port == 0


def test_a_port_in_use_is_one_line_and_taken_once_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other, caplog.at_level(logging.WARNING):
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        served = Health("rul", "127.0.0.1", port)
        served.beat(status(shard()))
        served.beat(status(shard()))
        assert served.port == 0
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith(f"health endpoint at 127.0.0.1:{port}: expected a free port, got ")
    served.beat(status(shard()))
    try:
        assert get(port, "/readyz")[0] == 200
    finally:
        served.close()


def test_a_supervisor_whose_loop_is_stuck_is_not_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, go_on = Event(), Event()

    def tend(*_: object) -> None:
        if stuck.is_set():
            go_on.wait()

    monkeypatch.setattr(Supervisor, "_reconcile", tend)
    for name in ("_adopt", "_place"):  # they need Ray
        monkeypatch.setattr(Supervisor, name, lambda *_: None)
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.logs.start", lambda **_: None)
    monkeypatch.setattr("tocsin.pipelines.runtime.control.supervisor.drain", lambda *_: {})
    monkeypatch.setattr(health, "LIVE_S", 2.0)
    port = free_port()
    plan = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
    deployment = Deployment(plan, Lake(str(tmp_path)), {}, partitions=1, health=("127.0.0.1", port))
    supervisor = Supervisor(deployment)
    try:
        time.sleep(3)
        assert get(port, "/livez")[0] == 200
        stuck.set()
        time.sleep(3.5)
        code, said = get(port, "/livez")
        assert (code, said["live"]) == (503, False) and said["why"].startswith(
            "the supervisor's loop has completed no round for"
        )
        assert get(port, "/readyz")[0] == 503
        go_on.set()
        time.sleep(1.5)
        assert get(port, "/livez")[0] == 200
    finally:
        go_on.set()
        supervisor.stop()
        supervisor._health.close()
