"""Intervals near to a moment: against a plain loop; files of intervals."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tocsin.models.timetable import BEGUN, COMING, EVERY, OPEN, Timetable, read

KINDS = ("wash", "load")
SCHEMA = {"asset": pl.String, "kind": pl.String, "from": pl.Int64, "to": pl.Int64, "load": pl.Float64}


def near(
    rows: list[tuple[str, str, int, int, float | None]], asset: str, time: int, reach: float
) -> set[tuple[float, ...]]:
    """The intervals near to an asset's time, each as beginning, end, kind and load."""
    timetable = Timetable(pl.DataFrame(rows, SCHEMA, orient="row"), kinds=KINDS, numbers=["load"])
    found = timetable.near(pl.Series([asset]), np.array([time]), unit=1, horizon=reach)[0]
    assert found.shape == (len(KINDS) * (BEGUN + COMING), 4)
    return {tuple(slot.tolist()) for slot in found if not slot[0].isinf()}


@pytest.mark.parametrize("seed", range(30))
def test_it_finds_the_last_that_began_and_the_next_of_each_kind(seed: int) -> None:
    rng = random.Random(seed)
    rows, begins = list[tuple[str, str, int, int, float | None]](), rng.sample(range(1000), 40)
    for number, begin in enumerate(begins):
        end = rng.choice([begin, begin + rng.randrange(1, 200), OPEN])
        rows.append((rng.choice(["a", "b", EVERY]), rng.choice(KINDS), begin, end, rng.choice([None, float(number)])))
    for asset in ("a", "b", "c"):
        for time in rng.sample(range(1000), 10):
            expected = set()
            for number, kind in enumerate(KINDS):
                own = sorted((r for r in rows if r[0] in (asset, EVERY) and r[1] == kind), key=lambda r: r[2])
                begun, coming = ([r for r in own if (r[2] <= time) == is_begun] for is_begun in (True, False))
                for _, _, begin, end, load in [*begun[-BEGUN:], *coming[:COMING]]:
                    if end - time >= -300 and begin - time <= 300:
                        expected.add((*np.float32([begin - time, end - time]).tolist(), number, load or 0))
            assert near(rows, asset, time, 300) == expected


def test_without_intervals_all_slots_are_absent() -> None:
    assert near([], "a", 5, math.inf) == set()


def test_a_file_has_times_in_iso_8601_and_leaves_out_other_kinds(tmp_path: Path) -> None:
    lines = [
        "asset,kind,from,to,load",
        "7,load,2026-03-02T08:00:00Z,2026-03-02T11:30:00+01:00,1.5",
        "*,wash,2026-03-02 08:00:00,,",
        "7,picnic,2026-03-02T08:00:00Z,2026-03-02T09:00:00Z,",
    ]
    (tmp_path / "context.csv").write_text("\n".join(lines))
    table = read(tmp_path / "context.csv", kinds=KINDS, numbers=["load"])
    eight = 1_772_438_400_000
    assert table.rows() == [("7", "load", eight, eight + 9_000_000, 1.5), ("*", "wash", eight, OPEN, None)]
    table.with_columns(pl.from_epoch("from", "ms").dt.replace_time_zone("UTC")).write_parquet(tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", kinds=KINDS, numbers=["load"]).equals(table)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7,load,yesterday,2026-03-02T08:00:00Z,1", "expected a time such as .*'yesterday'"),
        ("7,load,2026-03-02T08:00:00Z,2026-03-01T08:00:00Z,1", "expected `to` not before `from`"),
    ],
)
def test_a_file_that_does_not_say_when_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "context.csv").write_text(f"asset,kind,from,to,load\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "context.csv", kinds=KINDS, numbers=["load"])


def test_a_file_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "context.csv").write_text("asset,kind,from\n")
    with pytest.raises(ValueError, match=r"expected the columns .* got none of to"):
        read(tmp_path / "context.csv", kinds=KINDS)
