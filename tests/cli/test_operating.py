"""Operating a pipeline, live or stopped: show its state, reset it, and backfill a span of time."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.cli.test_cli import Cli, committed
from tests.support.background import Background
from tests.support.forked import Tocsin
from tocsin.deploy.kafka.server import KafkaServer

ROWS = 6000
PRESSES = (
    'SELECT "partition", "offset", unit, cycle, rul, rul_low, event_time FROM presses ORDER BY "partition", "offset"'
)


class Plant(Cli):
    """Runs `tocsin`, and one pipeline in the background on its own Ray cluster."""

    running: Background | None = None

    def begin(self, rows: int) -> None:
        """Start the pipeline, and wait until it has committed `rows` readings."""
        self.running = self.run("presses")
        self.eventually(lambda said: committed(said) == rows, "status", "presses")

    def halt(self) -> None:
        """Stop the pipeline once it has committed."""
        if self.running:
            self.running.stop()
            self.running = None

    def rows(self, sql: str = PRESSES) -> pl.DataFrame:
        return pl.DataFrame(self.json("query", sql))


@pytest.fixture(scope="module")
def plant(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A running pipeline `presses` of two shards that has processed `ROWS` readings of 100 engines."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "tocsin.toml").write_text(
        """
        mlflow.enabled = false
        ray.num_cpus = 0
        [pipelines.presses]
        factory = "tocsin.pipelines.rul:pipeline"
        model = "rul@champion"
        topic = "sensors.presses"
        shards = 2
        every = "500ms"
        """
    )
    plant = Plant(folder, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers)
    plant("feed", "presses", "--from", "sim", "--limit", str(ROWS), "--rate", "0")
    plant.begin(ROWS)
    yield plant
    plant.halt()


def looked(watching: Tocsin) -> dict[str, Any]:
    """Read a watch's output until it lists a shard. Returns the first shard."""
    while True:
        line = watching.stdout.readline()
        assert line, f"expected another look, got the end of the command: {watching.communicate()[1]}"
        (pipeline,) = json.loads(line)["pipelines"]
        if pipeline["shards"]:
            return pipeline["shards"][0]


@pytest.mark.slow  # half a minute
def test_the_memory_of_an_engine_is_shown_while_the_pipeline_runs(plant: Plant) -> None:
    newest = plant.rows().filter(unit=7).sort("cycle").tail(1).to_dicts()[0]
    (memory,) = plant.json("state", "show", "presses", "7")
    assert (memory["key"], memory["partition"]) == ("7", newest["partition"])
    assert memory["state"]["0-Sorted/newest"] == newest["cycle"]
    ((*_, oldest),) = memory["state"]["1-Life/life"]  # one regime; the last band forgets nothing
    assert oldest[-1] == len(plant.rows().filter(unit=7))
    assert set(memory["rules"]) == {"warning", "critical", "out_of_domain"} and memory["waiting"] == {}
    text = plant("state", "show", "presses", "7", "--partition", str(newest["partition"]))
    assert text.startswith(f"7 on partition {newest['partition']}, last seen 20")
    assert "1-Life/life" in text and "rule critical" in text


def test_an_alert_that_is_on_is_shown_as_firing_since_it_rang(plant: Plant) -> None:
    rang: dict[str, dict[str, Any]] = {}
    for event in plant.json("alerts", "presses"):
        if event["data"]["rule"] == "warning":
            rang[event["subject"]] = event
    key, event = next((key, e) for key, e in rang.items() if e["type"].endswith("raised"))
    (memory,) = plant.json("state", "show", "presses", key)
    rule = memory["rules"]["warning"]
    assert rule["firing"] and rule["rang"][:23] == event["time"][:23]
    assert re.search(r"rule warning +firing since 20\d\d-", plant("state", "show", "presses", key))


def test_an_unknown_engine_is_one_line_with_the_nearest(plant: Plant) -> None:
    says = plant("state", "show", "presses", "7x", status=1)
    assert re.fullmatch(
        r"tocsin: state of presses: expected one of its \d+ keys, got '7x'; the nearest: .*\b7\b.*\n", says
    )
    assert "expected a checkpoint in" in plant("state", "show", "nothing", "7", status=1)


def test_a_pipeline_that_runs_is_not_reset(plant: Plant) -> None:
    said = plant("reset", "presses", "--to", "earliest", "--yes", status=1)
    assert said.splitlines()[-1].endswith("expected it to be stopped, but it runs; run `tocsin stop presses` first")


