"""The journal against a plain list of events."""

from __future__ import annotations

from itertools import count
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine import journal as module
from tocsin.pipelines.runtime.engine.journal import Chain, Journal, Mark, SkipRecord, StepRecord

HASH = st.integers(0, 2**64 - 1)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ran"), st.dictionaries(st.integers(0, 3), st.integers(0, 2**40), max_size=3)),
        st.tuples(
            st.just("unread"),
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.text(max_size=5)), max_size=3),
        ),
        st.tuples(st.just("publishes"), st.lists(HASH, max_size=3)),
        st.tuples(st.just("mark"), st.text(max_size=5)),
    ),
    max_size=30,
)
Event = tuple[str, Any]


def _journal(base: int, events: list[tuple[int, Event]]) -> Journal:
    """Make a journal of exactly these events. An event's number is its clock and its checkpoint's name."""
    journal = Journal(base)
    for n, (kind, what) in events:
        _add(journal, n, kind, what)
    return journal


def _add(journal: Journal, n: int, kind: str, what: Any) -> None:
    if kind == "ran":
        journal.add_step(n, what)
    elif kind == "unread":
        journal.add_step(n, {0: n}, n + 1, what)
    elif kind == "mark":
        journal.mark(n, what)
    else:
        journal.count_published(what)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_what_came_after_a_mark_is_what_a_journal_begun_there_would_hold(events: list[Event]) -> None:
    numbered = list(enumerate(events, 1))
    journal = _journal(0, numbered)
    assert Journal.load(journal.dump()) == journal
    assert journal.since(0) == journal
    for n, (kind, _) in numbered:
        later = journal.since(n)
        assert later == (_journal(n, numbered[n:]) if kind == "mark" else None)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.data())
def test_after_checkpoints_have_landed_it_holds_what_came_since_the_last(
    events: list[Event], data: st.DataObject
) -> None:
    numbered = list(enumerate(events, 1))
    journal, before = _journal(0, numbered), None
    while marks := [i.checkpoint for i in journal.items if isinstance(i, Mark)]:
        landed = data.draw(st.sampled_from(marks))
        before = journal.base
        journal.rebase(landed)
        assert journal == _journal(landed, numbered[landed:])
        assert journal.since(before) is None  # older than the checkpoint: nothing to re-run
    assert before is not None or not any(kind == "mark" for kind, _ in events)


def test_a_record_is_small() -> None:
    journal = Journal(7 << 32 | 5)
    for step in range(4096):
        journal.add_step(1_767_225_600_000 + step, {0: 10**9 + step, 1: 10**9 + step})
    assert len(journal.dump()) < 256 * 1024


def test_a_step_takes_the_bytes_of_what_moved() -> None:
    """Version 1 took 234 bytes for this step, and 1 MiB for 4,480 of them."""
    journal = Journal(7 << 32 | 5)
    for step in range(1000):
        journal.add_step(1_767_225_600_000 + step * 20, {p: 10**9 + step * 40 + p for p in range(16)})
    assert journal.size < 120 * 1000
    assert journal.size <= len(journal.dump()) < journal.size + 500


def test_what_is_left_after_a_checkpoint_has_landed_is_as_long_as_if_it_had_begun_there() -> None:
    journal, other = Journal(1), Journal(2)
    for step in range(10):
        journal.add_step(10**12 + step, {0: 10**9 + step})
    journal.mark(2, "plan")
    for each in (journal, other):
        each.add_step(10**12 + 50, {0: 10**9 + 50})
        each.add_step(10**12 + 51, {0: 10**9 + 51})
    assert journal.size > other.size > 0
    journal.rebase(2)
    assert (journal.size, journal.dump()) == (other.size, other.dump())


