"""What a person waits for, on Apache Kafka, from the Enter key on: `run` to its first committed row, `up`, `status` and the others.

    python -m benchmarks.start [--rounds 5]

Bytecode is off in the environment, as in most container images, so that only what set-up has compiled is compiled. `up`, `stop` and
all that follow are on a Ray cluster of two cores that is there already. A registry that is there is asked which model is meant, and
costs the import of MLflow; each command is therefore timed without one, too.
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
"""What is timed while the pipeline runs on the cluster."""


class Shell:
    """A folder with settings in which `tocsin` is typed.

    Args:
        pipelines: their names; each starts from nothing.
        address: of Ray.
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
        own = f"""
            factory = "tocsin.pipelines.rul:pipeline"
            model = "rul@champion"
            topic = "{TOPIC}"
            """
        (folder / "tocsin.toml").write_text(shared + "".join(f"[pipelines.{name}]{own}" for name in pipelines))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Type a command."""
        with (self._folder / "said").open("ab") as said:
            return subprocess.Popen(
                [str(Path(sys.executable).parent / "tocsin"), *arguments],
                cwd=self._folder,
                env=self._environment,
                stdout=said,
                stderr=said,
            )

    def seconds(self, *arguments: str) -> float:
        """How long a command takes."""
        began = time.perf_counter()
        if self.start(*arguments).wait():
            raise RuntimeError(f"tocsin {' '.join(arguments)}: {(self._folder / 'said').read_text()[-500:]}")
        return time.perf_counter() - began

    def first_row(self, pipeline: str) -> float:
        """How long `tocsin run` takes until the table's log has its first rows."""
        began = time.perf_counter()
        run = self.start("run", pipeline)
        while not self._committed(pipeline):
            if run.poll() is not None:
                raise RuntimeError((self._folder / "said").read_text()[-500:])
            time.sleep(0.02)
        took = time.perf_counter() - began
        run.send_signal(signal.SIGINT)
        run.wait(120)
        return took

    def _committed(self, pipeline: str) -> bool:
        commits = (self._folder / "lake" / pipeline / "_delta_log").glob("*.json")
        return any("add" in orjson.loads(line) for commit in commits for line in commit.read_bytes().splitlines())


def measure(server: KafkaServer, folder: Path, rounds: int, *, mlflow: bool) -> dict[str, list[float]]:
    """Seconds of each command, round by round."""
    names = [f"run{number}" for number in range(rounds + 1)]
    shell, runs = Shell(folder, server, names, mlflow=mlflow), "run, to the first row"
    took = {runs: [shell.first_row(name) for name in names][1:]}  # the first one makes the registry
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
            took.setdefault("up", []).append(shell.seconds("up", NAME))
            time.sleep(5)  # what begins behind the shards has begun
            if number == 0:
                for name, arguments in COMMANDS.items():
                    took[name] = [shell.seconds(*arguments) for _ in range(rounds)]
            took.setdefault("stop", []).append(shell.seconds("stop", NAME))
        cluster.stdin.close()
    return took


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    both = []
    for mlflow in (False, True):  # each with a broker of its own: a pipeline's journal goes with one lake
        with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
            Shell(Path(folder), server, [NAME], mlflow=False).seconds(
                "feed", NAME, "--from", "sim", "--limit", str(ROWS), "--rate", "0"
            )
            both.append(measure(server, Path(folder), rounds, mlflow=mlflow))
    print(f"| | without MLflow, s (median of {rounds}, range) | with it, s |\n|---|---|---|")
    for name, seconds in both[0].items():
        print(f"| {name} | {_told(seconds)} | {_told(both[1][name])} |")


def _told(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
