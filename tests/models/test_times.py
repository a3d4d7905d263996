"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.models.times import read


@pytest.mark.parametrize(
    ("text", "utc", "offset"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00", 0),
        ("2026-01-31 12:00", "2026-01-31T12:00:00", None),
        ("2026-01-31", "2026-01-31T00:00:00", None),
        ("2026-1-3 9:05:01,25", "2026-01-03T09:05:01.25", None),
        ("2026-01-31 01:30 +02", "2026-01-30T23:30:00", 120),
        ("2026-01-31T23:30:00.000001-0330", "2026-02-01T03:00:00.000001", -210),
    ],
)
def test_an_offset_is_applied_and_told(text: str, utc: str, offset: int | None) -> None:
    found = read(pl.Series([text]))
    assert found.utc.to_list() == [_microseconds(datetime.fromisoformat(f"{utc}+00:00"))]
    assert found.offset.to_list() == [offset]


@pytest.mark.parametrize(
    "text", ["", "noon", "12:00", "2026-02-30", "2026-01-31T25:00", "2026-01-31T12:00+15", "20260131", "31.01.2026"]
)
def test_what_is_no_time_is_null(text: str) -> None:
    assert read(pl.Series([text])).utc.to_list() == [None]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), st.integers(-839, 839), st.sampled_from("T "))
def test_what_python_writes_is_read(moment: datetime, minutes: int, between: str) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    found = read(pl.Series([there.isoformat(between)]))
    assert (found.utc[0], found.offset[0]) == (_microseconds(there), minutes)


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
