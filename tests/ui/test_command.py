"""`tocsin ui` as a person starts and ends it."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the live page needs NiceGUI: pip install 'tocsin[ui]'")

from tests.support.ports import free_port
from tests.support.tour import environment


def start(folder: Path, port: int) -> subprocess.Popen[str]:
    """Start the page over an empty lake, without a broker."""
    command = ["tocsin", "--set", "kafka.bootstrap_servers=localhost:1", "ui", "--port", str(port)]
    return subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_serves_once_it_says_so_and_ends_at_a_signal(tmp_path: Path, how: signal.Signals, status: int) -> None:
    page = start(tmp_path, port := free_port())
    try:
        assert page.stderr
        assert page.stderr.readline() == f"Tocsin at http://127.0.0.1:{port}, until Ctrl-C\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/alerts", timeout=60) as answer:
            assert answer.status == 200
        page.send_signal(how)
        _, said = page.communicate(timeout=30)
        assert (page.returncode, "Traceback" in said) == (status, False), said
    finally:
        page.kill()
        page.wait()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, said = (page := start(tmp_path, port)).communicate(timeout=60)
    assert page.returncode == 1
    assert said == (
        f"tocsin: tocsin ui: expected to listen on 127.0.0.1, port {port}, got: Address already in use; choose another --port or "
        "--host\n"
    )
