"""This version continues with a lake and topics that an earlier version left in the middle of its work."""

from __future__ import annotations

import json
import tarfile
from base64 import b64decode
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka import KafkaProducer

from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.shards import read, shard
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.deployment import alerts_table_plan
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.kafka.topics import provision

STORED = Path(__file__).parent / "stored"
"""Written by version 0.1.0: 550 messages read, 400 of them in the last checkpoint, the alerts of all of them sent."""


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    stored = json.loads((STORED / "topics.json").read_text())
    options = {n: v for n, v in stored["options"].items() if n not in ("name", "topic")}
    made = Job(kafka.bootstrap_servers, tmp_path, name=stored["name"], **options)
    provision(made.kafka, alerts_table_plan(made.name).build(made.lake), shards=1)
    for topic, records in stored["topics"].items():
        _restore(made, topic, records)
    with tarfile.open(STORED / "lake.tar.xz") as lake:
        lake.extractall(tmp_path / "stored", filter="data")
    (tmp_path / "stored" / "lake").rename(made.lake.root)
    for name, topic in ((made.name, made.topic), (f"alerts.{made.name}", f"alerts.{made.name}")):
        _rename_topics(made, name, topic)
    yield made
    made.close()


def _restore(job: Job, topic: str, records: Sequence[dict[str, Any]]) -> None:
    """Write records at their original offsets. The end of each transaction takes an offset, too."""
    ends = [b["offset"] - a["offset"] == 2 for a, b in pairwise(records)] + [True]
    options = {**job.kafka, "acks": "all", "max_request_size": 16 << 20, "retry_backoff_ms": 2}
    sent_in_transactions = any(ends[:-1])
    producer = KafkaProducer(**options, transactional_id=f"restore/{topic}" if sent_in_transactions else None)
    if sent_in_transactions:
        producer.init_transactions()
        producer.begin_transaction()
    for n, (record, ends_here) in enumerate(zip(records, ends, strict=True), 1):
        key, value = (None if record[part] is None else b64decode(record[part]) for part in ("key", "value"))
        headers = [(name, b64decode(text)) for name, text in record["headers"]]
        producer.send(topic, value, key, headers, record["partition"], record["at"])
        if sent_in_transactions and ends_here:
            producer.commit_transaction()
            if n < len(records):
                producer.begin_transaction()
    producer.close()
    assert [(m.partition, m.offset) for m in job.read(topic)] == [(r["partition"], r["offset"]) for r in records]


def _rename_topics(job: Job, pipeline: str, topic: str) -> None:
    """Write the id of this broker's topic into the snapshots, since a recreated topic has another id."""
    reader = Reader(job.kafka, topic, [0], Codec(topic=topic, schema=job.plan.build(job.lake).schema), 1)
    topic_id = reader.log().topic_id
    reader.close()
    for manifest in Path(job.lake.root, "_state", pipeline).glob("**/manifest.json"):
        content = json.loads(manifest.read_text())
        content["facts"]["topic_id"] = topic_id
        manifest.write_text(json.dumps(content))


def test_shards_go_on_with_the_lake_and_the_journals_of_an_earlier_version(job: Job) -> None:
    """The pipeline's shard, whose stages had other names, and the alerts table's shard, whose factory had another module."""
    before = job.found()
    job.send(islice(messages(11), 550, 750))
    running = shard(job)
    assert running.facts()["digest_mismatches"] == 0
    read(running, job).close()
    assert job.differences() == []
    assert before.alerts
    assert set(before.alerts) <= set(job.found().alerts)

    own = alerts_table_plan(job.name)
    old = {"factory": "pipelines.runtime.landing:pipeline", "options": {}, "model": None, "device": "cpu"}
    assert Plan.load(json.dumps(old)).factory == own.factory
    declared, rang = own.build(job.lake), job.read(f"alerts.{job.name}")
    reader = Reader(job.kafka, declared.topic, [0], Codec.of(declared), 500)
    landing = Shard(ShardConfig(own, job.lake, job.kafka, 0, [0]), reader)
    while sum(landing.facts()["read"].values()) <= rang[-1].offset:
        landing.turn()
    landing.close()
    landed = pl.scan_delta(job.lake.uri("alerts")).collect()
    assert sorted(landed["id"]) == sorted(dict(m.headers)["ce_id"].decode() for m in rang)
