"""Outputs that a crashed broker left open: they become visible together with their journal record, or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import GAP, DeadLetter
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine import journal
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.journal import Journal, Mark
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher, fingerprint
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.unended import unended

log = logging.getLogger(__name__)
ENDED_S, AGAIN_S = 10.0, 0.05
"""How long the ends may take to be written, and how often to look. The coordinator answers before it writes them."""
OUTCOMES = {True: "published now", False: "withdrawn, and published again if they are due", None: "left as they are"}
Records = Mapping[TopicPartition, Sequence[ConsumerRecord]]


def end_open_outputs(config: ShardConfig, pipeline: Pipeline, publisher: ShardPublisher, checkpoint: int) -> None:
    """End what earlier owners wrote in transactions that a broker counted as complete without ending them; see `unended`.

    Nobody sees these records yet. They are committed or aborted where the journal shows which is right; see `_decision`. Otherwise
    they stay as they are, and the next transaction commits them. Call it once earlier owners are fenced, and before the journal is
    read.

    Args:
        checkpoint: the table's.

    Raises:
        Unavailable: a broker does not answer, or has not ended them in time.
    """
    name = names.transactional_id(pipeline.name, config.shard)
    own_journal = TopicPartition(pipeline.journal, config.shard)
    with clients.admin(config.kafka) as admin:
        counts = clients.partitions(admin, {pipeline.alerts, pipeline.dead_letters})
        partitions = [own_journal, *(TopicPartition(topic, p) for topic, count in counts.items() for p in range(count))]
        if not (found := unended(admin, config.kafka, name, partitions)):
            return
        outputs = Journal(0)
        outputs.count_published(_fingerprints(pipeline, found))
        commit = _decision(config, own_journal, found.get(own_journal, []), outputs, checkpoint)
        log.warning(
            "%s: a broker ended transactions in name only; %d alerts and dead letters that nobody can see yet are %s",
            name,
            outputs.sent,
            OUTCOMES[commit],
        )
        if commit is None:
            return
        publisher.end(found, commit=commit)
        give_up = time.monotonic() + ENDED_S
        while left := unended(admin, config.kafka, name, found):
            if time.monotonic() > give_up:
                raise Unavailable(
                    f"{name}: expected the broker to end what is open in {sorted(left)}, got no end; is it up?"
                )
            time.sleep(AGAIN_S)


def _decision(
    config: ShardConfig,
    own_journal: TopicPartition,
    in_journal: Sequence[ConsumerRecord],
    outputs: Journal,
    checkpoint: int,
) -> bool | None:
    """Whether to commit the open records. None: the journal does not show it.

    If a journal record is open, the transaction is committed if its alerts and dead letters are all there: an aborted one may lack
    some. If none is open, a later transaction has ended it: what a committed journal record names is committed, and what only an
    aborted one names is aborted, unless that record marks a checkpoint that the table has: it had been committed.

    Args:
        outputs: the number and digest of the open alerts and dead letters.
    """
    committed = journal.history(config.kafka, own_journal)
    own = [Journal.load(record.value) for record in in_journal if record.value]
    if own:
        return _names(committed[-1:], own[-1], outputs)
    if not outputs.sent:
        return None
    if any(_names(committed[:i], later, outputs) for i, later in enumerate(committed)):
        return True
    written = journal.history(config.kafka, own_journal, isolation_level="read_uncommitted")
    aborted = [later for i, later in enumerate(written) if _names(written[:i], later, outputs)]
    if not aborted:
        return None
    marks = [item for one in aborted for item in one.items if isinstance(item, Mark) and item.sent == one.sent]
    return any(mark.checkpoint <= checkpoint for mark in marks)


def _fingerprints(pipeline: Pipeline, records: Records) -> list[int]:
    """Of the alerts and dead letters that the journal counts."""
    found = list[int]()
    for tp, in_partition in records.items():
        written = [record for record in in_partition if record.headers]  # what was written only to abort it has none
        if tp.topic == pipeline.alerts:
            found += [fingerprint(Alert.read(record.headers, record.value)) for record in written]
        elif tp.topic == pipeline.dead_letters:
            letters = map(DeadLetter.read, written)
            found += [fingerprint(letter) for letter in letters if letter.stage != GAP]
    return found


def _names(earlier: Sequence[Journal], later: Journal, outputs: Journal) -> bool:
    """Whether a journal record names exactly these outputs beyond one of the earlier ones, or beyond its base."""
    bases = [before for one in earlier if (before := one.since(later.base))]
    return any(
        (before.sent + outputs.sent, (before.digest + outputs.digest) % 2**64) == (later.sent, later.digest)
        for before in [*bases, Journal(later.base)]
    )
