"""The page "Write your own pipeline": it works as it stands, and its pipeline survives kills, checked by a plain loop."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from threading import Event, Thread
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tests.conftest import ROOT
from tests.docs.freezers import PARTITIONS, TOLERANCE, Outcome, judge, messages, milliseconds
from tests.support.tour import Tour, blocks
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime import stages as STAGES
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.redelivery import read_dead_letters

PAGE = ROOT / "docs" / "own-pipeline.md"
TOPIC, RATE = "sensors.freezers", 300


@pytest.fixture
def tour(kafka: KafkaServer, tmp_path: Path) -> Iterator[Tour]:
    """A tour with its own broker, since the page fixes the topics' names."""
    with KafkaServer(data=tmp_path / "kafka") as server:
        tour = Tour(tmp_path / "tour", server.bootstrap_servers)
        tour.write(PAGE)
        yield tour
        tour.stop()


def test_a_pipeline_is_one_file_of_at_most_60_lines(tmp_path: Path) -> None:
    files = Tour(tmp_path, "").write(PAGE)
    assert list(files) == ["freezers.py", "tocsin.toml", "try_freezers.py", "feed_freezers.py", "try_greenhouse.py"]
    assert len(files["freezers.py"].splitlines()) <= 60


def test_the_second_example_prints_what_the_page_says(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "")
    tour.write(PAGE)
    (promised,) = [text for kind, text in blocks(PAGE) if kind == "text"]
    assert tour("python try_greenhouse.py") == promised


def test_the_page_tells_of_every_stage_there_is() -> None:
    stages = {
        name
        for module in iter_modules(STAGES.__path__, f"{STAGES.__name__}.")
        for name, found in vars(import_module(module.name)).items()
        if hasattr(found, "step") and found.__module__ == module.name
    }
    assert {"Reorder", "Resample", "SlidingWindow", "Infer", "Inactivity", "CenteredWindow"} <= stages
    assert [name for name in sorted(stages) if not re.search(rf"`{name}\b", PAGE.read_text())] == []


@pytest.mark.slow
def test_the_page_as_a_reader_follows_it(tour: Tour) -> None:
    said = {}
    for command in [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]:
        if command.endswith(" &"):
            tour.run(command.removesuffix(" &"))
            tour.wait_committed("freezers", 4 * 120 + 2)
            # The last rows of each key wait a few seconds for earlier readings that may still arrive.
            count = 'tocsin query "SELECT COUNT(*) AS rows FROM freezers"'
            tour.once(count, lambda text: text.split() == ["rows", str(4 * 109)])
        else:
            said[command] = tour(command)
    offline, alerts, answer, letters = (
        next(text for command, text in said.items() if command.startswith(beginning))
        for beginning in ("python try", "tocsin alerts", "tocsin query", "tocsin dlq")
    )
    assert "dairy warm" not in offline
    assert offline.index("fish warm raised") < offline.index("fish thawing raised")
    assert [alerts.count(level) for level in ("warning  raised", "critical raised")] == [1, 1]
    assert answer.splitlines()[1].split()[:2] == ["fish", "109"]
    assert letters.count("BadValue") == letters.count("Malformed") == 1


@pytest.mark.slow
@pytest.mark.crash
def test_rows_alerts_and_dead_letters_are_there_once_whatever_dies(tour: Tour) -> None:
    tour.environment["TOCSIN_PIPELINES__FREEZERS__SILENCE"] = "25s"
    with feeding(tour):
        tour.run("tocsin run freezers")
        shard = in_flight(tour)
        os.kill(shard["pid"], signal.SIGKILL)  # only the worker
        tour.until(lambda shards: shards[0]["pid"] != shard["pid"], "another worker", "freezers")
        in_flight(tour)
        tour.kill()  # all processes
        tour.run("tocsin run freezers")
        in_flight(tour)
    records = list(clients.committed(kafka(tour), [TOPIC]))
    tour.wait_committed("freezers", len(records))
    expected = judge(records, {})
    silent = sum(offset is None for _, offset, *_ in expected.rows)
    counts = "SELECT COUNT(*) AS rows, SUM(silent::int) AS silent FROM freezers"
    give_up = time.monotonic() + 120
    while ask(tour, counts) != [{"rows": expected.rows.total(), "silent": silent}]:
        assert time.monotonic() < give_up, f"{ask(tour, counts)}, expected {expected.rows.total()} and {silent}"
        time.sleep(1)
    tour.stop()

    got = found(tour)
    expected = judge(records, got.steady)
    for name in ("rows", "alerts", "letters"):
        amiss = (theirs := getattr(got, name)) - (ours := getattr(expected, name)), ours - theirs
        assert amiss == (Counter(), Counter()), f"{name}: more than expected, less than expected"
    assert {rule for rule, *_ in got.alerts} == {"warm", "thawing", "silent"}
    assert {x.dead_letter.error for x in read_dead_letters(kafka(tour), f"{TOPIC}.dlq")} == {
        "BadValue", "Malformed", "TooLate", "FromTheFuture",
    }  # fmt: skip
    assert got.steady.keys() == expected.steady.keys()
    assert max(abs(got.steady[at] - expected.steady[at]) for at in got.steady) < TOLERANCE
    assert list((tour.folder / "lake" / "_state").rglob("*")), "expected snapshots"


@contextmanager
def feeding(tour: Tour) -> Iterator[None]:
    """Send readings in the background."""
    with KafkaAdminClient(**kafka(tour)) as admin:
        admin.create_topics({TOPIC: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
    over = Event()

    def feed() -> None:
        producer = KafkaProducer(**kafka(tour), acks="all", linger_ms=5)
        for sent, message in enumerate(messages(seed=5)):
            producer.send(TOPIC, message.value, key=message.key, partition=message.partition)
            if sent % 20 == 0 and over.wait(20 / RATE):
                break
        producer.close(timeout=30)

    thread = Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_flight(tour: Tour) -> dict[str, Any]:
    """Wait until the shard has read on and holds a second's uncommitted rows, whose alerts are published. Returns the shard."""
    before = sum(sum(s["read"].values()) for s in tour.shards("freezers"))

    def busy(shards: list[dict[str, Any]]) -> bool:
        return bool(shards) and sum(shards[0]["read"].values()) > before + RATE and shards[0]["uncommitted_rows"] > RATE

    return tour.until(busy, "rows that are not committed", "freezers")[0]


def found(tour: Tour) -> Outcome:
    """Rows of the table, alerts and dead letters, as the command line reports them."""
    out = Outcome()
    for row in ask(tour, 'SELECT partition, "offset", key, event_time, steady, silent FROM freezers'):
        at = milliseconds(row["event_time"])
        out.rows[row["partition"], row["offset"], row["key"], at] += 1
        if not row["silent"]:
            out.steady[row["partition"], row["offset"]] = row["steady"]
    for alert in tour.json("tocsin alerts freezers"):
        data, transition = alert["data"], alert["type"].rsplit(".", 1)[-1]
        at = milliseconds(alert["time"])
        out.alerts[data["rule"], transition, data["partition"], data["offset"], alert["subject"], at] += 1
    for letter in tour.json("tocsin dlq list freezers --limit 1000000"):
        out.letters[letter["partition"], letter["offset"]] += 1
    return out


def ask(tour: Tour, sql: str) -> list[dict[str, Any]]:
    return tour.json(f"tocsin query {shlex.quote(sql)}")


def kafka(tour: Tour) -> dict[str, str]:
    return {"bootstrap_servers": tour.environment["TOCSIN_KAFKA__BOOTSTRAP_SERVERS"]}
