"""Dead letters: the newest ones of all topics, the original, and one replay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer

from tests.ui.scene import letter
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka.dead_letters import readable
from tocsin.pipelines.runtime.kafka.redelivery import Redelivered
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.ui.data.letters import DeadLetters, outcome


def test_the_newest_is_first_and_one_is_replayed_once(
    kafka: KafkaServer, create_topic: Callable[..., str], tmp_path: Path
) -> None:
    options, topic = {"bootstrap_servers": kafka.bootstrap_servers}, create_topic("sensors.letters", partitions=4)
    empty = create_topic("alerts.letters")
    with KafkaAdminClient(**options) as admin:
        new = {f"{name}.dlq": {"num_partitions": 2, "replication_factor": 1} for name in (empty, topic)}
        admin.create_topics(new, wait_for_metadata=True)
    with closing(KafkaProducer(**options)) as producer:
        for offset in range(5):
            dead = replace(letter(offset).dead_letter, topic=topic)
            producer.send(f"{topic}.dlq", dead.value, dead.key, dead.headers_out(), partition=1)
            producer.flush()
    letters = DeadLetters(options, Lake(str(tmp_path)))
    assert f"{topic}.dlq" in letters.topics()
    found = letters.newest(f"{topic}.dlq", limit=3)
    assert [entry.dead_letter.offset for entry in found] == [4, 3, 2]
    of_all = letters.newest()
    assert [entry for entry in of_all if entry.dead_letter.topic == topic][:3] == found
    original = letters.original(found[0])
    assert original.headers == {"source": "plant"} and '"s1": "warm"' in original.text
    assert outcome(letters.replay(found[:1])) == "1 replayed"
    assert outcome(letters.replay(found)) == "2 replayed; 1 not sent: replayed before"
    assert outcome(letters.replay([replace(found[0], offset=999)])).startswith("nothing was sent")


def test_bytes_are_shown_as_text_or_in_hexadecimal_and_in_part() -> None:
    assert readable("Lärm".encode()) == "Lärm"
    assert readable(b"\xff\x00") == "ff 00"
    assert readable(b"a" * 5000).endswith("a\n... 5,000 bytes in all")


def test_an_outcome_is_a_line() -> None:
    assert outcome(Redelivered(exhausted=1)) == "1 not sent: has become a dead letter 3 times after a replay"
    assert outcome(Redelivered(sent=2, lost=1)) == "2 replayed; 1 not sent: the original no longer exists"
