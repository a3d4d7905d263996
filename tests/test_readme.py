"""The README's tour: each block of commands runs as it stands in the README."""

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import ROOT
from tests.support.tour import Tour, blocks
from tocsin.deploy.kafka.server import KafkaServer

BLOCKS = blocks(ROOT / "README.md")
README = {kind: [text for of, text in BLOCKS if of == kind] for kind in ("sh", "python", "toml")}
COMMANDS = [line for block in README["sh"] for line in block.splitlines()]


@pytest.fixture(scope="module")
def tour(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    folder = tmp_path_factory.mktemp("readme")
    # Its own broker, since other tests feed the README's topics, too.
    with KafkaServer(data=folder / "kafka") as server:
        tour = Tour(folder, server.bootstrap_servers)
        yield tour
        tour.stop()


def only(beginning: str) -> str:
    """The only command of the README with this beginning."""
    (command,) = (c for c in COMMANDS if c.startswith(beginning))
    return command


def test_feed_run_alerts_and_queries(tour: Tour) -> None:
    assert tour(only("tocsin feed rul")).startswith("12,000 rows in 12,000 messages to sensors.industrial")
    assert "\nok      input topic        sensors.industrial" in tour(only("tocsin check rul"))
    tour.run(only("tocsin run rul").removesuffix(" &"))
    give_up = time.monotonic() + 150
    while True:
        (pipeline,) = json.loads(tour(only("tocsin status rul")))["pipelines"]
        committed = sum(sum(shard["committed"].values()) for shard in pipeline["shards"])
        # The table of alerts is there once a worker has taken it over.
        if committed == 12_000 and [shard["state"] for shard in pipeline["landing"]] == ["running"]:
            break
        assert time.monotonic() < give_up, pipeline
        time.sleep(1)
    events = [json.loads(line) for line in tour(only("tocsin alerts rul")).splitlines()]
    assert {e["data"]["rule"] for e in events if e["type"].endswith("raised")} == {"warning", "critical"}
    answer = [json.loads(line) for line in tour(f"""{only('tocsin query "SELECT unit')} --json""").splitlines()]
    assert [list(row) for row in answer] == [["unit", "cycle", "rul"]] * 5
    assert answer[0]["rul"] < 20
    while json.loads(tour('tocsin query "SELECT count(*) AS n FROM alerts" --json'))["n"] < len(events):
        assert time.monotonic() < give_up, "expected all alerts in the table"
        time.sleep(1)
    landed = [json.loads(line) for line in tour(f"""{only('tocsin query "SELECT event_time')} --json""").splitlines()]
    newest = sorted((e["time"] for e in events), reverse=True)[:5]
    assert [datetime.fromisoformat(row["event_time"]) for row in landed] == [*map(datetime.fromisoformat, newest)]
    assert {json.loads(row["data"])["rule"] for row in landed} <= {"warning", "critical"}
    assert tour(only("tocsin dlq list rul")) == "no dead letters\n"
    assert "rule critical" in tour(only("tocsin state show rul"))
    assert re.search(r"rows from .+ UTC: rul-7.png", tour(only("tocsin plot rul")))
    assert (tour.folder / "rul-7.png").stat().st_size > 10_000
    assert "alerts would have been published" in tour(only("tocsin backfill rul"))
    assert "small files became" in tour(only("tocsin compact rul"))


def test_python_reads_the_same(tour: Tour) -> None:
    block, _ = README["python"]
    (tour.folder / "tour.py").write_text(block)
    said = tour("python tour.py")
    assert "unit" in said
    assert "critical raised" in said
    tour.stop()  # training the pumps does not need it


@pytest.mark.slow
def test_pumps_train_and_run_with_no_python_written(tour: Tour) -> None:
    for block in README["toml"]:
        name = re.match(r"# (\S+)\n", block)
        assert name
        (tour.folder / name[1]).write_text(block)
    write_pumps(tour.folder / "pumps")
    trained = json.loads(tour(f"{only('tocsin train rul')} --epochs 3 --json"))
    assert [tried["seed"] for tried in trained["seeds"]] == [0, 1]
    assert (trained["name"], trained["version"]) == ("pumps", "1")
    evaluated = json.loads(tour(f"{only('tocsin evaluate rul --data pumps')} --json"))
    assert evaluated["counted"]["rows"] == 12 * 100
    assert evaluated["figures"]["rmse"] < 30
    _, block = README["python"]
    (tour.folder / "served.py").write_text(block)
    served = tour("python served.py")
    assert "'v8': double" in served and "'rul_low': float" in served
    fed = json.loads(tour(f"{only('tocsin feed pumps')} --json"))
    assert (fed["topic"], fed["rows"]) == ("sensors.pumps", 12 * 100)
    tour.run(only("tocsin run pumps").removesuffix(" &"))
    tour.wait_committed("pumps", fed["rows"])
    assert tour(only("tocsin dlq list pumps")) == "no dead letters\n"
    pumps = tour.json(only('tocsin query "SELECT pump'))
    assert [(row["pump"], row["hour"]) for row in pumps] == [(name, 100) for name in sorted(f"P{i}" for i in range(12))]
    assert all(row["rul"] < 40 for row in pumps)
    tour.stop()


def write_pumps(folder: Path) -> None:
    """Write a CSV file for each of twelve pumps that fail after 100 hours. Their channels drift as they wear."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for pump in range(12):
        hour = np.arange(1, 101)
        wear = (hour / 100)[:, None] ** 2 * np.linspace(-3, 3, 8)
        channels = rng.normal(wear, 0.2)
        table = {"pump": [f"P{pump}"] * 100, "hour": hour} | {f"v{i + 1}": channels[:, i] for i in range(8)}
        pl.DataFrame(table).write_csv(folder / f"{pump}.csv")
