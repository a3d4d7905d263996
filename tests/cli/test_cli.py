"""The command line as people and scripts use it: one process per command, on a real Ray cluster and a real broker."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka import KafkaProducer

from tests.conftest import ROOT
from tests.support.background import Background
from tests.support.forked import Tocsin
from tests.support.shipped import refusal
from tests.support.tour import BIN
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.simulation.fleet import live
from tocsin.pipelines.runtime.kafka.feeder import feed

ROWS = 6000
CLUSTER = """
import sys
from tocsin.pipelines.runtime.control.ray_client import connect
connect("local", cpus=2)
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


class Cli:
    """Runs `tocsin` in one folder, with one environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", **variables}

    def start(self, *arguments: str) -> Tocsin:
        return Tocsin(arguments, self.folder, self.environment)

    def run(self, pipeline: str, *settings: str) -> Background:
        """Run a pipeline in the background. Later commands use its Ray cluster."""
        command = [str(BIN / "tocsin"), *settings, "run", pipeline]
        return Background(command, folder=self.folder, environment=self.environment)

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run a command. Returns standard output, or standard error if `status` is not 0."""
        out, err = (process := self.start(*arguments)).communicate()
        assert process.returncode == status, out + err
        return err if status else out

    def json(self, *arguments: str) -> list[Any]:
        """Run a command with `--json`. Returns its lines, parsed."""
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]

    def eventually(self, holds: Callable[[list[Any]], bool], *arguments: str, seconds: float = 400) -> list[Any]:
        give_up = time.monotonic() + seconds
        while not holds(said := self.json(*arguments)):
            assert time.monotonic() < give_up, said
            time.sleep(1)
        return said


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster in a process of its own, as under `tocsin run`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", CLUSTER]
    cluster = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert cluster.stdin
    assert cluster.stdout
    yield cluster.stdout.readline().strip()
    cluster.stdin.close()
    cluster.wait(60)


@pytest.fixture(scope="module")
def tocsin(kafka: KafkaServer, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A running pipeline `turbines` that has processed `ROWS` readings and one record that is not JSON."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tocsin.toml").write_text(
        f"""
        ray.address = "{ray_address}"
        ray.num_cpus = 0
        mlflow.enabled = false
        [pipelines.turbines]
        factory = "tocsin.pipelines.rul:pipeline"
        model = "rul@champion"
        topic = "sensors.turbines"
        every = "500ms"
        """
    )
    cli = Cli(folder, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers)
    report = cli.json("feed", "turbines", "--from", "sim", "--limit", str(ROWS), "--rate", "0")
    assert report[0]["rows"] == ROWS
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    producer.send("sensors.turbines", b"not JSON", partition=0)
    producer.close()
    (up,) = cli.json("up", "turbines")
    assert [shard["state"] for shard in up["shards"]] == ["running"]
    cli.eventually(lambda said: committed(said) == ROWS + 1, "status", "turbines")
    yield cli
    cli("stop", "turbines")
    assert cli.json("status")[0]["pipelines"] == []


def committed(said: list[Any]) -> int:
    return sum(sum(s["committed"].values()) for p in said[-1]["pipelines"] for s in p["shards"])


def test_status_shows_positions_lag_and_model_of_each_shard(tocsin: Cli) -> None:
    (pipeline,) = tocsin.json("status")[0]["pipelines"]
    (shard,) = pipeline["shards"]
    assert pipeline["pipeline"] == "turbines"
    assert sum(shard["read"].values()) == sum(shard["committed"].values()) == ROWS + 1
    assert (shard["lag"], shard["error"], shard["restarts"]) == (0, "", 0)
    assert shard["model"] == "rul/shipped"
    assert shard["dead_letters"] == 1 and shard["dead_letter"]["error"] == "Malformed"
    shown = tocsin("status", "turbines")
    assert "turbines/0" in shown and "position" in shown.splitlines()[0]
    assert "turbines/0: 1 dead letter, the newest " in shown
    assert f"sensors.turbines[0]@{shard['dead_letter']['offset']}: decode: Malformed: expected " in " ".join(
        shown.split()
    )


