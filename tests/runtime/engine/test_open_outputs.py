"""Which way outputs that a broker left open are ended, by what the journal shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.engine.conftest import WriteJournal
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.journal_topic import key
from tocsin.pipelines.runtime.engine.open_outputs import _decision

MARK = 1 << 32 | 7


class Shard:
    """A shard's journal, and what is in its topic."""

    def __init__(self, kafka: KafkaServer, write: WriteJournal) -> None:
        self._config: Any = SimpleNamespace(kafka={"bootstrap_servers": kafka.bootstrap_servers})
        self._write = write
        self.journal = Journal(0)
        self._step = 0
        self.tp = self.commits()

    def record(self, *outputs: int) -> tuple[bytes, bytes]:
        """The record of a step with these outputs."""
        self._step += 1
        self.journal.add_step(self._step, {0: self._step})
        self.journal.count_published(outputs)
        place, value = self.journal.append()
        return key(1, place), value

    def commits(self, *outputs: int) -> Any:
        return self._write([self.record(*outputs)])

    def aborts(self, *outputs: int) -> None:
        self._write([self.record(*outputs)], commit=False)

    def decision(self, *outputs: int, open: tuple[tuple[bytes, bytes], ...] = (), checkpoint: int = 0) -> bool | None:
        """What is decided about outputs that are open, with these journal records open, too."""
        found = Journal(0)
        found.count_published(outputs)
        records: Any = [SimpleNamespace(value=value) for _, value in open]
        return _decision(self._config, self.tp, records, found, checkpoint)


@pytest.fixture
def shard(kafka: KafkaServer, write_journal: WriteJournal) -> Shard:
    return Shard(kafka, write_journal)


def test_an_open_record_is_committed_if_it_names_just_what_is_open(shard: Shard) -> None:
    shard.commits(3)
    record = shard.record(5, 6)
    assert record[0] == b"1/2"
    assert shard.decision(5, 6, open=(record,)) is True
    assert shard.decision(5, open=(record,)) is False
    assert shard.decision(5, 6, 7, open=(record,)) is False


def test_of_several_open_records_the_last_one_counts_for_all(shard: Shard) -> None:
    records = shard.record(5), shard.record(6)
    assert shard.decision(5, 6, open=records) is True
    assert shard.decision(6, open=records) is False


@pytest.mark.parametrize("lands", [False, True])
def test_the_record_before_may_be_of_another_chain(shard: Shard, lands: bool) -> None:
    shard.commits(3)
    shard.journal.mark(MARK, "plan")
    shard.commits(4)
    shard.commits()
    if lands:
        shard.journal.rebase(MARK)
    record = shard.record(5)
    assert record[0] == (b"1" if lands else b"1/2")
    assert shard.decision(5, open=(record,)) is True
    assert shard.decision(5, 9, open=(record,)) is False


def test_without_an_open_record_what_a_committed_one_names_is_committed(shard: Shard) -> None:
    shard.commits(3)
    shard.commits(5)
    shard.commits(6)
    assert shard.decision(5) is True
    assert shard.decision(5, 6) is True
    assert shard.decision(3, 6) is None
    assert shard.decision() is None


def test_what_only_an_aborted_record_names_is_aborted_unless_its_checkpoint_landed(shard: Shard) -> None:
    shard.commits(3)
    shard.aborts(5)
    assert shard.decision(5) is False
    assert shard.decision(8) is None
    shard.journal.count_published([6])
    shard.journal.mark(MARK, "plan")
    place, value = shard.journal.append()
    shard._write([(key(1, place), value)], commit=False)
    assert shard.decision(6, checkpoint=MARK - 1) is False
    assert shard.decision(6, checkpoint=MARK) is True
