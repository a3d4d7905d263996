"""The notebooks: each cell runs, over a small lake that `replay` has made, and nothing that a run leaves is in the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from PIL import Image

from tests.conftest import ROOT
from tests.support import lakes
from tests.support.tour import environment
from tocsin.deploy.kafka.server import KafkaServer

FILES = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
ENGINES, CYCLES, SECONDS = 10, 160, 20


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of which some engines fail, a room over two days, and a dive."""
    folder = tmp_path_factory.mktemp("lake")
    for made in (lakes.fleet(ENGINES, CYCLES), lakes.building(1, 2), lakes.dive(SECONDS)):
        lakes.land(folder, *made)
    return folder


@pytest.fixture(scope="module")
def broker(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of its own, whose topic `alerts.rul` has the fleet's alerts."""
    with KafkaServer(data=tmp_path_factory.mktemp("kafka")) as server:
        with KafkaAdminClient(bootstrap_servers=server.bootstrap_servers) as admin:
            admin.create_topics({"alerts.rul": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        with closing(KafkaProducer(bootstrap_servers=server.bootstrap_servers)) as producer:
            for alert in lakes.fleet(ENGINES, CYCLES)[2]:
                producer.send("alerts.rul", key=alert.key.encode(), value=alert.value(), headers=alert.headers())
        yield server.bootstrap_servers


def run(name: str, folder: Path, lake: Path, broker: str = "localhost:1") -> str:
    """Run a notebook in a folder. Returns what its cells show."""
    variables = {"TOCSIN_LAKE__PATH": str(lake), "TOCSIN_KAFKA__BOOTSTRAP_SERVERS": broker, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.docs.notebook", str(ROOT / "docs" / "notebooks" / f"{name}.ipynb")]
    env = environment() | variables
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_results_shows_rows_alerts_and_the_truth(lake: Path, broker: str, tmp_path: Path) -> None:
    said = run("results", tmp_path, lake, broker)
    shapes = [(int(rows), int(columns)) for rows, columns in re.findall(r"shape: \((\d+), (\d+)\)", said)]
    assert len(shapes) == 7
    latest, sql, topic, episodes, seen, truth, scores = shapes
    assert latest == (10, 6) and sql == (5, 3) and topic == (10, 4) and episodes[0] == 10
    assert seen[0] > 0 and truth == (9, 3) and scores[0] >= 4
    assert re.search(r"critical +.* +\d\d\.\d", said)
    ((rows, rmse),) = re.findall(r"│ 0 +┆ (\d+) +┆ \S+ +┆ (\S+) +│", said)
    assert int(rows) >= 50 and float(rmse) < 10, "the network knows an engine's last cycles"


def test_plots_draws_an_engine_a_room_and_a_camera(lake: Path, tmp_path: Path) -> None:
    run("plots", tmp_path, lake)
    pictures = sorted(tmp_path.glob("*.png"))
    assert [file.stem for file in pictures] == ["1", "2", "3", "4", "5"]
    for file in pictures:
        assert np.asarray(Image.open(file).convert("L")).std() > 5, f"{file} is blank"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_notebook_has_no_outputs_and_stands_on_the_page(file: Path) -> None:
    content = json.loads(file.read_text())
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code and [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert f"](notebooks/{file.name})" in (ROOT / "docs" / "notebooks.md").read_text()


def test_there_are_two() -> None:
    assert [file.stem for file in FILES] == ["plots", "results"]
