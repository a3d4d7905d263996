"""The state of an asset is read from the newest snapshot's chain, as a shard would restore it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch

from tocsin.pipelines.runtime.admin import inspection
from tocsin.pipelines.runtime.admin.inspection import KeyState, Rule, key_state
from tocsin.pipelines.runtime.declare.errors import ConfigError, SnapshotLost, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model, Plan
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

SCHEMA = pa.schema(
    [
        pa.field("pump", pa.string(), nullable=False),
        pa.field("hour", pa.int64(), nullable=False),
        pa.field("heat", pa.float64(), nullable=False),
        pa.field("load", pa.float64(), nullable=False),
    ]
)
PLAN = Plan("tests.runtime.admin.test_inspection:pipeline", {"name": "pumps"})
HOUR_MS = 3_600_000


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    hot = AlertRule(name="hot", severity="warning", when=pl.col("heat") > 0.9)
    worn = AlertRule(name="worn", severity="critical", when=pl.col("heat") > 0.5, hold=3)
    return Pipeline(
        name=options["name"],
        topic="readings",
        schema=SCHEMA,
        key="pump",
        stages=[Reorder(by="hour", late=2), SlidingWindow(4, ["heat", "load"])],
        results=pa.schema([("hour", pa.int64()), ("heat", pa.float64())]),
        rules=[hot, worn],
        forget_after="64h",
    )


class Shard:
    """A machine whose checkpoints are written as a shard writes them."""

    def __init__(self, lake: Lake, number: int = 0, partitions: Sequence[int] = (0,)) -> None:
        self.declared = PLAN.build(lake)
        self.machine, self._lake, self._number = Machine(self.declared), lake, number
        self._sink, self.snapshots = ResultsTable(lake, self.declared, number), Snapshots(lake, "pumps", number)
        self._epoch, self._sequence, self._partitions = (
            self._sink.own(dict.fromkeys(partitions, 0)).epoch,
            0,
            partitions,
        )
        self.now = 1_700_000_000_000
        self._offset = 0

    def read(self, *readings: tuple[str, int, float], partition: int = 0) -> None:
        rows = [
            {
                "_partition": partition,
                "_offset": self._offset + i,
                "_row": 0,
                "_timestamp": self.now,
                "pump": pump,
                "hour": hour,
                "heat": heat,
                "load": -heat,
            }
            for i, (pump, hour, heat) in enumerate(readings)
        ]
        self._offset += len(rows)
        self.machine.step(pa.RecordBatch.from_pylist(rows, schema=pa.schema([*IDENTITY, *SCHEMA])), self.now)

    def checkpoint(self) -> int:
        self._sequence += 1
        name = self._epoch << 32 | self._sequence
        facts = {"plan": PLAN.dump()}
        self.snapshots.write(name, self.machine.delta(full=self.snapshots.full_next), facts)
        self._sink.publish([], dict.fromkeys(self._partitions, self._offset), name)
        self.snapshots.drop_before(name)
        return name


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


@pytest.fixture
def shard(lake: Lake) -> Shard:
    return Shard(lake)


def _one(lake: Lake, key: str, **more: Any) -> KeyState:
    (memory,) = key_state(lake, "pumps", key, shards=[0], **more)
    return memory


def test_a_key_is_shown_with_its_cells_rings_rules_and_waiting_rows(lake: Lake, shard: Shard) -> None:
    shard.read(*(("a", hour, 0.1 * hour) for hour in range(1, 9)), ("b", 1, 0.5))
    name = shard.checkpoint()
    memory = _one(lake, "a")
    assert (memory.partition, memory.key, memory.last_seen, memory.checkpoint) == (0, "a", shard.now, name)
    assert memory.cells == {"0-Sorted/newest": 8, "0-Sorted/through": 6, "0-Sorted/seen_at": shard.now}
    rows, room = memory.rings["1-Last/rows"]
    assert room == 3 and rows.columns == ["heat", "load"]
    assert rows["heat"].to_list() == pytest.approx([0.4, 0.5, 0.6])
    assert memory.rules == {"hot": Rule(False, 0, 1, None), "worn": Rule(False, 1, 3, None)}
    assert memory.waiting["0-Sorted/waiting"]["hour"].to_list() == [7, 8]
    newcomer = _one(lake, "b")
    assert newcomer.cells["0-Sorted/through"] is None and newcomer.rings["1-Last/rows"][0].height == 0
    shard.now += 1000
    shard.read(*(("a", hour, 1.0) for hour in range(9, 13)))
    shard.checkpoint()
    assert _one(lake, "a").rules == {"hot": Rule(True, 1, 1, shard.now), "worn": Rule(True, 3, 3, shard.now - 1000)}


def test_what_is_read_from_a_chain_of_cuts_is_what_a_shard_restores(lake: Lake, shard: Shard) -> None:
    """Keys appear, are forgotten after they are inactive, and return into other slots."""
    rng, hours = random.Random(1), dict.fromkeys(map(str, range(40)), 0)
    rings, forgotten = 0, 0
    for _ in range(12):
        for key in rng.sample(sorted(hours), 8):
            for _ in range(rng.randrange(1, 5)):
                hours[key] += 1
                shard.read((key, hours[key], rng.random()))
        shard.now += 20 * HOUR_MS
        name = shard.checkpoint()
        restored = Machine(shard.declared)
        restored.restore(Snapshots(lake, "pumps", 0).read(name).deltas)
        held = restored._state._index.get(0, {})
        known = inspection._SnapshotIndex(lake, "pumps", 0, name)
        assert sorted(known.keys["key"]) == sorted(held)
        forgotten += len(hours) - len(held)
        for key, slot in held.items():
            at, memory = torch.tensor([slot]), _one(lake, key)
            for stage, cell in (("0-Sorted", "newest"), ("0-Sorted", "through"), ("0-Sorted", "seen_at")):
                value = restored._state.of(stage)[cell][at].item()  # type: ignore[index,union-attr]
                assert memory.cells[f"{stage}/{cell}"] == (None if value < -(2**60) else value)
            data, count = restored._state.of("1-Last")["rows"].tail(at)  # type: ignore[union-attr]
            filled = data[0, 3 - int(count) :]
            assert memory.rings["1-Last/rows"][0].to_numpy().tolist() == filled.tolist()
            rings += len(filled)
            waiting = restored._state.waiting["0-Sorted/waiting"]
            mine = waiting.table.to_pylist() if len(waiting) else []
            wanted = [row["hour"] for row in mine if row["pump"] == key]
            assert [row["hour"] for w in memory.waiting.values() for row in w.iter_rows(named=True)] == wanted
    assert rings > 100
    assert forgotten > 20


def test_a_key_on_two_partitions_is_shown_for_each_and_one_partition_alone_when_asked(lake: Lake) -> None:
    one, other = Shard(lake, 0, [0, 2]), Shard(lake, 1, [1])
    one.read(("a", 1, 0.1))
    one.read(("a", 5, 0.1), partition=2)
    other.read(("a", 3, 0.1), partition=1)
    for shard in (one, other):
        shard.checkpoint()
    found = key_state(lake, "pumps", "a", shards=[0, 1])
    assert [(m.partition, m.cells["0-Sorted/newest"]) for m in found] == [(0, 1), (1, 3), (2, 5)]
    assert [m.partition for m in key_state(lake, "pumps", "a", shards=[0], partition=2)] == [2]


def test_an_unknown_key_is_one_line_with_the_nearest_and_their_number(lake: Lake, shard: Shard) -> None:
    shard.read(*((f"pump-{n:04d}", 1, 0.1) for n in range(2000)))
    shard.checkpoint()
    says = r"state of pumps: expected one of its 2,000 keys, got 'pump-1x23'; the nearest: .*pump-1[0-9]?23"
    with pytest.raises(ConfigError, match=says) as unknown:
        _one(lake, "pump-1x23")
    assert "\n" not in str(unknown.value)
    with pytest.raises(
        ConfigError, match="partition 1: expected one of its 0 keys, got 'pump-0001'; the nearest: none"
    ):
        _one(lake, "pump-0001", partition=1)


def test_a_snapshot_that_is_dropped_meanwhile_is_looked_for_again(
    lake: Lake, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for hour in range(1, 21):
        shard.read(("a", hour, 0.1))
        names.append(shard.checkpoint())
    newest, looks = inspection.checkpoint_of, iter([names[0], names[1]])
    monkeypatch.setattr(inspection, "checkpoint_of", lambda *a: next(looks, None) or newest(*a))
    assert _one(lake, "a").cells["0-Sorted/newest"] == 20


def test_without_a_checkpoint_or_with_its_snapshot_gone_it_says_so(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"state of pumps: expected a checkpoint in .*, got none; start it"):
        _one(lake, "a")
    shard = Shard(lake)
    shard.read(("a", 1, 0.1))
    name = shard.checkpoint()
    (tmp_path / "_state" / "pumps" / "0" / str(name) / "keys.arrow").unlink()
    with pytest.raises(
        SnapshotLost, match=f"snapshot {name} of pumps/0: expected the one that the last checkpoint names"
    ) as lost:
        _one(lake, "a")
    assert "\n" not in str(lost.value)


def test_a_pipeline_that_cannot_be_built_any_more_is_shown_without_column_names(
    lake: Lake, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.read(*(("a", hour, 0.5) for hour in range(1, 9)))
    shard.checkpoint()

    def gone(self: Plan, lake: Lake) -> Pipeline:
        raise ConfigError("no such factory")

    monkeypatch.setattr(Plan, "build", gone)
    assert _one(lake, "a").rings["1-Last/rows"][0].columns == ["0", "1"]
