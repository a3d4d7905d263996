"""Machines are lost: nodes of a Ray cluster die while a pipeline that was deployed from elsewhere is under load."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Cli
from tests.conftest import ROOT
from tests.crash.deployed import actor
from tests.crash.harness import Job
from tests.support.nodes import Node, Nodes
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer

SHARDS = 2
TOML = """
lake.path = "{job.lake.root}"
lake.alerts = false
mlflow.enabled = false
[pipelines.{job.name}]
factory = "own:pipeline"
topic = "{job.topic}"
every = "500ms"
shards = {shards}
workers = {shards}
"""


class Shipped:
    """A job that is deployed with its own module from a folder, which is deleted then."""

    def __init__(self, job: Job, nodes: Nodes, folder: Path) -> None:
        (project := folder / "project").mkdir()
        (project / "tocsin.toml").write_text(TOML.format(job=job, shards=SHARDS))
        shutil.copy(ROOT / "tests" / "crash" / "job.py", project / "own.py")
        kafka = {"TOCSIN_KAFKA__BOOTSTRAP_SERVERS": job.kafka["bootstrap_servers"]}
        self._job, self._nodes = job, nodes
        Cli(project, **nodes.access, **kafka)("deploy", job.name, "--address", nodes.head.dashboard)
        shutil.rmtree(project)
        self._cli = Cli(folder, **nodes.access, **kafka, TOCSIN_RAY__ADDRESS=nodes.head.address)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The shards that `tocsin status` reports."""
        return self._cli.json("status", self._job.name)[0]["pipelines"][0]["shards"]

    def goes_on(self) -> list[Node]:
        """Wait until every shard has read more rows. Returns the nodes that the shards run on."""
        before = {shard["shard"]: sum(shard["read"].values()) for shard in self.shards}

        def further() -> list[dict[str, Any]] | None:
            now = [
                shard
                for shard in self.shards
                if shard["state"] == "running" and sum(shard["read"].values()) > before.get(shard["shard"], 0) + 50
            ]
            return now if len(now) == SHARDS else None

        return [node for shard in until(further, "all shards to go on") if (node := self._nodes.of(shard["pid"]))]

    def stop(self) -> None:
        self._cli("stop", self._job.name)


@pytest.mark.slow
def test_a_pipeline_outlives_the_loss_of_the_nodes_of_its_workers_and_of_its_supervisor(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, shards=SHARDS)
    with Nodes() as nodes:
        for _ in range(SHARDS):
            nodes.add(cpus=1)
        shipped = Shipped(job, nodes, tmp_path)
        with job.load(rate=200):
            assert len({id(node) for node in shipped.goes_on()}) == SHARDS

            nodes.lose(shipped.goes_on()[0])
            nodes.add(cpus=1)  # it joins after the job has ended
            shipped.goes_on()

            while (node := nodes.of(actor("Supervisor"))) in (None, nodes.head):
                os.kill(actor("Supervisor"), signal.SIGKILL)  # Ray starts it again on any node
                shipped.goes_on()
            assert node
            nodes.lose(node)
            nodes.add(cpus=1)
            shipped.goes_on()
        until(job.whole(), "all input to be in the table")
        shipped.stop()
        assert job.differences() == []
