"""What people, and the registry, have ordered of a deployment since it was started; kept in the lake."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError, TocsinError
from tocsin.pipelines.runtime.engine.plan import Plan, store_model
from tocsin.pipelines.runtime.lake.storage import Lake, read

log = logging.getLogger(__name__)


FORGET_MS = 365 * 86_400_000


class DesiredState:
    """A deployment's plan as it stands, and whether it is paused.

    Guarantee: an order that was taken survives the supervisor, since it is in the lake before anyone acts on it. Those of an
    earlier deployment are gone, but for silences that still last and assets to be forgotten.

    Args:
        deployment: tells this deployment from the ones of the same pipeline before it.
        plan: as deployed.
    """

    def __init__(self, lake: Lake, deployment: str, plan: Plan) -> None:
        self._lake, self._deployment = lake, deployment
        self._lock = threading.Lock()
        self._refused = ""
        self.plan, self.paused = plan, False
        if (kept := last_stored(lake, plan.name)) is None:
            return
        if kept.deployment == deployment:
            self.plan, self.paused = kept.plan, kept.paused
        else:
            self.plan = _under(plan, kept.plan)

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
            self._change(_under(plan, self.plan))

    def silence(self, asset: str, until: int) -> None:
        """Have an asset not ring before a time, ms since the epoch; one that has passed ends its silence."""
        with self._lock:
            self._keep(replace(self.plan, silences=_lasting({**self.plan.silences, asset: until})), self.paused)

    def forget(self, asset: str) -> None:
        """Have what is remembered of an asset taken away."""
        with self._lock:
            self._keep(_forgetting(self.plan, asset), self.paused)

    def follow(self, tracking_uri: str, model: str) -> bool:
        """Ask the registry for a model, such as "pumps@champion"; whether there is another one to go on with.

        The registry being down, or a model that does not fit, changes nothing.
        """
        from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

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
        from tocsin.pipelines.runtime.engine.machine import Machine  # loads torch

        Machine(self.plan.build(self._lake)).check(plan.build(self._lake))
        self._keep(plan, self.paused)

    def _keep(self, plan: Plan, paused: bool) -> None:
        _write(self._lake, StoredState(self._deployment, plan, paused))
        self.plan, self.paused = plan, paused


def forget_stopped(lake: Lake, plan: Plan, asset: str) -> None:
    """Have a pipeline that does not run forget an asset when it starts; `plan`: as it would be deployed."""
    kept = last_stored(lake, plan.name) or StoredState("", plan, False)
    _write(lake, replace(kept, plan=_forgetting(kept.plan, asset)))


@dataclass(frozen=True)
class StoredState:
    """A pipeline's orders as they lie in the lake."""

    deployment: str
    plan: Plan
    paused: bool


def last_stored(lake: Lake, pipeline: str) -> StoredState | None:
    """The orders that a pipeline was given last, of whatever deployment; None: there are none.

    Raises:
        ConfigError: their file is damaged.
    """
    try:
        content = read(lake.files, _path(pipeline))
    except FileNotFoundError:
        return None
    try:
        kept = orjson.loads(content)
        return StoredState(str(kept["deployment"]), Plan.load(kept["plan"]), bool(kept["paused"]))
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise ConfigError(
            f"orders of {pipeline} in {lake.place(_path(pipeline))}: expected JSON as Tocsin writes it, got {len(content)} bytes: "
            f"{reason!r}; restore the file from a copy, or delete it and give the orders again (pause, silence, change)"
        ) from None


def _write(lake: Lake, kept: StoredState) -> None:
    content = {"deployment": kept.deployment, "plan": kept.plan.dump(), "paused": kept.paused}
    lake.replace(_path(kept.plan.name), orjson.dumps(content))


def _under(plan: Plan, before: Plan) -> Plan:
    """A plan with the orders about assets that were given before."""
    return replace(plan, silences=_lasting(before.silences), forgets=before.forgets)


def _forgetting(plan: Plan, asset: str) -> Plan:
    """A plan with the order to forget an asset; orders that every shard must have had long ago go."""
    now = round(time.time() * 1000)
    kept = {name: at for name, at in plan.forgets.items() if at > now - FORGET_MS}
    return replace(plan, forgets={**kept, asset: now})


def _path(pipeline: str) -> str:
    return names.orders_file(pipeline)


def _lasting(silences: Mapping[str, int]) -> dict[str, int]:
    now = time.time() * 1000
    return {asset: until for asset, until in silences.items() if until > now}
