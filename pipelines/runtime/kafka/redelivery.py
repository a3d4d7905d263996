"""Sends dead letters again, to be processed once more. Each letter is sent once, however many calls ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import GAPS, DeadLetter
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.formats.codec import BUILT_IN
from tocsin.pipelines.runtime.formats.message import installed
from tocsin.pipelines.runtime.formats.rows import media_type
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original
from tocsin.pipelines.runtime.kafka.topics import create_topic
from tocsin.pipelines.runtime.lake.storage import Lake

HEADER = "tocsin-replay"
MAX_REPLAYS = 3
"""How often a record may be sent again."""
BATCH = 200
"""Letters in a transaction."""
LARGEST = 64 << 20
"""Bytes. The client's default limit is 1 MiB, but the topic that the record came from may allow more."""


@dataclass(frozen=True)
class PublishedDeadLetter:
    """A dead letter and its place in its topic.

    Args:
        partition, offset: of the letter itself.
        at: when it was published, ms since the epoch.
        replays: how often its record has been sent again.
    """

    partition: int
    offset: int
    at: int
    replays: int
    dead_letter: DeadLetter


@dataclass
class Redelivered:
    """The outcome for the selected letters.

    Args:
        sent: by this call; each is a record of its input topic.
        before: sent by an earlier call.
        exhausted: their record was sent again three times, and each time became a dead letter.
        lost: there is no original: the letter stands for a gap, or its file is gone from the lake.
    """

    sent: int = 0
    before: int = 0
    exhausted: int = 0
    lost: int = 0


def read_dead_letters(options: Mapping[str, Any], *topics: str) -> Iterator[PublishedDeadLetter]:
    """The dead letters of dead-letter topics."""
    yield from map(published, clients.committed(options, topics))


def published(record: ConsumerRecord) -> PublishedDeadLetter:
    """The dead letter that a record of a dead-letter topic is."""
    dead_letter = DeadLetter.read(record)
    replays = dict(dead_letter.headers).get(HEADER) or b""
    return PublishedDeadLetter(
        record.partition,
        record.offset,
        record.timestamp,
        int(replays) if replays.isdigit() and len(replays) < 9 else 0,
        dead_letter,
    )


def redeliver(
    options: Mapping[str, Any],
    lake: Lake,
    topic: str,
    matches: Callable[[PublishedDeadLetter], bool],
    limit: int | None = None,
) -> Redelivered:
    """Send the records of dead letters to their topic and partition again, with key, value, headers and time unchanged.

    Of a message with many rows, only the failed row is sent, as its own message. The header `tocsin-replay` counts how often.

    Guarantee: a letter is sent at most once, ever. It is marked in the transaction that sends it, and a second call for the
    same topic fences the first. A record that fails again is a new letter.

    Args:
        topic: dead-letter topic.
        matches: which of its letters.
        limit: send at most this many.

    Raises:
        Unavailable: Kafka does not answer, or another call fenced this one. What was sent before stays sent.
    """
    store, report = OriginalStore(lake.files, "", lake.place()), Redelivered()
    with clients.admin(options) as admin:
        create_topic(admin, names.REPLAYED, 1, **{"cleanup.policy": "compact"})
        (described,) = admin.describe_topics([topic])
    producer_options = {"transactional_id": names.replay_id(topic), "linger_ms": 0, "max_request_size": LARGEST}
    try:
        with closing(clients.producer(options, **producer_options)) as producer:
            producer.init_transactions()
            # Read after the fence: no other call adds marks any more.
            marked = {record.key.decode() for record in clients.committed(options, [names.REPLAYED])}
            dead_letters = (
                (f"{described['topic_id']}/{entry.partition}/{entry.offset}", entry)
                for entry in read_dead_letters(options, topic)
                if matches(entry)
            )
            pending = islice(_sendable(dead_letters, marked, store, report), limit)
            while batch := list(islice(pending, BATCH)):
                producer.begin_transaction()
                for mark, record in batch:
                    producer.send(**record)
                    payload = orjson.dumps({"at": int(time.time() * 1000)})
                    producer.send(names.REPLAYED, key=mark.encode(), value=payload, partition=0)
                producer.commit_transaction()
                report.sent += len(batch)
    except KafkaError as reason:
        raise Unavailable(
            f"{topic}: expected to replay dead letters, got {reason!r} after {report.sent}; run it again, none is sent twice"
        ) from reason
    return report


def _sendable(
    dead_letters: Iterator[tuple[str, PublishedDeadLetter]], marked: set[str], store: OriginalStore, report: Redelivered
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each letter's mark, and the arguments for a producer to send its record. Letters that can't be sent are counted."""
    for mark, entry in dead_letters:
        if mark in marked:
            report.before += 1
        elif entry.replays >= MAX_REPLAYS:
            report.exhausted += 1
        elif (record := _record(entry, store)) is None:
            report.lost += 1
        else:
            yield mark, record


def _record(entry: PublishedDeadLetter, store: OriginalStore) -> dict[str, Any] | None:
    if entry.dead_letter.partition < 0 or entry.dead_letter.stage in GAPS:
        return None
    try:
        original = load_original(entry.dead_letter, store)
    except (FileNotFoundError, ValueError):
        return None
    if original.row is not None and original.value:
        kinds = {name: kind for kind in (*BUILT_IN, *installed()) for name in (kind.media_type, *kind.aliases)}
        kind = kinds.get(media_type(original.headers) or "")
        if kind and (row_value := kind.only(original.value, original.row)) is None:
            return None
        original = replace(original, value=row_value if kind else original.value)
    # The client refuses to send a header without a value, and a record with neither key nor value.
    headers = [(name, value or b"") for name, value in original.headers if name != HEADER]
    value = b"" if original.key is original.value is None else original.value
    return {
        "topic": original.topic,
        "partition": original.partition,
        "key": original.key,
        "value": value,
        "headers": [*headers, (HEADER, str(entry.replays + 1).encode())],
        "timestamp_ms": original.timestamp if original.timestamp >= 0 else None,
    }
