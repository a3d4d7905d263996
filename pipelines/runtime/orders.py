"""What people, and the registry, have ordered of a deployment since it was started; kept in the lake."""

from __future__ import annotations

import logging
import posixpath
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import orjson

from pipelines.runtime.errors import TocsinError
from pipelines.runtime.lake import Lake, read, write
from pipelines.runtime.plan import Plan, store_model

log = logging.getLogger(__name__)


class Orders:
    """A deployment's plan as it stands, and whether it is paused.

    Guarantee: an order that was taken survives the supervisor, since it is in the lake before anyone acts on it. Those of an
    earlier deployment are gone, but for silences that still last.

    Args:
        deployment: tells this deployment from the ones of the same pipeline before it.
        plan: as deployed.
    """

    def __init__(self, lake: Lake, deployment: str, plan: Plan) -> None:
        self._lake, self._deployment = lake, deployment
        self._path = posixpath.join("_orders", f"{plan.name}.json")
        self._lock = threading.Lock()
        self._refused = ""
        self.plan, self.paused = plan, False
        try:
            kept = orjson.loads(read(lake.files, self._path))
        except FileNotFoundError:
            return
        before = Plan.load(kept["plan"])
        if kept["deployment"] == deployment:
            self.plan, self.paused = before, kept["paused"]
        else:
            self.plan = replace(plan, silences=_lasting(before.silences))

    def pause(self, paused: bool) -> None:
        """Have all shards commit and let go, or go on."""
        with self._lock:
            self._keep(self.plan, paused)

    def change(self, plan: Plan) -> None:
        """Go on with other options, rules or another model; silences stay.

        Raises:
            TocsinError: it can't be built, or its state, readings or results have another shape.
        """
        with self._lock:
            self._change(replace(plan, silences=_lasting(self.plan.silences)))

    def silence(self, asset: str, until: int) -> None:
        """Have an asset not ring before a time, ms since the epoch; one that has passed ends its silence."""
        with self._lock:
            self._keep(replace(self.plan, silences=_lasting({**self.plan.silences, asset: until})), self.paused)

    def follow(self, tracking_uri: str, model: str) -> bool:
        """Ask the registry for a model, such as "rul@champion"; whether there is another one to go on with.

        The registry being down, or a model that does not fit, changes nothing.
        """
        from pipelines.runtime.tracking import resolve_model

        try:
            name, version, folder = resolve_model(tracking_uri, model)
            found = store_model(self._lake, folder, name=name, version=version)
            with self._lock:
                if found == self.plan.model:
                    return False
                self._change(replace(self.plan, model=found))
        except TocsinError as reason:
            if str(reason) != self._refused:
                log.warning("%s: going on with the model as it is: %s", model, reason)
            self._refused = str(reason)
            return False
        self._refused = ""
        return True

    def _change(self, plan: Plan) -> None:
        from pipelines.runtime.machine import Machine  # loads torch

        Machine(self.plan.build(self._lake)).check(plan.build(self._lake))
        self._keep(plan, self.paused)

    def _keep(self, plan: Plan, paused: bool) -> None:
        kept = {"deployment": self._deployment, "plan": plan.dump(), "paused": paused}
        write(self._lake.files, self._path, orjson.dumps(kept))
        self.plan, self.paused = plan, paused


def _lasting(silences: Mapping[str, int]) -> dict[str, int]:
    now = time.time() * 1000
    return {asset: until for asset, until in silences.items() if until > now}
