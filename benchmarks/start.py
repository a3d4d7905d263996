"""Measure how long a person waits for a command, with Apache Kafka: `run` to its first committed row, `up`, `status` and others.

    python -m benchmarks.start [--rounds 5]

Python writes no bytecode, as in most container images, so only files that the set-up has compiled are compiled. All commands but
`run` use a running Ray cluster of two cores. With a registry, a command resolves its model there, which costs the import of
MLflow. Each command is therefore timed with and without a registry.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson

from tocsin.deploy.kafka.server import KafkaServer

NAME, TOPIC, ROWS = "up", "sensors.start", 3000
ROOT = Path(__file__).parents[1]
CLUSTER = """
import sys
from tocsin.pipelines.runtime.control.ray_client import connect
connect("local", cpus=2)
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
COMMANDS: Mapping[str, Sequence[str]] = {
    "--help": ["--help"],
    "status": ["status"],
    "check": ["check", NAME],
    "query": ["query", f"SELECT count(*) FROM {NAME}"],
    "alerts": ["alerts", NAME],
    "dlq list": ["dlq", "list", NAME],
    "state show": ["state", "show", NAME, "7"],
}
"""The commands that are timed while the pipeline runs on the cluster."""


class Shell:
    """A folder with settings, in which `tocsin` commands run.

    Args:
        pipelines: names of the pipelines, each of which starts without state.
        address: of the Ray cluster.
    """

    def __init__(
        self, folder: Path, server: KafkaServer, pipelines: Sequence[str], *, mlflow: bool, address: str = "local"
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_MODE": "token",
        }
        shared = f"""
            kafka.bootstrap_servers = "{server.bootstrap_servers}"
            mlflow.enabled = {str(mlflow).lower()}
            ray.address = "{address}"
            ray.num_cpus = 0
            """
        section = f"""
            factory = "tocsin.pipelines.rul:pipeline"
            model = "rul@champion"
            topic = "{TOPIC}"
            """
        (folder / "tocsin.toml").write_text(shared + "".join(f"[pipelines.{name}]{section}" for name in pipelines))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a `tocsin` command."""
        with (self._folder / "said").open("ab") as output:
            return subprocess.Popen(
                [str(Path(sys.executable).parent / "tocsin"), *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )

    def seconds(self, *arguments: str) -> float:
        """Run a command. Returns the seconds that it takes."""
        began = time.perf_counter()
        if self.start(*arguments).wait():
            raise RuntimeError(f"tocsin {' '.join(arguments)}: {(self._folder / 'said').read_text()[-500:]}")
        return time.perf_counter() - began

    def first_row(self, pipeline: str) -> float:
        """Return the seconds from the start of `tocsin run` until the table's log has the first rows."""
        began = time.perf_counter()
        run = self.start("run", pipeline)
        while not self._committed(pipeline):
            if run.poll() is not None:
                raise RuntimeError((self._folder / "said").read_text()[-500:])
            time.sleep(0.02)
        elapsed = time.perf_counter() - began
        run.send_signal(signal.SIGINT)
        run.wait(120)
        return elapsed

    def _committed(self, pipeline: str) -> bool:
        commits = (self._folder / "lake" / pipeline / "_delta_log").glob("*.json")
        return any("add" in orjson.loads(line) for commit in commits for line in commit.read_bytes().splitlines())


def measure(server: KafkaServer, folder: Path, rounds: int, *, mlflow: bool) -> dict[str, list[float]]:
    """Return the seconds of each command in each round."""
    names = [f"run{number}" for number in range(rounds + 1)]
    shell, runs = Shell(folder, server, names, mlflow=mlflow), "run, to the first row"
    durations = {
        runs: [shell.first_row(name) for name in names][1:]
    }  # without the first run, which creates the registry
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as cluster:
        assert cluster.stdin and cluster.stdout
        shell = Shell(folder, server, [NAME], mlflow=mlflow, address=cluster.stdout.readline().strip())
        for number in range(rounds):
            durations.setdefault("up", []).append(shell.seconds("up", NAME))
            time.sleep(5)  # until everything that starts after the shards has started
            if number == 0:
                for name, arguments in COMMANDS.items():
                    durations[name] = [shell.seconds(*arguments) for _ in range(rounds)]
            durations.setdefault("stop", []).append(shell.seconds("stop", NAME))
        cluster.stdin.close()
    return durations


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    both = []
    for mlflow in (False, True):  # each with its own broker, since a pipeline's journal belongs to one lake
        with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
            Shell(Path(folder), server, [NAME], mlflow=False).seconds(
                "feed", NAME, "--from", "sim", "--limit", str(ROWS), "--rate", "0"
            )
            both.append(measure(server, Path(folder), rounds, mlflow=mlflow))
    print(f"| | without MLflow, s (median of {rounds}, range) | with it, s |\n|---|---|---|")
    for name, seconds in both[0].items():
        print(f"| {name} | {_summary(seconds)} | {_summary(both[1][name])} |")


def _summary(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
