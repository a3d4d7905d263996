"""`tocsin deploy` on a Ray cluster that requires a token, and commands with `--address`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import Cli
from tests.conftest import ROOT
from tests.support.nodes import Nodes
from tests.support.ports import free_port
from tests.support.shipped import refusal as undeclared
from tests.support.tour import BIN
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer

TOML = """
mlflow.enabled = false
lake.path = "{lake}"
lake.alerts = false
ray.num_cpus = 0
kafka.sasl_plain_password_file = "/run/secrets/kafka"
[pipelines.forges]
factory = "forges:pipeline"
topic = "{topic}"
every = "500ms"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A cluster of one node, which has the file with the password elsewhere."""
    (password := tmp_path_factory.mktemp("secrets") / "kafka").write_text("hush-file")
    with Nodes(TOCSIN_KAFKA__SASL_PLAIN_PASSWORD_FILE=str(password)) as nodes:
        yield nodes


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command in a folder with settings and a module of its own."""
    (folder := tmp_path / "project").mkdir()
    (folder / "tocsin.toml").write_text(TOML.format(lake=tmp_path / "lake", topic="sensors.forges"))
    shutil.copy(ROOT / "tests" / "crash" / "job.py", folder / "forges.py")
    return Cli(folder)


def refusal(cli: Cli, *arguments: str, address: str = "http://127.0.0.1:1") -> str:
    """The error of a `tocsin deploy forges` that is refused."""
    (line,) = cli("deploy", "forges", "--address", address, *arguments, status=1).splitlines()
    return line


def test_no_cluster_at_the_address_is_one_line(cli: Cli) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert refusal(cli, address=address).startswith(f"tocsin: Ray at {address}: expected a cluster's dashboard, got: ")
    assert "expected the address of its dashboard, such as http://head:8265" in refusal(cli, address="127.0.0.1:6379")


def test_an_unknown_pipeline_a_lake_in_the_folder_and_settings_elsewhere_are_refused_before_anything_is_sent(
    cli: Cli, tmp_path: Path
) -> None:
    said = cli("deploy", "nope", "--address", "http://127.0.0.1:1", status=1)
    assert said.startswith("tocsin: " + undeclared("nope", beside=["forges"]))
    (elsewhere := tmp_path / "elsewhere.toml").write_text("")
    said = cli("--config", str(elsewhere), "deploy", "forges", "--address", "http://127.0.0.1:1", status=1)
    assert f"{elsewhere}: expected a file in {cli.folder}" in said
    (cli.folder / "tocsin.toml").write_text(TOML.format(lake="lake", topic="sensors.forges"))
    assert "lake.path: expected a place that every machine of the cluster reaches" in refusal(cli)


def test_a_secret_on_the_command_line_is_refused(cli: Cli) -> None:
    secret = "kafka.sasl_plain_password=hush"
    said = cli("--set", secret, "deploy", "forges", "--address", "http://127.0.0.1:1", status=1)
    assert said.startswith(
        "tocsin: --set kafka.sasl_plain_password: expected a setting that may be shown, got a secret"
    )
    assert "hush" not in said


def test_without_the_clusters_token_each_command_says_what_to_do(cli: Cli, cluster: Nodes, tmp_path: Path) -> None:
    outside = Cli(tmp_path)
    outside.environment = cli.environment = cli.environment | {"HOME": str(tmp_path)}  # where no token is
    dashboard, gcs, client = cluster.head.dashboard, cluster.head.address, cluster.client
    expected = "expected the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token, got "
    assert f"Ray at {dashboard}: {expected}none; put it there" in refusal(cli, address=dashboard)
    assert f"Ray at {gcs}: {expected}none; put it there" in outside("status", "--address", gcs, status=1)
    cli.environment["RAY_AUTH_TOKEN"] = "f" * 64
    assert f"{expected}another one" in refusal(cli, address=dashboard)
    for address in (gcs, client):
        assert f"{expected}another one" in outside("stop", "forges", "--address", address, status=1)
    disabled = cli.environment | {"RAY_AUTH_MODE": "disabled"}  # Ray reads it on import, so in a new process
    command = [str(BIN / "tocsin"), "pause", "forges", "--address", gcs]
    said = subprocess.run(command, cwd=tmp_path, env=disabled, capture_output=True, text=True).stderr
    assert f"{expected}none, since RAY_AUTH_MODE is not `token`; unset it" in said


def test_only_deploy_takes_a_dashboards_address(tmp_path: Path) -> None:
    said = Cli(tmp_path)("status", "--address", "http://127.0.0.1:8265", status=1)
    assert "ray.address on the command line: expected local, auto, host:port or ray://host:10001" in said


def test_a_folder_that_ray_does_not_accept_is_one_line(cli: Cli, cluster: Nodes) -> None:
    cli.environment |= cluster.access
    (cli.folder / "frames.bin").write_bytes(os.urandom(101 << 20))
    said = cli("deploy", "forges", "--address", cluster.head.dashboard, status=1)
    assert said.splitlines()[-1].startswith(f"tocsin: {cli.folder}: expected at most 100 MiB of compressed files")


def test_a_job_that_is_submitted_otherwise_does_not_write_its_results_into_its_copy(
    cluster: Nodes, tmp_path: Path
) -> None:
    (tmp_path / "tocsin.toml").write_text('ray.address = "auto"\nmlflow.enabled = false\n')
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "tocsin", "up", "rul"]
    environment = {**os.environ, **cluster.access, "RAY_API_SERVER_ADDRESS": cluster.head.dashboard}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "tocsin: lake.path: expected a place that every machine of the cluster reaches" in done.stdout


@pytest.mark.slow
def test_a_folder_is_deployed_with_its_module_and_settings_but_no_secret_and_the_pipeline_outlives_the_job(
    cli: Cli, cluster: Nodes, kafka: KafkaServer, topic: str, tmp_path: Path
) -> None:
    (cli.folder / "tocsin.toml").write_text(TOML.format(lake=tmp_path / "lake", topic=topic))
    cli.environment |= cluster.access | {
        "TOCSIN_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "TOCSIN_SCHEMA_REGISTRY__TOKEN": "hush-token",
    }
    address = ["--address", cluster.head.dashboard]
    (report,) = cli.json("--set", "pipelines.forges.rows=128", "deploy", "forges", *address)
    assert [shard["state"] for shard in report["shards"]] == ["running"]

    jobs = cluster.get("/api/jobs/")
    (job,) = [job for job in json.loads(jobs) if job["submission_id"] == report["job"]]
    assert job["status"] == "SUCCEEDED"
    assert job["entrypoint"].startswith(
        "tocsin --config tocsin.toml --set pipelines.forges.rows=128 --set ray.address=auto up"
    )
    assert set(job["runtime_env"]["env_vars"]) == {"TOCSIN_KAFKA__BOOTSTRAP_SERVERS"}
    assert "hush" not in jobs

    assert "pipeline forges: expected it not to run yet, but it does" in cli("deploy", "forges", *address, status=1)

    shutil.rmtree(cli.folder)
    cli.folder = tmp_path
    os.kill(report["shards"][0]["pid"], signal.SIGKILL)

    def restarted() -> bool:
        (shard,) = cli.json("status", "forges", "--address", cluster.client)[0]["pipelines"][0]["shards"]
        return (shard["state"], shard["restarts"]) == ("running", 1)

    until(restarted, "another worker with the module")
    cli("stop", "forges", "--address", cluster.client)
