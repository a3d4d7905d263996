"""`tocsin status` as people read it: the warnings of a shard that keeps running."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from rich.console import Console

from tocsin.pipelines.cli import cluster
from tocsin.pipelines.cli.status import _once, _shard, table
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.settings import Settings


def _shown(facts: dict[str, Any], unread: list[int]) -> tuple[dict[str, Any], str]:
    """One running shard as JSON and as text."""
    known = {"topic": "sensors", "read": {0: 90, 2: 5}, "committed": {0: 80, 2: 5}, "model": "rul/3", "epoch": 4}
    shard = {
        "pipeline": "rul",
        "shard": 0,
        "state": "running",
        "error": "",
        "facts": known | facts,
        "window": None,
        "worker": "rul/worker-0",
        "pid": 7,
        "restarts": 0,
        "unread": unread,
    }
    seen = _shard(shard, {("sensors", 0): 100, ("sensors", 2): 5, ("sensors", 4): 40})
    console = Console(width=200)
    with console.capture() as said:
        console.print(
            table([{"pipeline": "rul", "paused": False, "silences": {}, "shards": [seen], "landing": [], "sinks": []}])
        )
    return seen, said.get()


class Supervisor:
    """A supervisor whose answer is a Ray error."""

    def __init__(self, answer: RayError) -> None:
        self.status = self
        self.answer = answer

    def remote(self) -> RayError:
        return self.answer


def _get(answer: RayError, timeout: float) -> None:
    raise answer


def test_a_pipeline_whose_supervisor_does_not_answer_yet_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", _get)
    monkeypatch.setattr(cluster, "supervisor", lambda name: Supervisor(GetTimeoutError("no answer")))
    seen = _once(Settings(), "rul")
    assert (seen["ready"], seen["shards"]) == (False, [])
    why = "its supervisor has not answered for 5 s: it is starting, or its machine is busy"
    assert seen["problems"] == [{"shard": 0, "state": "starting", "why": why}]
    console = Console(width=200)
    with console.capture() as said:
        console.print(table([seen]))
    _, row, reason = said.get().splitlines()
    assert (row.split(), reason.strip()) == (["rul", "starting"], f"rul: {why}")


def test_a_supervisor_that_has_died_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", _get)
    monkeypatch.setattr(cluster, "supervisor", lambda name: Supervisor(ActorDiedError()))
    with pytest.raises(Unavailable, match="expected its status, got ActorDiedError"):
        _once(Settings(), "rul")


def test_a_shard_that_is_well_has_one_line() -> None:
    seen, text = _shown({}, [])
    assert (seen["lag"], seen["committed_lag"], seen["unread_partitions"], seen["damaged"]) == (10, 20, [], {})
    assert len(text.strip().splitlines()) == 2


def test_records_of_an_added_partition_are_behind_before_it_is_read() -> None:
    seen, text = _shown({}, [4])
    assert (seen["lag"], seen["committed_lag"], seen["unread_partitions"]) == (50, 60, [4])
    assert "rul/0: partitions 4 were added to its topic; the shard will read them" in text


def test_a_damaged_partition_and_a_re_run_that_differed_are_said() -> None:
    line = (
        "sensors[2]@5: expected records as they were written, got a record that failed crc check; restore the partition"
    )
    seen, text = _shown({"damaged": {2: line}, "digest_mismatches": 1}, [])
    assert (seen["damaged"], seen["digest_mismatches"]) == ({2: line}, 1)
    assert f"rul/0: {line}" in text
    assert "rul/0: a replay gave other alerts than were published" in text
