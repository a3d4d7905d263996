"""A worker for tests of what looks after workers: it runs no shard. In a module that Ray's processes can import."""

from __future__ import annotations

import os
from typing import Any

from ray.exceptions import ActorUnavailableError

from pipelines.runtime.spec import ShardId
from pipelines.runtime.worker import Status, Worker

ERRORS = {"unavailable": ActorUnavailableError("the network is slow", None), "own": RuntimeError("boom")}


class Idle(Worker):
    """A worker that runs no shard and says what it is told to say: statuses, or names of `ERRORS` to raise; the last for ever."""

    def __init__(self, *told: Any) -> None:
        self._told, self._hosted = list(told), {}

    def pid(self) -> int:
        return os.getpid()

    def status(self) -> list[Status]:
        said = self._told.pop(0) if len(self._told) > 1 else self._told[0]
        if isinstance(said, str):
            raise ERRORS[said]
        return said

    def drain(self, timeout: float = 60) -> bool:
        return ShardId("job", 9) not in {status.id for status in self._told[0]}
