"""A local Ray: it starts quickly, listens on 127.0.0.1 only, and runs no part that is not used."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import ray_constants

from tests.support.waits import until
from tocsin.pipelines.runtime.control import local_ray
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.telemetry.metrics import endpoints


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(local_ray, "SESSIONS", tmp_path)
    return tmp_path


def test_it_starts_the_store_the_raylet_and_workers_only() -> None:
    before = {*psutil.Process().children(recursive=True)}  # of other tests
    connect("local", cpus=2, env={"TOCSIN_TEST_LOCAL": "there"})
    try:
        found = ray.get(
            ray.remote(num_cpus=0)(lambda: (os.getpid(), os.nice(0), os.environ["TOCSIN_TEST_LOCAL"])).remote()
        )
        names = {process.name() for process in {*psutil.Process().children(recursive=True)} - before}
        serves = endpoints()
    finally:
        ray.shutdown()
    assert names <= {"gcs_server", "raylet", "sh", "sleep"} | {name for name in names if name.startswith("ray::")}
    assert {"gcs_server", "raylet"} <= names
    assert not {name for name in names if "agent" in name.lower() or "dashboard" in name.lower()}
    assert found[1:] == (0, "there")
    until(lambda: not psutil.pid_exists(found[0]), "the worker to end", seconds=30)  # `ray.shutdown` does not wait
    assert serves == []
    assert "TOCSIN_TEST_LOCAL" not in os.environ


def test_any_free_port_serves_metrics_even_one_that_ray_would_take_for_itself() -> None:
    port = ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        pytest.skip(f"port {port} is taken on this machine")
    connect("local", cpus=1, metrics_port=port)
    try:
        assert endpoints() == [f"http://127.0.0.1:{port}/metrics"]
    finally:
        ray.shutdown()


def test_sessions_that_have_ended_are_cleared_but_for_the_newest(sessions: Path) -> None:
    for day in range(1, 6):
        (sessions / f"session_2026-01-0{day}_00-00-00_000000_{2**22 + day}" / "logs").mkdir(
            parents=True
        )  # no such process
    mine = sessions / f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    mine.mkdir()
    local_ray.clear()
    left = sorted(path.name[:18] for path in sessions.iterdir() if path != mine)
    assert mine.exists()
    assert left == ["session_2026-01-04", "session_2026-01-05"]