def test_a_span_judged_again_is_what_the_pipeline_wrote(plant: Plant) -> None:
    before, alerts = plant.rows(), plant.json("alerts", "presses")
    times = before["event_time"].sort()
    since, until = times[len(times) // 3], times[2 * len(times) // 3]
    file = plant.folder / "would.ndjson"
    (done,) = plant.json(
        "backfill",
        "presses",
        "--from",
        since,
        "--to",
        until,
        "--warmup",
        "1h",
        "--into",
        "again",
        "--alerts",
        str(file),
    )
    wrote = before.filter(pl.col("event_time").is_between(pl.lit(since), pl.lit(until), closed="left"))
    again = plant.rows(PRESSES.replace("presses", "again"))
    assert done["rows"] == len(again) == len(wrote) > 100
    same = ["partition", "offset", "unit", "cycle", "event_time"]
    assert again.select(same).equals(wrote.select(same))
    for column in ("rul", "rul_low"):
        one, other = (np.array(frame[column].to_list()) for frame in (again, wrote))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    ids = {json.loads(line)["id"] for line in file.read_text().splitlines()}
    assert ids == {a["id"] for a in alerts if since <= a["time"] < until} and len(ids) == done["alerts"]
    assert sorted(e["id"] for e in plant.json("alerts", "presses")) == sorted(e["id"] for e in alerts)
    assert "expected a new one, got a backfill of presses" in plant(
        "backfill", "presses", "--from", since, "--to", until, "--into", "again", status=1
    )
    said = plant("backfill", "presses", "--from", since, "--to", until, "--into", "again", "--overwrite")
    assert re.match(
        r"again: [\d,]+ rows from [\d,]+ records; \d+ alerts would have been published: \d+ raised, \d+ cleared", said
    )


@pytest.mark.slow
def test_a_watch_goes_on_with_the_next_run_and_its_other_ray(plant: Plant) -> None:
    own = {name: value for name, value in plant.environment.items() if name != "TOCSIN_RAY__ADDRESS"}
    watching = Tocsin(["status", "presses", "--watch", "--json"], plant.folder, own)  # of the folder's current run
    assert looked(watching)["worker"]
    plant.halt()
    plant.begin(ROWS)
    pid = plant.json("status", "presses")[0]["pipelines"][0]["shards"][0]["pid"]
    while looked(watching)["pid"] != pid:
        pass
    watching.send_signal(signal.SIGINT)
    assert watching.communicate()[1].strip() and watching.returncode == 0


@pytest.mark.slow  # over a minute; tests/crash/test_reset.py has the resets themselves
def test_reset_deletes_what_is_judged_again_and_each_row_comes_once(plant: Plant) -> None:
    before, alerts = plant.rows(), Counter(event["id"] for event in plant.json("alerts", "presses"))
    plant.halt()
    asked = plant.start("reset", "presses", "--to", "earliest")
    assert asked.wait(60) == 1  # the confirmation gets no answer
    assert plant.rows().equals(before)

    (done,) = plant.json("reset", "presses", "--to", "earliest", "--yes")
    assert done == {"pipeline": "presses", "deleted_rows": len(before), "positions": {str(p): 0 for p in range(4)}}
    assert plant.rows("SELECT COUNT(*) AS rows FROM presses")["rows"].to_list() == [0]
    assert "expected one of its 0 keys" in plant("state", "show", "presses", "7", status=1)
    plant.begin(ROWS)
    after = plant.rows()
    same = ["partition", "offset", "unit", "cycle", "event_time"]
    assert after.select(same).equals(before.select(same))
    np.testing.assert_allclose(after["rul"], before["rul"], rtol=1e-4, atol=1e-4)
    again = Counter(event["id"] for event in plant.json("alerts", "presses"))
    assert again == alerts + alerts
    plant.halt()
    said = plant("reset", "presses", "--to", "latest", "--yes")
    assert re.match(r"presses will continue from latest \(0@\d+, .*\); deleted 0 rows and all state", said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["reset", "rul", "--to", "yesterday"], "time yesterday: expected a duration such as 2h or a time"),
        (["reset", "rul", "--to", "earliest", "--yes"], "topic nowhere: expected it to exist, got none"),
        (["backfill", "rul", "--from", "1h", "--to", "2h", "--into", "x"], "expected a later end"),
        (
            ["backfill", "rul", "--from", "2h", "--to", "1h", "--into", "x"],
            "topic nowhere: expected it to exist, got none",
        ),
        (["backfill", "rul", "--from", "2h", "--to", "1h", "--into", "rul"], "--into rul: expected a table of its own"),
        (["backfill", "rul", "--from", "2h", "--to", "1h", "--into", "a/b"], "--into a/b: expected a name of letters"),
        (
            ["backfill", "rul", "--from", "2h", "--to", "1h", "--into", "x", "--warmup", "long"],
            "expected a duration such",
        ),
    ],
)
def test_an_error_is_one_line_on_stderr(
    kafka: KafkaServer, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    cli = Cli(
        tmp_path,
        TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        TOCSIN_RAY__ADDRESS="127.0.0.1:9",
        TOCSIN_PIPELINES__RUL__TOPIC="nowhere",
        TOCSIN_PIPELINES__RUL__FACTORY="tocsin.pipelines.rul:pipeline",
        TOCSIN_PIPELINES__RUL__MODEL="rul@champion",
        TOCSIN_MLFLOW__ENABLED="false",
    )
    process = cli.start(*arguments)
    out, err = process.communicate(timeout=180)
    last = err.splitlines()[-1]
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in err
    assert last.startswith("tocsin: ")
    assert expected in last