@settings(max_examples=100, deadline=None)
@given(EVENTS, EVENTS)
def test_a_record_is_the_same_whether_written_now_and_then_or_at_once(events: list[Event], more: list[Event]) -> None:
    numbered = list(enumerate([*events, *more], 1))
    once, twice = _journal(0, numbered), _journal(0, numbered[: len(events)])
    twice.dump()
    for item in once.items[len(twice.items) :]:
        twice.items.append(item)
    twice.sent, twice.digest = once.sent, once.digest
    assert twice.dump() == once.dump()


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=8), st.integers(1, 4), st.data())
def test_the_records_of_a_chain_hold_what_one_whole_record_would(
    rounds: list[list[Event]], most: int, data: st.DataObject
) -> None:
    journal, chains, numbers = Journal(0), list[list[bytes]](), count(1)
    for events in rounds:
        for n, (kind, what) in zip(numbers, events, strict=False):
            _add(journal, n, kind, what)
        with mock.patch.object(module, "CHAIN", most):
            place, value = journal.append()
        if not place:
            chains.append([])
        chains[-1].append(value)
        assert place == len(chains[-1]) - 1 < most
        assert _read(chains[-1]) == journal
        assert Journal.load(journal.dump()) == journal
        outline = Journal.outline(value)
        assert (outline.base, outline.sent, outline.digest) == (journal.base, journal.sent, journal.digest)
        marks = [item.checkpoint for item in journal.items if isinstance(item, Mark)]
        if landed := data.draw(st.sampled_from([0, *marks])):
            journal.rebase(landed)
        assert not place or not any(kind == "mark" for kind, _ in events)  # a mark begins a chain


def test_a_record_of_a_chain_is_as_short_after_many_steps_as_after_few() -> None:
    journal, sizes = Journal(7 << 32 | 5), []
    for step in range(250):
        journal.add_step(1_767_225_600_000 + step * 20, {0: 10**9 + step * 40, 1: 10**9 + step * 41})
        sizes.append(len(journal.append()[1]))
    assert max(sizes[1:]) < min(sizes[1:]) + 10 < 160


def _read(values: list[bytes]) -> Journal:
    chain = Chain(values[0])
    assert all(map(chain.add, values[1:]))
    return chain.journal


@pytest.mark.parametrize("base", [0, 7])
def test_a_record_that_does_not_follow_is_not_read(base: int) -> None:
    journal, other = Journal(0), Journal(base)
    values, others = list[bytes](), list[bytes]()
    for step in range(3):
        journal.add_step(step, {0: step})
        other.add_step(step, {0: step})
        values.append(journal.append()[1])
        others.append(other.append()[1])
    chain = Chain(values[0])
    assert not chain.add(values[2])
    assert chain.add(others[1]) == (base == 0)
    assert chain.journal == (_read(values[:2]) if base == 0 else Journal.load(values[0]))


def test_records_that_were_written_before_they_had_versions_are_read() -> None:
    old = (
        b'{"base":4294967297,"sent":3,"digest":9,"items":[[1000,0,[0,5,1,7]],[1020,-3,[1,9],[[1,8,"FrameMissing"]]],'
        b'[[0,5],[0,50]],[4294967298,2,4,"plan"],[1040,0,[]]]}'
    )
    journal = Journal(1 << 32 | 1, sent=3, digest=9)
    journal.add_step(1000, {0: 5, 1: 7})
    journal.add_step(1020, {1: 9}, 1017, [(1, 8, "FrameMissing")])
    journal.add_skip(SkipRecord({0: 5}, {0: 50}))
    journal.items.append(Mark(1 << 32 | 2, 2, 4, "plan"))
    journal.add_step(1040, {})
    assert Journal.load(old) == journal
    assert Journal.load(journal.dump()) == journal


def test_a_record_of_a_newer_version_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="written by a newer Tocsin"):
        Journal.load(b'{"version":4,"base":0,"sent":0,"digest":0,"items":[]}')


def test_marks_of_fenced_owners_are_forgotten_unless_another_plan_begins_there() -> None:
    journal = Journal(1)
    for name, plan in ((2, "a"), (3, "b"), (4, "b"), (5, "a")):
        journal.add_step(name, {0: name})
        journal.mark(name, plan)
    journal.fence("a")
    assert [i.checkpoint for i in journal.items if isinstance(i, Mark)] == [3, 5]
    assert [i.now for i in journal.items if isinstance(i, StepRecord)] == [2, 3, 4, 5]
    assert Journal.load(journal.dump()) == journal
