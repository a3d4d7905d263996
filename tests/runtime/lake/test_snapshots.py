"""Snapshots on a lake: chains restore the state, grow with its changes, and keep every snapshot that is still needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.cli.test_query import commit
from tests.support.denied import deny
from tocsin.pipelines.runtime.declare.errors import SnapshotLost
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.state import State, StateDelta
from tocsin.pipelines.runtime.declare.stores import Cell, CellStore, Pending, PendingStore, Ring, RingStore
from tocsin.pipelines.runtime.engine.checkpoint import CheckpointWriter, PendingCheckpoint, WrittenCheckpoint
from tocsin.pipelines.runtime.lake.retry import LakeRetry
from tocsin.pipelines.runtime.lake.snapshots import LONGEST, Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake

DECLARED = {"0-A/sum": Cell(dtype=torch.int64), "0-A/last": Ring(2, 8), "0-A/waiting": Pending()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def _state() -> State:
    return State(DECLARED, pa.string())


def _add(state: State, keys: range, value: int) -> None:
    """Change every store of these keys."""
    slots = state.slots(np.zeros(len(keys), np.int32), pa.array([f"k{k}" for k in keys]))
    total, last, waiting = (state.of("0-A")[n] for n in ("sum", "last", "waiting"))
    assert isinstance(total, CellStore) and isinstance(last, RingStore) and isinstance(waiting, PendingStore)
    total[slots] = total[slots] + value
    last.replace(slots, torch.full((len(keys), 2, 8), float(value)), torch.full((len(keys),), 9))
    table = pa.record_batch({"name": pa.array([f"k{k}" for k in keys[:3]]), "at": pa.array([value] * len(keys[:3]))})
    waiting.rows = Rows(table, slots[:3], {"window": torch.full((len(table), 2, 2), float(value))})


def _same(a: StateDelta, b: StateDelta) -> None:
    assert a.keys.equals(b.keys)
    assert a.cells.keys() == b.cells.keys() and all(torch.equal(a.cells[n], b.cells[n]) for n in a.cells)
    assert a.waiting.keys() == b.waiting.keys()
    for name, rows in a.waiting.items():
        other = b.waiting[name]
        assert rows.table.equals(other.table) and torch.equal(rows.slots, other.slots)
        assert rows.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(rows.tensors[n], other.tensors[n]) for n in rows.tensors)


def _restored(lake: Lake, name: int) -> State:
    state = _state()
    state.restore(Snapshots(lake, "p", 0).read(name).deltas)
    return state


def test_each_snapshot_of_a_chain_gives_back_the_state_it_was_cut_from(lake: Lake) -> None:
    state, snapshots, whole = _state(), Snapshots(lake, "p", 0), {}
    for name in range(1, 6):
        _add(state, range(10 * name, 10 * name + 20), name)
        snapshots.write(name, state.delta(full=snapshots.full_next), {"now": name})
        whole[name] = state.delta(full=True)
    for name, delta in whole.items():
        _same(_restored(lake, name).delta(full=True), delta)
        assert Snapshots(lake, "p", 0).read(name).facts == {"now": name}


def test_a_state_without_keys_and_rows_is_a_snapshot_too(lake: Lake) -> None:
    Snapshots(lake, "p", 0).write(1, _state().delta(full=True), {})
    assert len(_restored(lake, 1)) == 0


def test_a_successor_goes_on_with_the_chain(lake: Lake) -> None:
    state, first = _state(), Snapshots(lake, "p", 0)
    _add(state, range(50), 1)
    first.write(1, state.delta(full=first.full_next), {})
    second, restored = Snapshots(lake, "p", 0), _state()
    restored.restore(second.read(1).deltas)
    _add(restored, range(3), 2)
    assert not second.full_next
    second.write(1 << 32 | 1, restored.delta(full=False), {})
    _same(_restored(lake, 1 << 32 | 1).delta(full=True), restored.delta(full=True))


def test_its_bytes_follow_the_keys_that_changed(lake: Lake) -> None:
    state, snapshots = _state(), Snapshots(lake, "p", 0)
    _add(state, range(20_000), 1)
    whole = snapshots.write(1, state.delta(full=True), {})
    _add(state, range(100), 2)
    some = snapshots.write(2, state.delta(full=False), {})
    _add(state, range(200), 2)
    twice = snapshots.write(3, state.delta(full=False), {})
    nothing = snapshots.write(4, state.delta(full=False), {})
    assert nothing < some < twice < whole / 50


def test_a_full_cut_is_due_when_there_is_none_or_changes_outweigh_it_or_the_chain_is_long(lake: Lake) -> None:
    state, snapshots = _state(), Snapshots(lake, "p", 0)
    assert snapshots.full_next
    _add(state, range(1000), 1)
    snapshots.write(1, state.delta(full=True), {})
    _add(state, range(900), 2)
    snapshots.write(2, state.delta(full=False), {})
    assert not snapshots.full_next
    _add(state, range(900), 3)
    snapshots.write(3, state.delta(full=False), {})
    assert snapshots.full_next
    snapshots.write(4, state.delta(full=True), {})
    for name in range(5, 4 + LONGEST):
        assert not snapshots.full_next
        snapshots.write(name, state.delta(full=False), {})
    assert snapshots.full_next


def test_only_what_neither_this_snapshot_nor_the_one_before_needs_is_dropped(lake: Lake, tmp_path: Path) -> None:
    state, snapshots, folder = _state(), Snapshots(lake, "p", 0), tmp_path / "_state" / "p" / "0"

    def there() -> list[int]:
        return sorted(int(p.name) for p in folder.iterdir())

    def write(name: int, full: bool) -> None:
        _add(state, range(name, name + 5), name)
        snapshots.write(name, state.delta(full=full), {})
        snapshots.drop_before(name)

    (folder / "9").mkdir(parents=True)  # of a successor
    for name, full in ((1, True), (2, False), (3, False)):
        write(name, full)
    assert there() == [1, 2, 3, 9]
    write(4, True)
    assert there() == [1, 2, 3, 4, 9]  # 3, the previous snapshot, needs its chain
    write(5, False)
    assert there() == [4, 5, 9]
    for name in (4, 5):
        _restored(lake, name)


def test_what_a_fallen_owner_left_behind_is_dropped_after_its_successors_first(lake: Lake, tmp_path: Path) -> None:
    state, fallen = _state(), Snapshots(lake, "p", 0)
    _add(state, range(5), 1)
    fallen.write(1 << 32 | 1, state.delta(full=True), {})
    fallen.write(1 << 32 | 2, state.delta(full=False), {})  # never named by a commit
    successor = Snapshots(lake, "p", 0)
    successor.read(1 << 32 | 1)
    successor.write(2 << 32 | 1, state.delta(full=False), {})
    successor.drop_before(2 << 32 | 1)
    names = sorted(int(p.name) for p in (tmp_path / "_state" / "p" / "0").iterdir())
    assert names == [1 << 32 | 1, 2 << 32 | 1]


PARTS = ["manifest.json", "keys.arrow", "cells.safetensors", "0-A-waiting.arrow", "0-A-waiting.safetensors"]


@pytest.mark.parametrize("left", ["none", "half"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("link", [1, 2])
def test_a_lost_part_is_one_line_that_says_what_to_do(
    lake: Lake, tmp_path: Path, part: str, link: int, left: str
) -> None:
    state, snapshots = _state(), Snapshots(lake, "p", 0)
    _add(state, range(50), 1)
    snapshots.write(1, state.delta(full=True), {})
    _add(state, range(50), 2)
    snapshots.write(2, state.delta(full=False), {})
    file = tmp_path / "_state" / "p" / "0" / str(link) / part
    if left == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(SnapshotLost, match=r"snapshot 2 in _state/p/0: expected .* got .*--on-gap skip") as lost:
        Snapshots(lake, "p", 0).read(2)
    assert "\n" not in str(lost.value)


def test_a_lake_that_does_not_answer_is_no_lost_snapshot(lake: Lake, tmp_path: Path) -> None:
    """Otherwise, `--on-gap skip` would discard the state because of a passing failure."""
    Snapshots(lake, "p", 0).write(1, _state().delta(full=True), {})
    file = tmp_path / "_state" / "p" / "0" / "1" / "manifest.json"
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match="manifest"):
        Snapshots(lake, "p", 0).read(1)


def test_what_can_not_be_deleted_and_what_is_no_snapshot_is_left_and_counted_once(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state, folder = _state(), tmp_path / "_state" / "p" / "0"
    (folder / ".nfs0000000012").mkdir(parents=True)
    for stray in (".DS_Store", "lost+found", "7 (copy)", "0"):
        (folder / stray).write_text("")
    asked = list[str]()
    reasons = {"1": PermissionError(13, "Permission denied"), "2": OSError(39, "Directory not empty")}

    def refuses(path: str) -> OSError | None:
        asked.append(path)
        return (reasons | {"3": FileNotFoundError(path)}).get(path.rpartition("/")[2])

    deny(monkeypatch, refuses)
    snapshots = Snapshots(lake, "p", 0)
    left = []
    for name in range(1, 8):
        _add(state, range(name, name + 5), name)
        snapshots.write(name, state.delta(full=True), {})
        left.append(snapshots.drop_before(name))
    assert left == [0, 0, 1, 1, 0, 0, 0]
    assert asked.count("_state/p/0/1") == 1 and not [
        path for path in asked if (not path[-1].isdigit() and path != "list") or path.endswith("/0")
    ]
    assert caplog.text.count("_state/p/0/1: this old snapshot could not be deleted, so it stays: [Errno 13]") == 1
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == [".nfs0000000012", "1", "2", "3", "6", "7"]
    _restored(lake, 7)


def test_a_folder_that_can_not_be_listed_is_left(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deny(monkeypatch, lambda path: PermissionError(13, "Permission denied"))
    assert Snapshots(lake, "p", 0).drop_before(9) == 1
    assert "old snapshots could not be listed, so they stay: [Errno 13] Permission denied" in caplog.text


def test_a_checkpoint_lands_although_nothing_can_be_deleted(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, lambda path: None if path == "list" else PermissionError(13, "Permission denied"))
    (tmp_path / "_state" / "pumps" / "0" / ".nfs01").mkdir(parents=True)
    sink, state = commit(tmp_path, "pumps", []), _state()
    checkpoints = CheckpointWriter(sink, Snapshots(lake, "pumps", 0), LakeRetry(lake))
    written = list[WrittenCheckpoint | None]()
    for name in range(2, 6):
        checkpoints.start(PendingCheckpoint(name, state.delta(full=True), [], [], {0: name}, {}))
        written.append(checkpoints.poll(wait=True))
    assert [w and w.name for w in written] == [2, 3, 4, 5]
    assert sum(w.undeleted for w in written if w) == 2
    checkpoints.close()


def test_after_snapshots_were_deleted_under_it_the_next_one_holds_the_whole_state(lake: Lake, tmp_path: Path) -> None:
    state, snapshots = _state(), Snapshots(lake, "p", 0)
    for name, full in ((1, True), (2, False)):
        _add(state, range(2000 if full else 5), name)
        snapshots.write(name, state.delta(full=full), {})
        snapshots.drop_before(name)
    shutil.rmtree(tmp_path / "_state")
    _add(state, range(5), 3)
    assert not snapshots.full_next
    snapshots.write(3, state.delta(full=False), {})
    snapshots.drop_before(3)
    _add(state, range(5), 4)
    snapshots.write(4, state.delta(full=snapshots.full_next), {})
    _same(_restored(lake, 4).delta(full=True), state.delta(full=True))
