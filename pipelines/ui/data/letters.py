"""Dead letters of all topics: the newest ones, one as it was read, and their replay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import astuple, dataclass
from typing import Any

from kafka import TopicPartition

from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original, readable
from tocsin.pipelines.runtime.kafka.redelivery import (
    MAX_REPLAYS,
    PublishedDeadLetter,
    Redelivered,
    published,
    redeliver,
)
from tocsin.pipelines.runtime.lake.storage import Lake

SUFFIX = ".dlq"


@dataclass(frozen=True)
class Original:
    """A dead letter's record as it was read.

    Args:
        text: the value's first `SHOWN` bytes, as text if they are UTF-8, else in hexadecimal.
        size: bytes of the value; None: the original is gone.
    """

    headers: Mapping[str, str]
    text: str
    size: int | None


class DeadLetters:
    """Reads and replays the dead letters of one Kafka.

    Args:
        kafka: options of kafka-python's clients.
    """

    def __init__(self, kafka: Mapping[str, Any], lake: Lake) -> None:
        self._kafka, self._lake = kafka, lake

    def topics(self) -> list[str]:
        """All dead-letter topics."""
        with closing(clients.consumer(self._kafka)) as consumer:
            return sorted(topic for topic in consumer.topics() if topic.endswith(SUFFIX))

    def newest(self, topic: str | None = None, limit: int = 500) -> list[PublishedDeadLetter]:
        """The newest dead letters, the newest first.

        Args:
            topic: a dead-letter topic; None: all.

        Raises:
            Unavailable: Kafka does not answer.
        """
        with closing(clients.consumer(self._kafka)) as consumer:
            topics = [t for t in consumer.topics() if t.endswith(SUFFIX)] if topic is None else [topic]
            partitions = [TopicPartition(t, p) for t in topics for p in clients.partitions_of(consumer, t)]
            begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            # Only the end of each partition: a topic may hold millions. Markers of transactions take offsets, too.
            starts = {tp: max(begins[tp], ends[tp] - 2 * limit) for tp in partitions}
            found = list[PublishedDeadLetter]()
            for tp in partitions:
                consumer.assign([tp])  # alone: a poll needs the position of every assigned partition
                found += map(published, clients.read(consumer, tp, starts[tp], ends[tp]))
        return sorted(found, key=lambda entry: (entry.at, entry.partition, entry.offset), reverse=True)[:limit]

    def original(self, entry: PublishedDeadLetter) -> Original:
        """A dead letter's record as it was read, also if it is stored in the lake."""
        store = OriginalStore(self._lake.files, "", self._lake.place())
        try:
            original = load_original(entry.dead_letter, store)
        except (FileNotFoundError, ValueError) as reason:
            return Original({}, f"the original is gone: {reason}", None)
        headers = {name: (content or b"").decode("utf-8", "replace") for name, content in original.headers}
        value = original.value or b""
        return Original(headers, readable(value), len(value))

    def replay(self, chosen: Collection[PublishedDeadLetter]) -> Redelivered:
        """Send dead letters' records to their topics again; see `redeliver`.

        Raises:
            Unavailable: Kafka does not answer, or another call fenced this one.
        """
        places: dict[str, set[tuple[int, int]]] = {}
        for entry in chosen:
            places.setdefault(f"{entry.dead_letter.topic}{SUFFIX}", set()).add((entry.partition, entry.offset))
        total = Redelivered()
        for topic, of_topic in places.items():

            def matches(entry: PublishedDeadLetter, wanted: Collection[tuple[int, int]] = of_topic) -> bool:
                return (entry.partition, entry.offset) in wanted

            report = redeliver(self._kafka, self._lake, topic, matches)
            total = Redelivered(*(a + b for a, b in zip(astuple(total), astuple(report), strict=True)))
        return total


def outcome(report: Redelivered) -> str:
    """What a replay did, in one line."""
    parts = {
        f"{report.sent} replayed": report.sent,
        f"{report.before} not sent: replayed before": report.before,
        f"{report.exhausted} not sent: has become a dead letter {MAX_REPLAYS} times after a replay": report.exhausted,
        f"{report.lost} not sent: the original no longer exists": report.lost,
    }
    return (
        "; ".join(part for part, count in parts.items() if count)
        or "nothing was sent: the dead letters no longer exist"
    )
