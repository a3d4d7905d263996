"""The results table: rows and positions in one commit, one owner at a time, nothing lost or duplicated beside other writers."""

from __future__ import annotations

import datetime as dt
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError

from tocsin.pipelines.runtime.declare.errors import ConfigError, Fenced, LakeLost
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable, TableState, _stats

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False), pa.field("heat", pa.float64())])
PIPELINE = Pipeline(name="p", topic="t", schema=SCHEMA, key="unit", stages=[], results=SCHEMA)
START = {0: 0, 1: 40}
MIDNIGHT_MS = 1_767_225_600_000


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


LOADS = pa.field("loads", pa.list_(pa.float32()), nullable=False)
WIDER = replace(PIPELINE, results=pa.schema([*SCHEMA, LOADS]))
NARROWER = replace(PIPELINE, results=pa.schema([SCHEMA.field("unit")]))


def _sink(lake: Lake, shard: int = 0, pipeline: Pipeline = PIPELINE, shards: int = 2) -> ResultsTable:
    return ResultsTable(lake, pipeline, shard, shards)


def _owner(lake: Lake) -> ResultsTable:
    sink = _sink(lake)
    sink.own(START)
    return sink


def _rows(first: int, count: int, at_ms: int = MIDNIGHT_MS, pipeline: Pipeline = PIPELINE) -> list[pa.RecordBatch]:
    """Return the results of `count` readings, a second apart."""
    n = range(first, first + count)
    values = [[0] * count, list(n), [0] * count, [at_ms + 1000 * i for i in range(count)], [7] * count, [0.5] * count]
    schema = pa.schema([*IDENTITY, *SCHEMA])
    arrays = [
        pa.array(v, pa.int64() if f.name != "heat" else f.type).cast(f.type)
        for v, f in zip(values, schema, strict=True)
    ]
    return [Machine(pipeline).step(pa.RecordBatch.from_arrays(arrays, schema=schema), at_ms).results]


