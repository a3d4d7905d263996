"""Intervals of assets: corrections, overlaps, intervals for all assets, and their stored form."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.context import EVERY, ContextTopic, Intervals
from tocsin.pipelines.runtime.declare.errors import ConfigError

SCHEMA = {
    "asset": pl.String,
    "kind": pl.String,
    "from": pl.Datetime("us", "UTC"),
    "to": pl.Datetime("us", "UTC"),
    "id": pl.String,
    "load": pl.Float64,
}


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(1_700_000_000 + seconds, UTC)


def record(asset: str, begin: float, end: float | None, *, kind: str = "wash", **more: Any) -> dict[str, Any]:
    to = None if end is None else at(end)
    return {"asset": asset, "kind": kind, "from": at(begin), "to": to, "id": None, "load": None, **more}


def known(*records: dict[str, Any]) -> Intervals:
    return Intervals.of(pl.DataFrame(list(records), SCHEMA))


def covered(intervals: Intervals, asset: str, *seconds: float, kind: str = "wash") -> list[float | None]:
    """The load of the interval that covers each moment; -1 without a load, None where none does."""
    times = np.array([(1_700_000_000 + s) * 1000 for s in seconds], np.int64)
    rows = intervals.covering(kind, pa.array([asset] * len(times)), times)
    loads = intervals.numbers("load", rows)
    return [None if row < 0 else -1 if np.isnan(load) else load for row, load in zip(rows, loads, strict=True)]


def test_an_interval_is_half_open_and_belongs_to_its_asset_and_kind() -> None:
    intervals = known(record("a", 10, 20))
    assert covered(intervals, "a", 9.999, 10, 19.999, 20) == [None, -1, -1, None]
    assert covered(intervals, "b", 15) == covered(intervals, "a", 15, kind="load") == [None]


def test_an_interval_without_an_end_lasts_until_a_later_record_ends_it() -> None:
    open_ended = record("a", 10, None, load=1.0)
    assert covered(known(open_ended), "a", 10, 10**9) == [1.0, 1.0]
    assert covered(known(open_ended, record("a", 10, 20, load=2.0)), "a", 15, 20) == [2.0, None]


def test_a_later_record_moves_or_withdraws_an_interval_of_the_same_id() -> None:
    first, moved = record("a", 10, 20, id="7"), record("a", 30, 40, id="7")
    assert covered(known(first, moved), "a", 15, 35) == [None, -1]
    assert covered(known(first, moved, record("a", 30, 30, id="7")), "a", 15, 35) == [None, None]
    assert covered(known(first, record("b", 30, 30, id="7")), "a", 15) == [-1], "another asset's"
    assert covered(known(record("a", 10, 20), record("a", 10, 20, id="7")), "a", 15) == [-1]


def test_of_several_the_one_that_began_last_counts_and_an_assets_own_before_one_for_all() -> None:
    intervals = known(
        record("a", 0, 100, load=1.0),
        record("a", 10, 30, load=2.0),
        record("a", 20, 25, load=3.0),
        record(EVERY, 50, 200, load=4.0),
    )
    assert covered(intervals, "a", 5, 15, 22, 27, 40, 60, 150) == [1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 4.0]
    assert covered(intervals, "b", 5, 60) == [None, 4.0]


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_loop_over_all_intervals_finds(seed: int) -> None:
    rng = random.Random(seed)
    sent = []
    for number in range(rng.choice([0, 1, 5, 60])):
        begin = rng.randrange(50)
        end = rng.choice([None, begin + rng.randrange(30)])
        asset, kind = rng.choice(["a", "b", EVERY]), rng.choice(["wash", "load"])
        sent.append(record(asset, begin, end, kind=kind, load=float(number)))
    intervals = known(*sent)
    newest = {(r["asset"], r["kind"], r["from"]): r for r in sent}.values()
    for asset in "abc":
        for kind in ("wash", "load"):
            seconds, expected = np.arange(-1, 90, 0.5).tolist(), list[float | None]()
            for second in seconds:
                fitting = [
                    ((r["asset"] == asset, r["from"]), r["load"])
                    for r in newest
                    if r["asset"] in (asset, EVERY) and r["kind"] == kind
                    if r["from"] <= at(second) and (r["to"] is None or at(second) < r["to"])
                ]
                expected.append(max(fitting)[1] if fitting else None)
            assert covered(intervals, asset, *seconds, kind=kind) == expected


def test_equal_intervals_have_one_version_and_it_survives_storage() -> None:
    first, second = record("a", 10, 20), record("b", 30, None, load=2.0)
    intervals, again = known(first, second), known(second, first, first)
    assert intervals.dump() == again.dump()
    assert Intervals.load(intervals.dump()).version == intervals.version != known(first).version
    assert covered(Intervals.load(intervals.dump()), "b", 31) == [2.0]
    assert Intervals().version == known().version == ""


SPAN = st.tuples(
    st.sampled_from(["a", "b", EVERY]), st.sampled_from(["1", "2", None]), st.integers(0, 9), st.integers(0, 9)
)


@given(sent=st.lists(SPAN, max_size=20), random_=st.randoms())
def test_any_order_of_arrival_gives_the_same_table_if_corrections_stay_behind_what_they_correct(
    sent: list[tuple[str, str | None, int, int]], random_: random.Random
) -> None:
    records = [{**record(asset, begin, begin + length), "id": name} for asset, name, begin, length in sent]
    threads = dict[Any, list[dict[str, Any]]]()
    for each in records:  # as Kafka keeps the order of a key's records
        threads.setdefault((each["asset"], each["id"] or each["from"]), []).append(each)
    turns = [key for key, thread in threads.items() for _ in thread]
    random_.shuffle(turns)
    waiting = {key: iter(thread) for key, thread in threads.items()}
    assert known(*(next(waiting[key]) for key in turns)).dump() == known(*records).dump()


def test_an_interval_beyond_the_last_time_covers_nothing_of_another_asset() -> None:
    far = {**record("a", 0, None), "from": datetime(2400, 1, 1, tzinfo=UTC)}
    intervals = known(far, record("b", 10, 20))
    assert covered(intervals, "a", 15) == [None]
    assert covered(intervals, "b", 9, 15, 20) == [None, -1, None]


def test_numbers_are_keys_too() -> None:
    rows = known(record("7", 10, 20)).covering("wash", pa.array([7, 8]), np.array([1_700_000_015_000] * 2))
    assert rows.tolist() == [0, -1]


def test_a_number_must_not_have_the_name_of_a_field() -> None:
    with pytest.raises(ConfigError, match=r"expected names of numbers other than its own fields, got \['to'\]"):
        ContextTopic(kinds=["load"], numbers=["to"])
