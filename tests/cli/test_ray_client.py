"""Commands as clients of a Ray cluster (`ray://`), from a machine that is none of its nodes, as the live page on Kubernetes is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.ports import free_port
from tests.support.tour import environment
from tests.support.waits import until
from tocsin.pipelines.cli.cluster import CLIENT_JOIN_S

pytestmark = pytest.mark.slow
GRACE_S = 10.0
"""Imports, on a busy machine."""


def run(address: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Ask for the status. Returns what it said, and how long it took."""
    command, began = ["tocsin", "--set", f"ray.address={address}", "status"], time.monotonic()
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="correct-horse-battery-staple-0123")
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=120)
    return done, time.monotonic() - began


@pytest.fixture
def address() -> Iterator[str]:
    """The address for clients of a head that `ray start` has started; the head ends with the test."""
    gcs, port = free_port(), free_port()
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # the path of a socket has at most 107 characters
        command = ["ray", "start", "--head", "--block", f"--port={gcs}", f"--ray-client-server-port={port}"]
        command += ["--num-cpus=1", "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="correct-horse-battery-staple-0123")
        head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield f"ray://127.0.0.1:{port}"
        head.terminate()
        head.wait(60)


def test_a_client_of_the_cluster_is_answered(address: str, tmp_path: Path) -> None:
    def answered() -> bool:  # Ray may fail to start the process for a client, which then is to try again
        done, seconds = run(address, tmp_path)
        assert seconds < CLIENT_JOIN_S + GRACE_S
        return done.stdout == "no pipeline runs on this Ray cluster\n"

    until(answered, "an answer", 120)


def test_a_cluster_that_is_away_is_one_line(tmp_path: Path) -> None:
    done, seconds = run(f"ray://127.0.0.1:{free_port()}", tmp_path)
    assert done.returncode == 1 and seconds < CLIENT_JOIN_S + GRACE_S
    assert done.stderr.startswith("tocsin: Ray at ray://127.0.0.1:") and len(done.stderr.splitlines()) == 1
