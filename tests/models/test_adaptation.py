"""What adaptations of all domains share: each part of the recordings is judged by what was fitted on the others."""

from __future__ import annotations

import pytest

from tocsin.models.adaptation import by_the_others


@pytest.mark.parametrize(("count", "folds", "parts"), [(1, 10, 0), (2, 10, 2), (10, 10, 10), (23, 10, 10), (7, 3, 3)])
def test_each_recording_is_judged_once_by_what_has_not_seen_it(count: int, folds: int, parts: int) -> None:
    told = list[tuple[int, int]]()
    apart, whole = by_the_others(count, set, folds=folds, progress=lambda *done: told.append(done))
    assert whole == {*range(count)} and len(apart) == parts
    assert sorted(number for part, _ in apart for number in part) == ([*range(count)] if parts else [])
    for part, seen in apart:
        assert seen == whole - {*part} and seen
    assert told == [(done, parts + 1) for done in range(1, parts + 2)]
