"""Progress of a recovery: a long one reports progress, one that hangs does not."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest

from tocsin.pipelines.runtime.control.worker import HostedShard
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.lake import storage as lake_
from tocsin.pipelines.runtime.lake.storage import Lake, read, write
from tocsin.pipelines.runtime.telemetry import progress
from tocsin.pipelines.runtime.telemetry.progress import Progress


class Counted(Progress):
    """Counts how often progress was made."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def made(self) -> None:
        super().made()
        self.times += 1


def test_a_large_file_is_progress_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_, "CHUNK", 4)
    files = Lake(str(tmp_path)).files

    def moved(content: bytes) -> tuple[int, bytes]:
        progress.follow(counted := Counted())
        write(files, "a/snapshot", content)
        found = read(files, "a/snapshot")
        return counted.times, found

    with ThreadPoolExecutor(1) as other:  # with its own context
        for content in (b"", b"1234", b"123456789"):
            expected = 2 * -(-len(content) // 4)
            assert other.submit(copy_context().run, moved, content).result() == (expected, content)


def test_quiet_is_the_time_since_the_last_progress_of_its_own_thread() -> None:
    mine = Progress()
    time.sleep(0.05)
    progress.made()  # this thread follows none
    assert mine.quiet_s >= 0.05
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: (progress.follow(mine), progress.made())).result()
    assert mine.quiet_s < 0.05


def test_a_takeover_that_hangs_says_for_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    def reader(*_: object) -> None:
        hangs.set()
        threading.Event().wait()

    monkeypatch.setattr("tocsin.pipelines.runtime.control.worker.record_source", reader)
    plan = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
    hosted = HostedShard(ShardConfig(plan, Lake(str(tmp_path)), {}, 0, [0]), lambda _: None)
    assert hangs.wait(60)
    time.sleep(0.3)
    assert (hosted.state, hosted.quiet_s >= 0.3) == ("starting", True)
