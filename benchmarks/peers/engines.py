"""The engines: how each is started on a job, and where its rows are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from deltalake import DeltaTable

from benchmarks.peers import jobs

ROOT = Path(__file__).parents[2]
JOBS = Path(jobs.__path__[0])
PEERS = ROOT / ".venv-peers/bin/python"
OWN = Path(sys.executable)
CLIENTS = ("librdkafka", "kafka-python")
TABLES = ("windows", "arrow", "rul", "frames")
"""The jobs that write a table."""


@dataclass(frozen=True)
class Run:
    """One run of an engine: the broker, the topic that it reads, and a folder of its own, which names the run."""

    kafka: str
    topic: str
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def env(self) -> dict[str, str]:
        """What the jobs read from their environment."""
        return {
            "KAFKA": self.kafka,
            "TOPIC": self.topic,
            "ALERTS": f"alerts.{self.folder.name}",
            "OUT": str(self.out),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, JOBS))),
        }


Command = Callable[[Run], Sequence[str]]


@dataclass(frozen=True)
class Engine:
    """An engine.

    Args:
        commands: job -> the command of a run. A job that is missing is one for which the engine has no usual way.
        written: the number of rows that a reader of its table sees.
        rows: the columns of its table.
    """

    name: str
    commands: Mapping[str, Command]
    written: Callable[[Path], int]
    rows: Callable[[Path, Sequence[str]], pl.DataFrame]


class ParquetFiles:
    """Counts the rows of files that appear one by one."""

    def __init__(self) -> None:
        self._counted: dict[Path, int] = {}

    def __call__(self, folder: Path) -> int:
        for path in folder.glob("*.parquet"):
            if path not in self._counted:
                self._counted[path] = pq.read_metadata(path).num_rows
        return sum(rows for path, rows in self._counted.items() if path.parent == folder)


class DeltaCommits:
    """Counts the rows of a Delta table's commits."""

    def __init__(self) -> None:
        self._counted: dict[Path, int] = {}

    def __call__(self, folder: Path) -> int:
        log = next(iter(folder.glob("**/_delta_log")), None)
        for path in log.glob("*.json") if log else ():
            if path not in self._counted:
                self._counted[path] = sum(_added(line) for line in path.read_bytes().splitlines())
        return sum(rows for path, rows in self._counted.items() if folder in path.parents)


class Lines:
    """Counts the rows of a CSV file that grows."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, int]] = {}

    def __call__(self, folder: Path) -> int:
        path = folder / "rows.csv"
        if not path.exists():
            return 0
        at, lines = self._read.get(path, (0, 0))
        with path.open("rb") as file:
            file.seek(at)
            new = file.read()
        self._read[path] = at + len(new), lines + new.count(b"\n")
        return max(self._read[path][1] - 1, 0)


def _added(action: bytes) -> int:
    add = json.loads(action).get("add")
    return json.loads(add["stats"])["numRecords"] if add else 0


def _parquet(folder: Path, columns: Sequence[str]) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path, columns=list(columns)) for path in sorted(folder.glob("*.parquet"))])


def _csv(folder: Path, columns: Sequence[str]) -> pl.DataFrame:
    return pl.read_csv(folder / "rows.csv").filter(pl.col("diff") == 1).select(columns)


def _delta(folder: Path, columns: Sequence[str]) -> pl.DataFrame:
    table = DeltaTable(str(next(folder.glob("**/_delta_log")).parent))
    return pl.from_arrow(table.to_pyarrow_table(columns=list(columns)))  # type: ignore[return-value]


def _tocsin(client: str, job: str) -> Command:
    def command(run: Run) -> Sequence[str]:
        settings = run.folder / "tocsin.toml"
        settings.write_text(
            f'[kafka]\nbootstrap_servers = "{run.kafka}"\nclient = "{client}"\n\n[lake]\npath = "{run.out}"\n\n'
            f"[mlflow]\nenabled = false\n\n[pipelines.{run.folder.name}]\n"
            f'factory = "benchmarks.peers.jobs.tocsin_{job}:pipeline"\ntopic = "{run.topic}"\nstart = "earliest"\n'
        )
        return [str(OWN), "-m", "tocsin", "run", run.folder.name]

    return command


def _own(script: str, client: str) -> Command:
    return lambda run: [str(OWN), str(JOBS / script), client]


def _peer(script: str) -> Command:
    return lambda run: [str(PEERS), str(JOBS / script)]


def _bytewax(script: str) -> Command:
    return lambda run: [str(PEERS), "-m", "bytewax.run", f"{JOBS / script}:flow"]


def _bytewax_recovering(run: Run) -> Sequence[str]:
    state = run.folder / "state"
    if not state.exists():
        state.mkdir()
        subprocess.run([str(PEERS), "-m", "bytewax.recovery", str(state), "1"], check=True)
    return [*_bytewax("bytewax_windows.py")(run), "-r", str(state), "-s", "5", "-b", "0"]


def engines() -> dict[str, Engine]:
    """The engines by their names, the peers in alphabetical order."""
    relays = [
        Engine(f"bare relay, {c}", {"alerts": _own("relay_alerts.py", c)}, ParquetFiles(), _parquet) for c in CLIENTS
    ]
    loops = [
        Engine(f"loop by hand, {c}", {job: _own(f"loop_{job}.py", c) for job in TABLES}, ParquetFiles(), _parquet)
        for c in CLIENTS
    ]
    bytewax = {job: _bytewax(f"bytewax_{job}.py") for job in ("windows", "arrow", "alerts")}
    pathway, rows, quix = (
        {job: _peer(f"{script}.py") for job in ("windows", "kill")}
        for script in ("pathway_windows", "pathway_rows", "quix_windows")
    )
    tocsin = {
        c: {
            **{job: _tocsin(c, job) for job in (*TABLES, "alerts")},
            "kill": _tocsin(c, "windows"),
            "once": _tocsin(c, "alerts"),
        }
        for c in CLIENTS
    }
    at_least_once = {"once": _tocsin("librdkafka", "at_least_once")}
    found = [
        *relays,
        *loops,
        Engine("Bytewax", {**bytewax, "kill": _bytewax_recovering}, ParquetFiles(), _parquet),
        Engine("Pathway by windowby", pathway, Lines(), _csv),
        Engine("Pathway by a function", rows, ParquetFiles(), _parquet),
        Engine("Quix Streams", quix, ParquetFiles(), _parquet),
        *(Engine(f"Tocsin, {c}", tocsin[c], DeltaCommits(), _delta) for c in CLIENTS),
        Engine("Tocsin, librdkafka, at least once", at_least_once, DeltaCommits(), _delta),
    ]
    return {engine.name: engine for engine in found}
