"""Fake workers and supervisors for tests of the control plane, in a module that Ray's processes can import."""

from __future__ import annotations

import os
import time
from typing import Any

from ray.exceptions import ActorUnavailableError

from tocsin.pipelines.runtime.control.worker import Status, Worker
from tocsin.pipelines.runtime.engine.shard_config import ShardId

ERRORS = {"unavailable": ActorUnavailableError("the network is slow", None), "own": RuntimeError("boom")}


class Idle(Worker):
    """A worker that runs no shard. Its `status` returns the given statuses in turn, or raises those of `ERRORS`; the last repeats.

    Shard 9 does not commit in time. Shard 8 takes 3 s to drain, and its worker answers meanwhile.
    """

    def __init__(self, *statuses: Any) -> None:
        self._statuses, self._hosted = list(statuses), {}

    def pid(self) -> int:
        return os.getpid()

    def status(self) -> list[Status]:
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, str):
            raise ERRORS[status]
        return status

    def speak(self, why: str) -> None:
        self._report_death(why)

    def drain(self, timeout: float = 60) -> bool:
        if ShardId("job", 8) in (hosted := {status.id for status in self._statuses[0]}):
            time.sleep(3)
        return ShardId("job", 9) not in hosted


class Boss:
    """A supervisor whose `stop` gives the answers it was made with: names of `ERRORS` to raise, or whether it drained all."""

    def __init__(self, *answers: Any) -> None:
        self._answers, self._reports = list(answers), list[tuple[str, str]]()

    def ends(self, worker: str, why: str) -> None:
        self._reports.append((worker, why))

    def words(self) -> list[tuple[str, str]]:
        return self._reports

    def stop(self, timeout: float) -> bool:
        answer = self._answers.pop(0)
        if isinstance(answer, str):
            raise ERRORS[answer]
        return answer