def test_query_answers_sql_in_json_and_as_a_table(tocsin: Cli) -> None:
    sql = "SELECT unit, COUNT(*) AS windows, MIN(rul) AS rul FROM turbines GROUP BY unit ORDER BY unit LIMIT 3"
    answer = tocsin.json("query", sql)
    assert [row["unit"] for row in answer] == [1, 2, 3]
    assert all(row["windows"] > 0 and 0 <= row["rul"] <= 125 for row in answer)
    assert tocsin("query", sql).split()[:3] == ["unit", "windows", "rul"]


def test_alerts_are_cloud_events_each_once(tocsin: Cli) -> None:
    events = tocsin.json("alerts", "turbines")
    assert len(events) > 10
    assert len({event["id"] for event in events}) == len(events)
    assert {event["type"] for event in events} <= {"io.tocsin.alert.raised", "io.tocsin.alert.cleared"}
    assert all(event["specversion"] == "1.0" and event["source"] == "/tocsin/turbines" for event in events)
    raised = [event["data"] for event in events if event["type"].endswith("raised")]
    assert all(data["rul"] < {"warning": 50, "critical": 20}[data["rule"]] for data in raised)


def test_following_alerts_ends_at_ctrl_c(tocsin: Cli) -> None:
    following = tocsin.start("alerts", "turbines", "--follow", "--json")
    assert following.stdout
    assert json.loads(following.stdout.readline())["specversion"] == "1.0"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate()
    assert (following.returncode, err) == (0, "")


def test_dead_letters_say_where_and_why(tocsin: Cli) -> None:
    for of in ("turbines", "sensors.turbines"):
        (letter,) = tocsin.json("dlq", "list", of)
        assert (letter["topic"], letter["partition"], letter["stage"]) == ("sensors.turbines", 0, "decode")
        assert letter["size"] == len(b"not JSON")
        assert letter["error"]
        assert letter["message"]


def test_compaction_beside_a_running_shard_neither_fences_it_nor_loses_rows(tocsin: Cli) -> None:
    before = tocsin.json("status")[0]["pipelines"][0]["shards"][0]
    feeding = tocsin.start(
        "feed", "turbines", "--from", "sim", "--seed", "7", "--limit", "9000", "--rate", "1500", "--json"
    )
    compacted = []
    while feeding.poll() is None:
        compacted += tocsin.json("compact", "turbines")
    report = json.loads(feeding.communicate()[0])
    assert any(done["files_before"] > done["files_after"] > 0 for done in compacted)
    said = tocsin.eventually(lambda said: committed(said) == ROWS + 1 + report["rows"], "status", "turbines")
    shard = said[0]["pipelines"][0]["shards"][0]
    assert (shard["pid"], shard["epoch"], shard["restarts"]) == (before["pid"], before["epoch"], 0)
    (counts,) = tocsin.json(
        "query", 'SELECT COUNT(*) AS rows, COUNT(DISTINCT partition * 1000000 + "offset") AS records FROM turbines'
    )
    assert counts["rows"] == counts["records"] > 0
    assert tocsin("compact", "turbines", "--vacuum", "23h", status=1).startswith(
        "tocsin: vacuum 23h: expected at least 24h"
    )


def test_check_finds_nothing_wrong_with_a_living_pipeline_and_leaves_it_alone(tocsin: Cli, ray_address: str) -> None:
    facts = ("pid", "epoch", "restarts")
    before = tocsin.json("status")[0]["pipelines"][0]["shards"][0]
    found = {f["check"]: (f["state"], f["said"]) for f in tocsin.json("check", "turbines")}
    assert [*(check for check, (state, _) in found.items() if state != "ok")] == ["model"]  # none has been trained
    assert found["ray"][1].startswith(f"{ray_address}: 2 CPUs")
    assert found["snapshots"][1].startswith("shard 0 at ")
    after = tocsin.json("status")[0]["pipelines"][0]["shards"][0]
    assert [before[f] for f in facts] == [after[f] for f in facts]


def test_a_pipeline_that_runs_is_not_started_twice(tocsin: Cli) -> None:
    assert "expected it not to run yet" in tocsin("up", "turbines", status=1)


