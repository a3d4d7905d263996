"""The plan that a shard switches to. Its pipeline, with the model, is built beside the steps, so that no step waits for it."""

from __future__ import annotations

from concurrent import futures
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.plan import Plan
    from tocsin.pipelines.runtime.lake.storage import Lake


class NextPlan:
    """A plan and its pipeline, whose construction begins at once in a thread."""

    def __init__(self, plan: Plan, lake: Lake) -> None:
        self.plan = plan
        thread = futures.ThreadPoolExecutor(1, thread_name_prefix="next-plan")
        self._pipeline = thread.submit(copy_context().run, plan.build, lake)
        thread.shutdown(wait=False)

    @property
    def is_built(self) -> bool:
        """Whether `pipeline` returns, or raises, at once."""
        return self._pipeline.done()

    def wait(self) -> None:
        """Wait until it is built, or has failed."""
        futures.wait([self._pipeline])

    def pipeline(self) -> Pipeline:
        """The pipeline; waits for it.

        Raises:
            ConfigError, ModelError: see `Plan.build`.
        """
        return self._pipeline.result()
