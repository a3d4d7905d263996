"""The plan that a shard switches to. Its pipeline, with the model, is built beside the steps, so that no step waits for it."""

from __future__ import annotations

import threading
from concurrent import futures
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.plan import Plan
    from tocsin.pipelines.runtime.lake.storage import Lake


class PlanSwitch:
    """The plan that was requested last, until the shard takes it up. Plans are requested from other threads."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._lock = lake, threading.Lock()
        self._next: tuple[Plan, futures.Future[Pipeline]] | None = None

    def to(self, plan: Plan) -> None:
        """Request a plan. The construction of its pipeline begins at once, in a thread."""
        thread = futures.ThreadPoolExecutor(1, thread_name_prefix="next-plan")
        pipeline = thread.submit(copy_context().run, plan.build, self._lake)
        thread.shutdown(wait=False)
        with self._lock:
            self._next = plan, pipeline

    @property
    def is_requested(self) -> bool:
        """Whether a plan waits to be taken up."""
        return self._next is not None

    @property
    def is_ready(self) -> bool:
        """Whether `take` returns one, or raises."""
        following = self._next
        return following is not None and following[1].done()

    def wait(self) -> None:
        """Wait until a requested plan is ready."""
        if following := self._next:
            futures.wait([following[1]])

    def take(self) -> tuple[Plan, Pipeline] | None:
        """The plan that is ready, with its pipeline; None: there is none.

        Raises:
            ConfigError, ModelError: see `Plan.build`.
        """
        with self._lock:
            if not self.is_ready or self._next is None:
                return None
            (plan, pipeline), self._next = self._next, None
        return plan, pipeline.result()