def test_a_dead_letter_is_shown_as_it_was_read_and_sent_again_once(tocsin: Cli) -> None:
    (letter,) = tocsin.json("dlq", "list", "turbines", "--stage", "decode", "--partition", "0", "--since", "1h")
    place = f"0@{letter['offset']}"
    (shown,) = tocsin.json("dlq", "show", "turbines", place)
    assert b64decode(shown["value_base64"]) == b"not JSON" and shown["message"] == letter["message"]
    assert tocsin("dlq", "show", "turbines", place, "--raw") == "not JSON"
    assert letter["message"] in tocsin("dlq", "show", "turbines", place)
    assert tocsin.json("dlq", "replay", "turbines", "--error", "Nothing")[0]["sent"] == 0
    assert tocsin.json("dlq", "replay", "turbines", "--stage", "decode") == [
        {"sent": 1, "before": 0, "exhausted": 0, "lost": 0}
    ]
    # The replayed record is still not JSON.
    died = tocsin.eventually(lambda said: len(said) == 2, "dlq", "list", "turbines", "--stage", "decode")
    assert [x["replays"] for x in died] == [0, 1]
    assert died[1]["offset"] > letter["offset"]
    (done,) = tocsin.json("dlq", "replay", "turbines", "--stage", "decode", "--until", died[1]["at"])
    assert done == {"sent": 0, "before": 1, "exhausted": 0, "lost": 0}
    for wrong, says in (
        ("3", "expected PARTITION@OFFSET"),
        ("0@999999", "expected a dead letter of 0@999999, got none"),
    ):
        assert says in tocsin("dlq", "show", "turbines", wrong, status=1)
    assert "expected a duration such as 2h or a time" in tocsin("dlq", "list", "--since", "yesterday", status=1)


def test_a_pipeline_is_paused_and_goes_on_where_it_was(tocsin: Cli) -> None:
    tocsin("pause", "turbines")

    def paused(said: list[Any]) -> bool:
        (pipeline,) = said[0]["pipelines"]
        return (pipeline["paused"], pipeline["workers"], pipeline["shards"][0]["state"]) == (True, 0, "paused")

    before = committed(tocsin.eventually(paused, "status", "turbines"))
    (fed,) = tocsin.json("feed", "turbines", "--from", "sim", "--seed", "8", "--limit", "500", "--rate", "0")
    assert committed(tocsin.json("status", "turbines")) == before
    tocsin("resume", "turbines")
    tocsin.eventually(lambda said: committed(said) == before + fed["rows"], "status", "turbines")


def test_other_levels_are_taken_up_without_a_stop_and_wrong_ones_are_refused(tocsin: Cli) -> None:
    before = tocsin.json("status", "turbines")[0]["pipelines"][0]["shards"][0]
    settings = (file := tocsin.folder / "tocsin.toml").read_text()
    file.write_text(settings + "        warning = 10\n        critical = 20\n")
    assert "expected critical <= warning, got 20 > 10" in tocsin("reload", "turbines", status=1)
    file.write_text(settings + "        warning = 120\n        hold = 2\n")
    tocsin("reload", "turbines")
    tocsin("silence", "1003", "--for", "1h")
    tocsin.eventually(lambda said: list(said[0]["pipelines"][0]["silences"]) == ["1003"], "status", "turbines")
    time.sleep(2)  # at least one checkpoint
    fleet = itertools.islice(live(engines=40, seed=9), 100)  # engines that were not fed before
    others = (frame.drop("rul").with_columns(pl.col("unit") + 1000) for frame in fleet)
    address = tocsin.environment["TOCSIN_KAFKA__BOOTSTRAP_SERVERS"]
    feed(others, kafka={"bootstrap_servers": address}, topic="sensors.turbines", key="unit")
    end = tocsin.json("status", "turbines")[0]["pipelines"][0]["shards"][0]
    tocsin.eventually(lambda said: said[0]["pipelines"][0]["shards"][0]["lag"] == 0, "status", "turbines")
    file.write_text(settings)
    alerts = [e for e in tocsin.json("alerts", "turbines") if int(e["subject"]) > 1000]
    raised = [e for e in alerts if e["type"].endswith("raised")]
    assert any(60 < e["data"]["rul"] < 120 for e in raised if e["data"]["rule"] == "warning")
    assert "1004" in (rang := {e["subject"] for e in raised})
    assert "1003" not in rang
    assert (end["pid"], end["restarts"]) == (before["pid"], 0)
    tocsin("silence", "1003", "--for", "0s", "--pipeline", "turbines")
    assert tocsin.json("status", "turbines")[0]["pipelines"][0]["silences"] == {}
    assert "expected a duration" in tocsin("silence", "3", "--for", "long", status=1)


