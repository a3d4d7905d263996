"""The desired state of a deployment: what people and the registry have requested since it started. It is kept in the lake."""

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
    """A deployment's current plan, and whether it is paused.

    Guarantee: an accepted request survives the supervisor, because it is in the lake before anyone acts on it. A new deployment
    drops the requests of earlier ones, except mutes that have not ended and assets to be forgotten.

    Args:
        deployment: id that distinguishes this deployment from earlier ones of the same pipeline.
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
        """Pause or resume all shards. A shard commits before it pauses."""
        with self._lock:
            self._keep(self.plan, paused)

    def change(self, plan: Plan) -> None:
        """Continue with other options, rules or another model. Muted assets stay muted.

        Raises:
            TocsinError: the plan can't be built, or its state, readings or results have another shape.
        """
        with self._lock:
            self._change(_under(plan, self.plan))

    def silence(self, asset: str, until: int) -> None:
        """Mute an asset until a time, ms since the epoch. A time in the past unmutes it."""
        with self._lock:
            self._keep(replace(self.plan, silences=_lasting({**self.plan.silences, asset: until})), self.paused)

    def forget(self, asset: str) -> None:
        """Request that an asset's state be deleted."""
        with self._lock:
            self._keep(_forgetting(self.plan, asset), self.paused)

    def follow(self, tracking_uri: str, model: str) -> bool:
        """Switch to the registry's current version of a model, such as "pumps@champion". Returns whether the model changed.

        If the registry is down or the model does not fit, nothing changes.
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
                log.warning("%s: keeping the current model: %s", model, reason)
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
    """Have a stopped pipeline forget an asset when it next starts; `plan`: as it would be deployed."""
    kept = last_stored(lake, plan.name) or StoredState("", plan, False)
    _write(lake, replace(kept, plan=_forgetting(kept.plan, asset)))


@dataclass(frozen=True)
class StoredState:
    """A pipeline's desired state as stored in the lake."""

    deployment: str
    plan: Plan
    paused: bool


def last_stored(lake: Lake, pipeline: str) -> StoredState | None:
    """The desired state that any of a pipeline's deployments stored last; None: there is none.

    Raises:
        ConfigError: the file is damaged.
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
    """The plan with an earlier plan's mutes and assets to forget."""
    return replace(plan, silences=_lasting(before.silences), forgets=before.forgets)


def _forgetting(plan: Plan, asset: str) -> Plan:
    """The plan with one more asset to forget. Requests older than `FORGET_MS` are dropped: every shard has long applied them."""
    now = round(time.time() * 1000)
    kept = {name: at for name, at in plan.forgets.items() if at > now - FORGET_MS}
    return replace(plan, forgets={**kept, asset: now})


def _path(pipeline: str) -> str:
    return names.orders_file(pipeline)


def _lasting(silences: Mapping[str, int]) -> dict[str, int]:
    now = time.time() * 1000
    return {asset: until for asset, until in silences.items() if until > now}
