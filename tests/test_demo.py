"""`tocsin demo` from end to end, as `make demo` runs it: no terminal, and only this machine."""

import re
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import psutil
import pytest

from tests.support.ports import free_port
from tests.support.tour import environment, make
from tests.support.waits import until

MARK = "TOCSIN_TEST_DEMO"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The demo's folder, its output, and the mark that its processes carry."""
    folder, mark = tmp_path_factory.mktemp("demo"), uuid.uuid4().hex
    given = environment(**{MARK: mark, "TOCSIN_KAFKA__BOOTSTRAP_SERVERS": "not.here:1"})
    command = make("demo", "ARGS=--seconds 8")
    done = subprocess.run(command, cwd=folder, env=given, text=True, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, mark


def test_the_demo_shows_fleet_alert_answer_run_and_what_is_next(shown: tuple[Path, str, str]) -> None:
    _, said, _ = shown
    assert re.search(r"\d+ engines +\d+ healthy +\d+ warning +\d+ critical +\d+ alerts", said)
    assert re.search(r"\n +\d+ +\d+ +━+.* \d+  (healthy|warning|critical)", said)
    assert '"specversion": "1.0"' in said
    assert '"type": "io.tocsin.alert.raised"' in said
    assert re.search(r"\ncritical +\d+ +\d+ +\d", said)
    assert re.search(r"run [0-9a-f]{32} of experiment tocsin", said)
    following, _, page = said.partition("\nnext ")[2].partition("\nthe web page")
    assert len(following.strip().splitlines()) == 5
    assert len(page.strip().splitlines()) == 3


def test_every_window_of_the_demo_is_in_its_table_once(shown: tuple[Path, str, str]) -> None:
    from tocsin import results

    folder, said, _ = shown
    table = results("rul", lake=folder / ".tocsin/demo/lake").collect()
    assert table.select("partition", "offset").is_duplicated().sum() == 0
    (judged,) = re.findall(r"([\d,]+) rows scored", said)[-1:]
    assert table.height == int(judged.replace(",", "")) > 10_000


def test_the_commands_that_it_names_next_work(shown: tuple[Path, str, str]) -> None:
    folder, said, _ = shown
    command = next(line for line in said.splitlines() if " query " in line)
    done = subprocess.run(command, shell=True, cwd=folder, env=environment(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["unit", "rul"]


def test_the_page_that_it_offers_last_serves_the_demos_table(shown: tuple[Path, str, str]) -> None:
    pytest.importorskip("nicegui", reason="the live page needs NiceGUI: pip install 'tocsin[ui]'")
    folder, said, _ = shown
    command, where = said.splitlines()[-2:]
    assert "http://127.0.0.1:8082;" in where
    port = free_port()
    page = subprocess.Popen(
        ["sh", "-c", f"exec {command} --port {port}"], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert page.stderr
        until(lambda: f"127.0.0.1:{port}" in page.stderr.readline(), "the page to listen", 120)
        for path in ("/", "/assets?pipeline=rul", "/query"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                assert answer.status == 200 and b"Tocsin" in answer.read()
    finally:
        page.terminate()
        assert page.wait(30) in (0, -15)


def test_the_demo_leaves_no_process(shown: tuple[Path, str, str]) -> None:
    mark, give_up = shown[2], time.monotonic() + 10
    while left := [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get(MARK) == mark]:
        assert time.monotonic() < give_up, left
        time.sleep(0.2)


def test_the_embedded_broker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from tocsin.deploy.embedded import EmbeddedBroker
broker = EmbeddedBroker(log=Path({str(tmp_path / "log")!r}))
broker.start()
print(broker.port, flush=True)
input()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    port = int(parent.stdout.readline())
    (guard,) = psutil.Process(parent.pid).children()
    (broker,) = guard.children()
    assert any(c.laddr.port == port for c in broker.net_connections())
    parent.kill()
    parent.wait()
    broker.wait(10)
