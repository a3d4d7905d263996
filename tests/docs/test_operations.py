"""The pages on operations, followed command by command on a running pipeline."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from kafka import KafkaProducer
from ray.dashboard.modules.job.cli import submit

from tests.cli.test_cli import ray_address  # noqa: F401  (a fixture)
from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.cli.app import app

ROWS = 4000


@pytest.fixture
def tour(kafka: KafkaServer, ray_address: str, tmp_path: Path) -> Iterator[Tour]:  # noqa: F811
    """`rul`, running and at the end of its topic. It has its own broker, since other tests feed that topic, too."""
    with KafkaServer(data=tmp_path / "kafka") as server:
        tour = Tour(tmp_path / "tour", server.bootstrap_servers)
        tour.environment |= {"TOCSIN_RAY__ADDRESS": ray_address, "TOCSIN_MLFLOW__ENABLED": "false"}
        tour(f"tocsin feed rul --from sim --limit {ROWS} --rate 0")
        producer = KafkaProducer(bootstrap_servers=server.bootstrap_servers)
        producer.send("sensors.industrial", b'{"unit": 1, "cycle": "first"}', partition=0)
        producer.close()
        tour("tocsin up rul")
        try:
            tour.wait_committed("rul", ROWS + 1)
            yield tour
        finally:
            tour("tocsin stop rul")


def test_ray_and_tocsin_know_what_the_page_submits() -> None:
    """A full run needs a cluster with a dashboard. Here, Ray and Tocsin only parse the page's commands."""
    submitted = re.findall(r"^ray (job submit .+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert len(submitted) == 2
    for line in submitted:
        context = submit.make_context("ray job submit", shlex.split(line)[2:])
        assert context.params["working_dir"] == "." and context.params["address"].startswith("http://")
        command, *arguments = context.params["entrypoint"]
        known: Any = typer.main.get_command(app)
        found = known.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        assert command == "tocsin" and found.params["pipeline"] == "rul"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["operations.md", "upkeep.md"])
def test_every_command_of_the_page_works(tour: Tour, page: str) -> None:
    said = {}
    for command in [line for kind, text in blocks(ROOT / "docs" / page) if kind == "sh" for line in text.splitlines()]:
        said[command] = tour(command)
        if command == "tocsin pause rul":
            tour.until(lambda shards: {s["state"] for s in shards} == {"paused"}, "all shards to be paused", "rul")
    tour.wait_committed("rul", ROWS + 1)
    assert {s["state"] for s in tour.shards("rul")} == {"running"}
