"""The engines: how each is started on a job, and where its rows are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from benchmarks.peers import jobs

ROOT = Path(__file__).parents[2]
JOBS = Path(jobs.__path__[0])
PEERS = ROOT / ".venv-peers/bin/python"
OWN = Path(sys.executable)
CLIENTS = ("librdkafka", "kafka-python")


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
            "PYTHONPATH": str(ROOT),
        }


@dataclass(frozen=True)
class Engine:
    """An engine.

    Args:
        windows: the command of a run that writes windows; None: there is none.
        written: the number of rows that a reader of its table sees.
        rows: its table.
        alerts: the command of a run that publishes alerts; None: there is none.
    """

    name: str
    windows: Callable[[Run], Sequence[str]] | None
    written: Callable[[Path], int]
    rows: Callable[[Path], pl.DataFrame]
    alerts: Callable[[Run], Sequence[str]] | None = None


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


def _parquet(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{folder}/*.parquet", columns=["unit", "cycle", "mean"])


def _csv(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "rows.csv").filter(pl.col("diff") == 1).select("unit", "cycle", "mean")


def _delta(folder: Path) -> pl.DataFrame:
    try:
        table = DeltaTable(str(next(folder.glob("**/_delta_log")).parent))
    except (StopIteration, TableNotFoundError):
        return pl.DataFrame(schema={"unit": pl.Int64, "cycle": pl.Int64, "mean": pl.Float64})
    return pl.from_arrow(table.to_pyarrow_table(columns=["unit", "cycle", "mean"]))  # type: ignore[return-value]


def _tocsin(client: str, job: str) -> Callable[[Run], Sequence[str]]:
    def command(run: Run) -> Sequence[str]:
        settings = run.folder / "tocsin.toml"
        settings.write_text(
            f'[kafka]\nbootstrap_servers = "{run.kafka}"\nclient = "{client}"\n\n[lake]\npath = "{run.out}"\n\n'
            f"[mlflow]\nenabled = false\n\n[pipelines.{run.folder.name}]\n"
            f'factory = "benchmarks.peers.jobs.tocsin_{job}:pipeline"\ntopic = "{run.topic}"\nstart = "earliest"\n'
        )
        return [str(OWN), "-m", "tocsin", "run", run.folder.name]

    return command


def _own(script: str, client: str) -> Callable[[Run], Sequence[str]]:
    return lambda run: [str(OWN), str(JOBS / script), client]


def _peer(script: str) -> Callable[[Run], Sequence[str]]:
    return lambda run: [str(PEERS), str(JOBS / script)]


def _bytewax(script: str) -> Callable[[Run], Sequence[str]]:
    return lambda run: [str(PEERS), "-m", "bytewax.run", f"{JOBS / script}:flow"]


def engines() -> dict[str, Engine]:
    """The engines by their names, the peers in alphabetical order."""
    found = [
        *(Engine(f"bare relay, {c}", None, ParquetFiles(), _parquet, _own("relay_alerts.py", c)) for c in CLIENTS),
        *(Engine(f"loop by hand, {c}", _own("loop_windows.py", c), ParquetFiles(), _parquet) for c in CLIENTS),
        Engine("Bytewax", _bytewax("bytewax_windows.py"), ParquetFiles(), _parquet, _bytewax("bytewax_alerts.py")),
        Engine("Pathway", _peer("pathway_windows.py"), Lines(), _csv),
        Engine("Quix Streams", _peer("quix_windows.py"), ParquetFiles(), _parquet),
        *(Engine(f"Tocsin, {c}", _tocsin(c, "windows"), DeltaCommits(), _delta, _tocsin(c, "alerts")) for c in CLIENTS),
    ]
    return {engine.name: engine for engine in found}
