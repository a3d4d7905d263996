"""The journal against a plain list of what happened."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.runtime.journal import Journal, Mark

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
    """A journal to which just this happened; an event's number is its clock and its checkpoint's name."""
    journal = Journal(base)
    for n, (kind, what) in events:
        if kind == "ran":
            journal.ran(n, what)
        elif kind == "unread":
            journal.ran(n, {0: n}, n + 1, what)
        elif kind == "mark":
            journal.mark(n, what)
        else:
            journal.publishes(what)
    return journal


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
        journal.landed(landed)
        assert journal == _journal(landed, numbered[landed:])
        assert journal.since(before) is None  # older than the checkpoint: nothing to re-run
    assert before is not None or not any(kind == "mark" for kind, _ in events)


def test_a_record_is_small() -> None:
    journal = Journal(7 << 32 | 5)
    for step in range(4096):
        journal.ran(1_767_225_600_000 + step, {0: 10**9 + step, 1: 10**9 + step})
    assert len(journal.dump()) < 256 * 1024
