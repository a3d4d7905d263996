"""The desired state of a deployment: what people and the registry have requested since it started. It is kept in the lake."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError, TocsinError
from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan, store_model
from tocsin.pipelines.runtime.lake.storage import Lake, read

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline

log = logging.getLogger(__name__)


FORGET_MS = 365 * 86_400_000


class DesiredState:
    """A deployment's current plan, and whether it is paused.

    Guarantee: an accepted request survives the supervisor, because it is in the lake before anyone acts on it. A new deployment
    drops the requests of earlier ones, except mutes that have not ended and assets to be forgotten.

    Args:
        deployment: id that distinguishes this deployment from earlier ones of the same pipeline.
        plan: as deployed.
        context: whether the deployment has a context. What an earlier one knew is kept.

    Attributes:
        challenger: the model that runs in the pipeline's shadow; None: it has no shadow.
    """

    def __init__(self, lake: Lake, deployment: str, plan: Plan, *, context: bool = False) -> None:
        self._lake, self._deployment = lake, deployment
        self._lock = threading.Lock()
        self._last_errors: dict[str, str] = {}
        self.plan, self.paused = plan, False
        self.challenger: ModelRef | None = None
        if (stored := last_stored(lake, plan.name)) is None:
            return
        if stored.deployment == deployment:
            self.plan, self.paused, self.challenger = stored.plan, stored.paused, stored.challenger
        else:
            self.plan = _with_requests(plan, stored.plan if context else replace(stored.plan, context=""))

    @property
    def shadow(self) -> Plan | None:
        """The plan of the pipeline's shadow; None: it has none."""
        return self.plan.in_shadow(self.challenger) if self.challenger else None

    def pause(self, paused: bool) -> None:
        """Pause or resume all shards. A shard commits before it pauses."""
        with self._lock:
            self._store(self.plan, paused)

    def change(self, plan: Plan) -> None:
        """Continue with other options, rules or another model. Muted assets stay muted.

        Raises:
            TocsinError: the plan can't be built, or its state, readings or results have another shape.
        """
        with self._lock:
            self._change(_with_requests(plan, self.plan))

    def silence(self, asset: str, until: int) -> None:
        """Mute an asset until a time, ms since the epoch. A time in the past unmutes it."""
        with self._lock:
            self._store(replace(self.plan, silences=_unexpired({**self.plan.silences, asset: until})), self.paused)

    def forget(self, asset: str) -> None:
        """Request that an asset's state be deleted."""
        with self._lock:
            self._store(_with_forget(self.plan, asset), self.paused)

    def know(self, context: str) -> None:
        """Continue with another state of the pipeline's context, a file in the lake."""
        with self._lock:
            self._store(replace(self.plan, context=context), self.paused)

    def follow(self, tracking_uri: str, model: str) -> bool:
        """Switch to the registry's current version of a model, such as "pumps@champion". Returns whether the model changed.

        If the registry is down or the model does not fit, nothing changes.
        """
        from tocsin.pipelines.runtime.telemetry.mlflow import version_of

        name, _, alias = model.partition("@")
        try:
            version = version_of(tracking_uri, name, alias)
            with self._lock:
                current = self.plan.model
            if current and (current.name, current.version) == (name, version):
                self._warn(model, "")
                return False
            ref = self._fetched(
                tracking_uri, f"{name}/{version}" if version else model
            )  # without one, the error says so
            with self._lock:
                self._change(replace(self.plan, model=ref))
        except TocsinError as reason:
            self._warn(model, f"keeping the current model: {reason}")
            return False
        self._warn(model, "")
        return True

    def follow_challenger(self, tracking_uri: str, model: str, prepare: Callable[[Pipeline], None]) -> bool:
        """Run the registry's challenger in shadow; without one, end the shadow. Returns whether the shadow changed.

        If the registry is down or the challenger does not fit, nothing changes.

        Args:
            model: such as "pumps@champion"; the challenger is "pumps@challenger".
            prepare: called with a new shadow's pipeline, before anyone acts on it.
        """
        from tocsin.pipelines.runtime.telemetry.mlflow import CHALLENGER, version_of

        name, challenger = model.partition("@")[0], self.challenger
        try:
            version = version_of(tracking_uri, name, CHALLENGER)
            if (current := self.plan.model) and (current.name, current.version) == (name, version):
                version = ""  # it is promoted, and its alias not yet withdrawn
            if not version:
                challenger = None
            elif challenger is None or challenger.version != version:
                challenger = self._fetched(tracking_uri, f"{name}/{version}")
                prepare(self.plan.in_shadow(challenger).build(self._lake))
        except TocsinError as reason:
            self._warn(name, f"keeping its shadow as it is: {reason}")
            return False
        self._warn(name, "")
        if challenger == self.challenger:
            return False
        with self._lock:
            self.challenger = challenger
            self._store(self.plan, self.paused)
        return True

    def _fetched(self, tracking_uri: str, model: str) -> ModelRef:
        """Copy a model's files from the registry into the lake."""
        from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

        name, version, folder = resolve_model(tracking_uri, model)
        return store_model(self._lake, folder, name=name, version=version)

    def _warn(self, about: str, line: str) -> None:
        """Log a line, unless it is the last one about the same; "": all is well again."""
        if line and line != self._last_errors.get(about):
            log.warning("%s: %s", about, line)
        self._last_errors[about] = line

    def _change(self, plan: Plan) -> None:
        from tocsin.pipelines.runtime.engine.machine import Machine  # loads torch

        Machine(self.plan.build(self._lake)).check(plan.build(self._lake))
        self._store(plan, self.paused)

    def _store(self, plan: Plan, paused: bool) -> None:
        _write(self._lake, StoredState(self._deployment, plan, paused, self.challenger))
        self.plan, self.paused = plan, paused


