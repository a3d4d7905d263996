"""Reading the journal back from its topic."""

from __future__ import annotations

import pytest

from tests.runtime.engine.conftest import WriteJournal
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.engine import journal as module
from tocsin.pipelines.runtime.engine.journal import Journal, Mark
from tocsin.pipelines.runtime.engine.journal_topic import history, key, newest

Records = list[tuple[bytes, bytes]]
STEPS = 40


def _records(journal: Journal, steps: int, first: int = 0) -> Records:
    """The records of a journal to which steps are added."""
    records = []
    for step in range(first, first + steps):
        journal.add_step(step, {0: step})
        place, value = journal.append()
        records.append((key(1, place), value))
    return records


def test_the_newest_chain_is_read_however_long_it_is(kafka: KafkaServer, write_journal: WriteJournal) -> None:
    options, journal = {"bootstrap_servers": kafka.bootstrap_servers}, Journal(0)
    tp = write_journal(_records(Journal(9), 5))
    write_journal(_records(journal, STEPS))
    write_journal(_records(Journal(9), 3), commit=False)  # the records of an owner that has died
    assert newest(options, tp.topic, 1) == journal
    assert newest(options, tp.topic, 0) is None


def test_what_compaction_leaves_of_older_chains_is_not_read(
    kafka: KafkaServer, write_journal: WriteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHAIN", 25)
    options, journal = {"bootstrap_servers": kafka.bootstrap_servers}, Journal(0)
    records = _records(journal, STEPS)
    compacted = {key_: place for place, (key_, _) in enumerate(records)}
    assert len(compacted) == 25
    tp = write_journal(records[place] for place in sorted(compacted.values()))
    assert newest(options, tp.topic, 1) == journal


def test_a_chain_that_lacks_a_record_counts_as_none(kafka: KafkaServer, write_journal: WriteJournal) -> None:
    first, _, last = _records(Journal(0), 3)
    tp = write_journal([first, last])
    assert newest({"bootstrap_servers": kafka.bootstrap_servers}, tp.topic, 1) is None


def test_the_journal_is_known_as_of_each_record(kafka: KafkaServer, write_journal: WriteJournal) -> None:
    options, journal = {"bootstrap_servers": kafka.bootstrap_servers}, Journal(0)
    journal.count_published([5])
    tp = write_journal(_records(journal, 3))
    journal.mark(7, "plan")
    write_journal(_records(journal, 2, first=3))
    aborted = Journal(0)
    records = _records(aborted, 4)
    write_journal([records[0], records[1], records[3]], commit=False)  # the last one does not follow
    journal.rebase(7)
    journal.count_published([6])
    write_journal(_records(journal, 1, first=5))
    marked = [Mark(7, 1, 5, "plan")]
    before = [Journal(0, [], 1, 5)] * 3 + [Journal(0, marked, 1, 5)] * 2
    after = [Journal(7, [], 1, 6)]
    assert history(options, tp) == before + after
    assert history(options, tp, "read_uncommitted") == [*before, *[Journal(0)] * 2, *after]
    assert newest(options, tp.topic, 1) == journal
