"""Following the model registry: when an alias moves to another version, a deployment's shards go on with that."""

from __future__ import annotations

import logging
import posixpath
from dataclasses import replace

import orjson

from pipelines.runtime.errors import TocsinError
from pipelines.runtime.lake import Lake, read, write
from pipelines.runtime.plan import Plan, store_model

log = logging.getLogger(__name__)


class Follower:
    """What a deployment runs now: its plan as deployed, with the newest model that its alias has named since.

    The registry being down changes nothing. What was chosen is kept beside the models in the lake, so that a restarted
    supervisor does not go back to an older one.

    Args:
        deployment: tells this deployment from the ones of the same pipeline before it.
        plan: as deployed.
        tracking_uri, model: where to look, and for what, such as "rul@champion"; only an alias can move.
    """

    def __init__(self, lake: Lake, pipeline: str, deployment: str, plan: Plan, tracking_uri: str, model: str) -> None:
        self._lake, self._deployment, self._uri, self._model = lake, deployment, tracking_uri, model
        self._path = posixpath.join("_models", f"{pipeline}.json")
        self._silent = False
        self.plan = self._kept() or plan

    def look(self) -> bool:
        """Ask the registry; whether there is another model to go on with."""
        from pipelines.runtime.machine import Machine  # loads torch
        from pipelines.runtime.tracking import resolve_model

        try:
            name, version, folder = resolve_model(self._uri, self._model)
            plan = replace(self.plan, model=store_model(self._lake, folder, name=name, version=version))
            if plan == self.plan:
                return False
            Machine(self.plan.build(self._lake)).check(plan.build(self._lake))
        except TocsinError as reason:
            if not self._silent:
                log.warning("%s: going on with the model as it is: %s", self._model, reason)
            self._silent = True
            return False
        kept = orjson.dumps({"deployment": self._deployment, "plan": plan.dump()})
        write(self._lake.files, self._path, kept)
        self.plan, self._silent = plan, False
        return True

    def _kept(self) -> Plan | None:
        try:
            kept = orjson.loads(read(self._lake.files, self._path))
        except FileNotFoundError:
            return None
        return Plan.load(kept["plan"]) if kept["deployment"] == self._deployment else None