def forget_stopped(lake: Lake, plan: Plan, asset: str) -> None:
    """Have a stopped pipeline forget an asset when it next starts; `plan`: as it would be deployed."""
    stored = last_stored(lake, plan.name) or StoredState("", plan, False)
    _write(lake, replace(stored, plan=_with_forget(stored.plan, asset)))


@dataclass(frozen=True)
class StoredState:
    """A pipeline's desired state as stored in the lake."""

    deployment: str
    plan: Plan
    paused: bool
    challenger: ModelRef | None = None


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
        stored = orjson.loads(content)
        challenger = ModelRef(**stored["challenger"]) if stored.get("challenger") else None  # older files lack it
        return StoredState(str(stored["deployment"]), Plan.load(stored["plan"]), bool(stored["paused"]), challenger)
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise ConfigError(
            f"orders of {pipeline} in {lake.place(_path(pipeline))}: expected JSON as Tocsin writes it, got {len(content)} bytes: "
            f"{reason!r}; restore the file from a copy, or delete it and give the orders again (pause, silence, change)"
        ) from None


def _write(lake: Lake, state: StoredState) -> None:
    content: dict[str, Any] = {"deployment": state.deployment, "plan": state.plan.dump(), "paused": state.paused}
    content["challenger"] = state.challenger and asdict(state.challenger)
    lake.replace(_path(state.plan.name), orjson.dumps(content))


def _with_requests(plan: Plan, previous: Plan) -> Plan:
    """The plan with an earlier plan's mutes, assets to forget and context."""
    silences = _unexpired(previous.silences)
    return replace(plan, silences=silences, forgets=previous.forgets, context=previous.context)


def _with_forget(plan: Plan, asset: str) -> Plan:
    """The plan with one more asset to forget. Requests older than `FORGET_MS` are dropped: every shard has long applied them."""
    now = round(time.time() * 1000)
    recent = {name: at for name, at in plan.forgets.items() if at > now - FORGET_MS}
    return replace(plan, forgets={**recent, asset: now})


def _path(pipeline: str) -> str:
    return names.orders_file(pipeline)


def _unexpired(silences: Mapping[str, int]) -> dict[str, int]:
    now = time.time() * 1000
    return {asset: until for asset, until in silences.items() if until > now}
