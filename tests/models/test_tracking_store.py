"""A new MLflow database: several processes create it at the same time, or a process is killed while it does so."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tocsin.models.tracking_store import connect

CONNECT = """
import sys
import mlflow
from tocsin.models.tracking_store import connect

print("imported", flush=True)
sys.stdin.readline()
print(len(connect(sys.argv[1]).search_registered_models()))
"""


@contextmanager
def connecting(uri: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported MLflow and connects once it reads a line."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CONNECT, uri], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "imported\n"
        try:
            yield process
        finally:
            process.kill()


def test_processes_that_create_a_database_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with ExitStack() as stack:
        processes = [stack.enter_context(connecting(f"sqlite:///{folder}/mlflow.db")) for _ in range(3)]
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(0.5)  # the next one starts during the first one's migrations
        ends = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in ends] == ["0\n"] * 3, ends
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]


def test_a_process_that_is_killed_while_it_creates_a_database_leaves_none_behind(tmp_path: Path) -> None:
    uri, file = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db"
    with connecting(uri) as process:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob(".mlflow.db.*/mlflow.db")):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not file.exists()
    assert connect(uri).search_registered_models() == []
    assert file.exists()