@pytest.mark.parametrize("order", ["pause", "resume", "reload"])
def test_an_order_to_a_pipeline_that_does_not_run_is_one_line(tocsin: Cli, order: str) -> None:
    said = tocsin("--set", "pipelines.idle.factory=tests.crash.job:pipeline", order, "idle", status=1)
    assert "pipeline idle: expected it to run on this Ray cluster, got: turbines; start it: `tocsin up idle`" in said


def test_another_number_of_shards_moves_the_state_at_the_next_start(tocsin: Cli) -> None:
    count, before = "SELECT COUNT(*) AS n FROM turbines", committed(tocsin.json("status", "turbines"))
    rows = tocsin.json("query", count)
    for shards, wanted in ((2, ["--shards", "2"]), (1, [])):
        tocsin("stop", "turbines")
        up = tocsin.start("up", "turbines", *wanted, "--json")
        out, err = up.communicate()
        assert up.returncode == 0, err
        assert f"turbines: state moved from {3 - shards} to {shards} shards" in err
        (said,) = map(json.loads, out.splitlines())
        assert [shard["state"] for shard in said["shards"]] == ["running"] * shards
        assert committed([{"pipelines": [said]}]) == before
    assert tocsin.json("query", count) == rows


def test_run_drains_at_sigterm(tocsin: Cli, kafka: KafkaServer, tmp_path: Path) -> None:
    tocsin("feed", "rul", "--from", "sim", "--limit", "4000", "--rate", "0")
    mine = Cli(tocsin.folder)
    mine.environment |= tocsin.environment

    def read(said: list[Any]) -> bool:
        return sum(sum(s["read"].values()) for p in said[0]["pipelines"] for s in p["shards"]) == 4000

    with mine.run("rul", "--set", "pipelines.rul.every=1h") as running:
        assert committed(mine.eventually(read, "status", "rul")) == 0
        running.stop(signal.SIGTERM)
    assert "rul has committed and stopped" in (tocsin.folder / "said").read_text()
    (counts,) = tocsin.json("query", 'SELECT MAX("offset") AS last, COUNT(*) AS windows FROM rul')
    assert counts["windows"] > 0
    assert counts["last"] > 0


def test_run_ends_when_another_command_stops_its_pipeline(tocsin: Cli) -> None:
    mine = Cli(tocsin.folder)
    mine.environment |= tocsin.environment
    with mine.run("rul") as running:
        mine("stop", "rul")
        running.ended()
    assert (tocsin.folder / "said").read_text().splitlines()[-1] == "rul has committed and stopped"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["query", "SELECT * FROM nothing"], "relation 'nothing' was not found"),
        (["feed", "rul", "--from", "/nowhere"], "train_FD001.txt[.gz] is missing"),
        (["feed", "rul", "--from", "sim", "--format", "xml"], "expected json or arrow"),
        (["--set", "kafka.bootstrap", "query", "SELECT 1"], "expected NAME=VALUE"),
        (["--set", "lake.pth=x", "query", "SELECT 1"], "lake.pth on the command line: expected a setting that exists"),
        (
            ["train", "fraud", "--data", "."],
            refusal("fraud"),
        ),
        (["alerts", "nothing"], "expected topic alerts.nothing"),
        (["status", "--json"], "Ray at 127.0.0.1:9: expected a cluster"),
    ],
)
def test_an_error_is_one_line_on_stderr(
    kafka: KafkaServer, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    cli = Cli(tmp_path, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers, TOCSIN_RAY__ADDRESS="127.0.0.1:9")
    process = cli.start(*arguments)
    out, err = process.communicate()
    last = err.splitlines()[-1]
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in err
    assert last.startswith("tocsin: ")
    assert expected in last