def _as(pipeline: Pipeline, rows: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return these rows as a pipeline with other result columns gives them."""
    loads = {LOADS.name: [[0.5, 1.5]]}
    return [
        pa.RecordBatch.from_arrays(
            [
                r[f.name] if f.name in r.schema.names else pa.array(loads[f.name] * len(r), f.type)
                for f in pipeline.table
            ],
            schema=pipeline.table,
        )
        for r in rows
    ]


def _offsets(lake: Lake) -> list[int]:
    return sorted(pl.scan_delta(lake.uri("p")).select("offset").collect()["offset"].to_list())


def _txn(lake: Lake, *names: str) -> list[int | None]:
    table = DeltaTable(lake.uri("p"))
    return [table.transaction_version(n) for n in names]


def _commit(table: DeltaTable, **txn: int) -> None:
    """Commit without files, as another writer."""
    table.create_write_transaction(
        [],
        mode="append",
        schema=table.schema(),
        partition_by=["event_date"],
        commit_properties=CommitProperties(app_transactions=[Transaction(k, v) for k, v in txn.items()]),
    )


def test_the_first_owner_pins_the_start_and_the_next_begins_where_it_stopped(lake: Lake) -> None:
    first = _sink(lake)
    assert first.own(START) == TableState(1, START, 0)
    first.publish(first.write(_rows(0, 5)), {0: 5, 1: 41}, 1 << 32 | 1)
    assert _sink(lake).own({0: 900, 1: 900}) == TableState(2, {0: 5, 1: 41}, 1 << 32 | 1)


def test_rows_and_positions_become_visible_together(lake: Lake) -> None:
    sink = _owner(lake)
    files = sink.write(_rows(0, 5))
    assert _offsets(lake) == [] and _txn(lake, "p/t/0", "p/0#checkpoint") == [0, None]
    sink.publish(files, {0: 5, 1: 40}, 77)
    assert _offsets(lake) == [0, 1, 2, 3, 4]
    assert _txn(lake, "p/t/0", "p/t/1", "p/0#checkpoint", "p/0#epoch") == [5, 40, 77, 1]


def test_positions_move_without_rows(lake: Lake) -> None:
    sink = _owner(lake)
    assert sink.write([]) == []
    sink.publish([], {0: 9, 1: 40}, 78)
    assert _offsets(lake) == [] and _txn(lake, "p/t/0", "p/0#checkpoint") == [9, 78]


def test_a_second_owner_fences_the_first(lake: Lake) -> None:
    zombie = _owner(lake)
    files = zombie.write(_rows(0, 5))
    _owner(lake)
    with pytest.raises(Fenced, match=r"p/0#epoch: expected 1, got 2"):
        zombie.publish(files, {0: 5, 1: 40}, 1 << 32 | 1)
    assert _offsets(lake) == [] and _txn(lake, "p/t/0", "p/0#checkpoint") == [0, None]


def test_owners_of_other_shards_do_not_fence_each_other(lake: Lake) -> None:
    one, other = _owner(lake), _sink(lake, shard=1)
    other.own({2: 0})
    one.publish(one.write(_rows(0, 3)), {0: 3, 1: 40}, 1)
    other.publish(other.write(_rows(10, 3)), {2: 13}, 1)
    one.publish(one.write(_rows(3, 2)), {0: 5, 1: 40}, 2)
    assert _offsets(lake) == [0, 1, 2, 3, 4, 10, 11, 12]
    assert _txn(lake, "p/t/0", "p/t/2", "p/0#checkpoint", "p/1#checkpoint") == [5, 13, 2, 1]


def test_owners_of_other_pipelines_share_a_table_and_do_not_fence_each_other(lake: Lake) -> None:
    sinks = []
    for name in ("one", "two"):
        sinks.append(ResultsTable(lake, replace(PIPELINE, name=name, into="p"), 0))
        assert sinks[-1].own(START) == TableState(1, START, 0)
    for n, sink in enumerate(sinks):
        sink.publish(sink.write(_rows(10 * n, 3)), {0: 3 + n, 1: 40}, 7 + n)
    assert _offsets(lake) == [0, 1, 2, 10, 11, 12]
    again = ResultsTable(lake, replace(PIPELINE, name="one", into="p"), 0)
    assert again.own(START) == TableState(2, {0: 3, 1: 40}, 7)
    with pytest.raises(Fenced, match="one/0#epoch: expected 1, got 2"):
        sinks[0].publish([], {0: 9, 1: 40}, 9)
    sinks[1].publish(sinks[1].write(_rows(13, 1)), {0: 5, 1: 40}, 9)
    assert _txn(lake, "one/t/0", "one/0#epoch", "two/t/0", "two/0#epoch", "two/0#checkpoint") == [3, 2, 5, 1, 9]
    assert [f.name for f in Path(lake.root).iterdir()] == ["p"]


def _write_shared(name: str, lakes: list[Lake], together: Barrier) -> None:
    """Create the table in each lake and append to it, at the same time as another process."""
    pipeline = replace(PIPELINE, name=name, topic=name, into="p")
    for lake in lakes:
        sink = ResultsTable(lake, pipeline, 0)
        together.wait()
        sink.own({0: 0})
        for n in range(4):
            sink.publish(sink.write(_rows(5 * n, 5, pipeline=pipeline)), {0: 5 * n + 5}, n + 1)


def test_processes_that_make_and_fill_a_table_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    lakes, names = [Lake(str(tmp_path / f"{n}")) for n in range(15)], ("one", "two")
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(len(names), timeout=60)
    processes = [spawn.Process(target=_write_shared, args=(name, lakes, together)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for lake in lakes:
        rows = pl.scan_delta(lake.uri("p")).select("topic", "offset").collect().rows()
        assert sorted(rows) == [(name, offset) for name in names for offset in range(20)]
        for name in names:
            assert _txn(lake, f"{name}/{name}/0", f"{name}/0#epoch", f"{name}/0#checkpoint") == [20, 1, 4]


def test_a_table_that_another_one_makes_at_the_same_moment_is_used(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    make = DeltaTable.create

    def beaten(*args: Any, **more: Any) -> None:
        make(*args, **more)
        raise CommitFailedError("Protocol changed since last commit: protocol changed")  # deltalake 1.6

    monkeypatch.setattr(DeltaTable, "create", beaten)
    assert _sink(lake).own(START) == TableState(1, START, 0)


def test_compaction_beside_it_loses_and_doubles_nothing(lake: Lake) -> None:
    sink = _owner(lake)
    for n in range(6):
        files = sink.write(_rows(5 * n, 5))
        if n % 2:
            DeltaTable(lake.uri("p")).optimize.compact()
        sink.publish(files, {0: 5 * n + 5, 1: 40}, n + 1)
    assert _offsets(lake) == list(range(30))
    assert _txn(lake, "p/t/0") == [30]
    assert len(DeltaTable(lake.uri("p")).file_uris()) < 6


def test_a_commit_that_conflicts_with_another_change_is_made_again(lake: Lake) -> None:
    sink = _owner(lake)
    files = sink.write(_rows(0, 5))
    before = DeltaTable(lake.uri("p")).version()
    DeltaTable(lake.uri("p")).alter.set_table_properties({"delta.appendOnly": "false"})
    sink.publish(files, {0: 5, 1: 40}, 1)
    assert _offsets(lake) == [0, 1, 2, 3, 4]
    assert DeltaTable(lake.uri("p")).version() == before + 2


def test_a_commit_whose_reply_was_lost_is_recognised(lake: Lake) -> None:
    sink = _owner(lake)
    files = sink.write(_rows(0, 5))
    twin = DeltaTable(lake.uri("p"))  # commits the same transaction, unknown to the sink
    twin.create_write_transaction(
        list(files),
        mode="append",
        schema=twin.schema(),
        partition_by=["event_date"],
        commit_properties=CommitProperties(
            app_transactions=[
                Transaction(k, v) for k, v in {"p/0#epoch": 1, "p/0#checkpoint": 5, "p/t/0": 5, "p/t/1": 40}.items()
            ]
        ),
    )
    version = DeltaTable(lake.uri("p")).version()
    sink.publish(files, {0: 5, 1: 40}, 5)
    assert _offsets(lake) == [0, 1, 2, 3, 4] and DeltaTable(lake.uri("p")).version() == version
    sink.publish(sink.write(_rows(5, 1)), {0: 6, 1: 40}, 6)
    assert _offsets(lake) == [0, 1, 2, 3, 4, 5]


def test_delta_itself_would_take_the_same_or_an_older_commit_from_a_fresh_handle(lake: Lake) -> None:
    """This is why a sink keeps the handle with which it took ownership."""
    sink = _owner(lake)
    sink.publish([], {0: 9, 1: 40}, 9)
    for checkpoint in (9, 3):
        _commit(DeltaTable(lake.uri("p")), **{"p/0#epoch": 1, "p/0#checkpoint": checkpoint})
        assert _txn(lake, "p/0#checkpoint") == [checkpoint]


def test_a_row_is_found_by_its_date_and_its_event_time(lake: Lake) -> None:
    sink = _owner(lake)
    sink.publish(sink.write(_rows(0, 4, MIDNIGHT_MS - 2000)), {0: 4, 1: 40}, 1)
    sink.publish(sink.write(_rows(4, 4, MIDNIGHT_MS + 500)), {0: 8, 1: 40}, 2)
    table, new_year = pl.scan_delta(lake.uri("p")), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for lower, offsets in ((new_year, [2, 3, 4, 5, 6, 7]), (new_year + dt.timedelta(milliseconds=3500), [7])):
        found = table.filter(pl.col("event_time") >= lower).collect()
        assert sorted(found["offset"]) == offsets
        assert DeltaTable(lake.uri("p")).to_pyarrow_dataset().count_rows(
            pa.dataset.field("event_time") >= pa.scalar(lower)  # skips files by their statistics
        ) == len(offsets)
    assert sorted(table.filter(pl.col("event_date") == "2025-12-31").collect()["offset"]) == [0, 1]


def test_a_new_column_is_added_and_one_that_is_gone_stays_both_null_where_rows_lack_them(lake: Lake) -> None:
    for n, pipeline in enumerate([PIPELINE, WIDER, NARROWER]):
        sink = _sink(lake, pipeline=pipeline)
        sink.own(START)
        sink.publish(sink.write(_as(pipeline, _rows(2 * n, 2))), {0: 2 * n + 2, 1: 40}, n + 1)
    columns = ["offset", "heat", "loads", "unit"]
    expected = [(0, 0.5, None, 7), (2, 0.5, [0.5, 1.5], 7), (4, None, None, 7)]
    for _ in range(2):
        rows = pl.scan_delta(lake.uri("p")).filter(pl.col("offset") % 2 == 0).sort("offset").select(columns).collect()
        assert rows.rows() == expected
        DeltaTable(lake.uri("p")).optimize.compact()


def test_rows_before_and_after_a_change_of_columns_go_into_one_commit(lake: Lake) -> None:
    sink = _owner(lake)
    sink.check(WIDER.table)
    sink.publish(sink.write([*_rows(0, 1), *_as(WIDER, _rows(1, 1)), *_as(NARROWER, _rows(2, 1))]), {0: 3, 1: 40}, 1)
    rows = pl.scan_delta(lake.uri("p")).sort("offset").select("heat", "loads").collect().rows()
    assert rows == [(0.5, None), (0.5, [0.5, 1.5]), (None, None)]


def test_a_column_of_another_type_is_refused_in_one_line(lake: Lake) -> None:
    owner = _owner(lake)
    other = replace(PIPELINE, results=pa.schema([SCHEMA.field("unit"), ("heat", pa.float32())]))
    says = r'expected column heat as "double", got "float"; give the new one another name$'
    with pytest.raises(ConfigError, match=says):
        owner.check(other.table)
    with pytest.raises(ConfigError, match=says):
        _sink(lake, pipeline=other).own(START)


def test_shards_commit_while_others_add_columns(lake: Lake) -> None:
    first = _sink(lake, shards=4)
    first.own({0: 0})  # creates the table
    shards = [first]
    for n in range(1, 4):
        shards.append(_sink(lake, n, shards=4))
        shards[n].own({n: 0})

    def run(n: int) -> None:
        sink = shards[n]
        for i in range(8):
            if n >= 2 and i == 4:  # restarts with another plan
                sink = _sink(lake, n, WIDER, 4)
                sink.own({n: 0})
            rows = _rows(100 * n + i, 1)
            wider = n == 1 and i >= 4  # changes its plan while it runs
            sink.publish(sink.write(_as(WIDER, rows) if wider else rows), {n: i + 1}, i + 1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    assert _offsets(lake) == [100 * n + i for n in range(4) for i in range(8)]
    assert _txn(lake, *(f"p/t/{n}" for n in range(4))) == [8] * 4
    with_loads = pl.scan_delta(lake.uri("p")).filter(pl.col("loads").is_not_null()).sort("offset").collect()
    assert with_loads["offset"].to_list() == [104, 105, 106, 107]


def test_a_zombie_that_adds_a_column_is_fenced_all_the_same(lake: Lake) -> None:
    zombie = _owner(lake)
    _owner(lake)
    with pytest.raises(Fenced, match=r"p/0#epoch: expected 1, got 2"):
        zombie.write(_as(WIDER, _rows(0, 1)))
    assert _offsets(lake) == []


def test_who_goes_by_another_number_of_shards_is_refused(lake: Lake) -> None:
    _owner(lake)
    with pytest.raises(ConfigError, match=r"p: expected 2 shards, as its table has it, got 3; `tocsin stop` it, then"):
        _sink(lake, shards=3).own(START)
    assert _txn(lake, "p/0#epoch", "p#shards") == [1, 2]


def test_a_time_that_a_stage_made_beyond_all_calendars_is_stored_without_statistics(lake: Lake) -> None:
    far = pa.array([2**62, 0], pa.timestamp("us", "UTC"))
    stats = orjson.loads(_stats(pa.table({"far": far, "n": [1, 2]})))
    assert stats["minValues"] == {"n": 1} and stats["maxValues"] == {"n": 2}


def test_a_partition_that_was_added_since_the_first_owner_begins_at_its_first_record(lake: Lake) -> None:
    assert _sink(lake).own({0: 900}).positions == {0: 900}
    assert _sink(lake).own({0: 950, 1: 40}).positions == {0: 900, 1: 0}
    assert _sink(lake, shard=1).own({2: 70}).positions == {2: 70}  # the first start of another shard


def test_a_shard_is_known_once_it_has_had_an_owner_and_to_ask_makes_nothing(lake: Lake, tmp_path: Path) -> None:
    assert not _sink(lake).known()
    assert not (tmp_path / "p").exists()
    _owner(lake)
    assert _sink(lake).known() and not _sink(lake, shard=1).known()


def test_a_log_that_can_not_be_read_is_one_line(lake: Lake, tmp_path: Path) -> None:
    _owner(lake)
    (tmp_path / "p" / "_delta_log" / f"{1:020}.json").write_text("garbage{")
    for look in (_sink(lake).known, lambda: _sink(lake).own(START)):
        with pytest.raises(LakeLost, match="expected a table's log in its _delta_log") as lost:
            look()
        assert "\n" not in str(lost.value)


def test_files_that_are_gone_are_named_and_taken_out_of_the_table(lake: Lake, tmp_path: Path) -> None:
    sink = _owner(lake)
    for n in range(4):
        sink.publish(sink.write(_rows(5 * n, 5)), {0: 5 * n + 5, 1: 40}, n + 1)
    files = sorted((tmp_path / "p").glob("*/*.parquet"))
    assert sink.absent() == []
    files[0].unlink()
    (gone,) = sink.absent()
    assert (tmp_path / gone) == files[0]
    assert len(sink.absent(limit=1)) <= 1
    sink.repair()
    assert sink.absent() == [] and len(_offsets(lake)) == 15
    sink.publish(sink.write(_rows(20, 5)), {0: 25, 1: 40}, 5)
    assert len(_offsets(lake)) == 20


def _metadata(lake: Lake) -> dict[str, dict[str, str]]:
    return {f.name: f.metadata for f in DeltaTable(lake.uri("p")).schema().fields if f.metadata}


def test_columns_have_the_metadata_that_they_are_declared_with(lake: Lake) -> None:
    def declared(**heat: str) -> Pipeline:
        return replace(PIPELINE, results=pa.schema([SCHEMA.field("unit"), SCHEMA.field("heat").with_metadata(heat)]))

    plain = _owner(lake)
    plain.publish(plain.write(_rows(0, 3)), START, 1)
    assert _metadata(lake) == {}
    sink = _sink(lake, pipeline=declared(unit="°C", axis="air"))
    sink.own(START)
    assert _metadata(lake) == {"heat": {"unit": "°C", "axis": "air"}}
    sink.publish(sink.write(_rows(3, 3)), START, 2)
    _sink(lake, pipeline=declared(unit="K")).own(START)
    assert _metadata(lake) == {"heat": {"unit": "K", "axis": "air"}}
    assert _offsets(lake) == [0, 1, 2, 3, 4, 5]
    version = DeltaTable(lake.uri("p")).version()
    _sink(lake, pipeline=declared(unit="K")).own(START)
    assert DeltaTable(lake.uri("p")).version() == version + 1, "only the new epoch"
