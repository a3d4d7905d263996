"""The journal's topic: what a shard has written there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.journal import CHAIN, Chain, Journal, Mark
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.telemetry import progress

log = logging.getLogger(__name__)
HISTORY = 4 * CHAIN
"""Offsets that `history` reads: at least one whole chain. A record takes two, with its transaction's end."""


def key(shard: int, place: int) -> bytes:
    """The key of a record by its place in its chain. Compaction retains the newest chain: it has the newest record of each key."""
    return f"{shard}/{place}".encode() if place else f"{shard}".encode()


def newest(options: Mapping[str, Any], topic: str, shard: int) -> Journal | None:
    """The shard's journal as of its newest committed record; None: the topic holds none.

    Reads back from the end in growing distances, because transaction markers and aborted records take up offsets, too. A chain
    that lacks a record counts as none: the topic has lost something.

    Raises:
        ConfigError: the topic does not exist, or has no partition for this shard.
    """
    tp = TopicPartition(topic, shard)
    with closing(clients.consumer(options, fetch_max_wait_ms=100)) as consumer:
        if shard not in (partitions := clients.partitions_of(consumer, topic)):
            raise ConfigError(f"topic {topic}: expected partition {shard}, got {sorted(partitions)}; create it first")
        consumer.assign([tp])
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        distance = 16
        while end > begin:
            start = max(begin, end - distance)
            if chains := _chains(clients.read(consumer, tp, start, end)):
                first, *rest = chains[-1]
                chain = Chain(first)
                if all(map(chain.add, rest)):
                    return chain.journal
                log.error(
                    "topic %s[%d]: expected a record for each alert since the checkpoint, but one is missing",
                    topic,
                    shard,
                )
                return None
            if start == begin:
                return None
            distance *= 4
        return None


def history(options: Mapping[str, Any], tp: TopicPartition, isolation_level: str = "read_committed") -> list[Journal]:
    """The journal as of each of the latest records of a shard's partition, oldest first, without its steps."""
    with closing(clients.consumer(options, fetch_max_wait_ms=100, isolation_level=isolation_level)) as consumer:
        consumer.assign([tp])
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        chains = _chains(clients.read(consumer, tp, max(begin, end - HISTORY), end))
    return [journal for chain in chains for journal in _outlines(chain)]


def _outlines(values: Sequence[bytes]) -> Iterator[Journal]:
    """The journal as of each record of a chain that follows the one before."""
    chain = Chain(values[0])
    marks = [item for item in chain.journal.items if isinstance(item, Mark)]  # only a whole record has any
    for place, value in enumerate(values):
        if place and not chain.add(value):
            return
        yield Journal(chain.journal.base, [*marks], chain.journal.sent, chain.journal.digest)
    progress.made()


def _chains(records: Iterable[ConsumerRecord]) -> list[list[bytes]]:
    """The values of each chain's records. What comes before the first whole record is left out."""
    chains = list[list[bytes]]()
    for record in records:
        if not record.value:
            continue
        if b"/" not in record.key:
            chains.append([record.value])
        elif chains:
            chains[-1].append(record.value)
    return chains
