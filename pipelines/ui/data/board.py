"""The alerts that a person works with: each raised alert once, with what has become of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tocsin.pipelines.runtime import Alert

LINEAGE = frozenset({"topic", "partition", "offset", "row", "model_version", "silenced_until"})
"""Evidence that says where a row came from, not what it says."""
TEXT = 160
"""Most characters of evidence in a line."""

Rule = tuple[str, str, str]
"""Pipeline, key and rule: at most one alert of these is raised at a time."""


@dataclass(frozen=True)
class AlertState:
    """A raised alert and what has become of it.

    Args:
        partition: the partition of its topic that holds it.
        cleared: when the rule cleared; None: the alert is still raised.
        acknowledged, silenced: the last event of that kind.
        number: rises with each change of any alert, so that a page asks only for changes.
    """

    alert: Alert
    partition: int
    cleared: datetime | None = None
    acknowledged: Alert | None = None
    silenced: Alert | None = None
    number: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the rule still holds."""
        return self.cleared is None

    @property
    def state(self) -> str:
        """`raised`, `acknowledged`, `silenced` or `cleared`."""
        if self.cleared:
            return "cleared"
        return "silenced" if self.is_muted else "acknowledged" if self.acknowledged else "raised"

    @property
    def is_muted(self) -> bool:
        """Whether a mute of its asset still lasts."""
        until = self.silenced.data.get("silenced_until") if self.silenced else None
        return bool(until) and datetime.fromisoformat(str(until)) > datetime.now(UTC)

    @property
    def last_act(self) -> Alert | None:
        """What a person did last."""
        acts = [act for act in (self.acknowledged, self.silenced) if act]
        return max(acts, key=lambda act: act.time, default=None)


def evidence(alert: Alert) -> str:
    """An alert's evidence in one short line."""
    shown = {
        n: v
        for n, v in alert.data.items()
        if n not in LINEAGE and str(v) != alert.key and not isinstance(v, list | dict)
    }
    facts = ", ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in shown.items() if v is not None)
    return facts if len(facts) <= TEXT else f"{facts[:TEXT]}..."


class AlertBoard:
    """Keeps the newest alerts, and all that are raised. Any thread may write and read.

    Args:
        keep: alerts to keep. One that is still raised outlives this.
    """

    def __init__(self, keep: int = 3000) -> None:
        self._keep, self._lock, self._number = keep, threading.Lock(), 0
        self._alerts: OrderedDict[str, AlertState] = OrderedDict()
        self._open: dict[Rule, str] = {}

    def add(self, alert: Alert, partition: int) -> None:
        """Take an event of an alert topic, in the order of its partition. The same event may come twice."""
        with self._lock:
            if alert.transition == "raised":
                self._raise(alert, partition)
            elif alert.transition == "cleared":
                self._clear(alert)
            elif state := self._alerts.get(alert.about):
                if alert.transition == "acknowledged":
                    self._store(replace(state, acknowledged=alert))
                elif alert.transition == "silenced":
                    self._store(replace(state, silenced=alert))

    @property
    def number(self) -> int:
        """The number of the last change."""
        return self._number

    def alerts(self, since: int = 0) -> list[AlertState]:
        """Alerts that changed after a number, oldest first; all by default."""
        with self._lock:
            if since >= self._number:
                return []
            return [state for state in self._alerts.values() if state.number > since]

    def get(self, id: str) -> AlertState | None:
        """The alert of this id."""
        with self._lock:
            return self._alerts.get(id)

    def raised(self) -> list[AlertState]:
        """Alerts that are raised now, the newest first."""
        with self._lock:
            found = [self._alerts[id] for id in self._open.values()]
        return sorted(found, key=lambda state: state.alert.time, reverse=True)

    def of(self, pipeline: str, key: str) -> list[AlertState]:
        """The alerts of one asset, the newest first."""
        return [s for s in reversed(self.alerts()) if (s.alert.pipeline, s.alert.key) == (pipeline, key)]

    def _raise(self, alert: Alert, partition: int) -> None:
        if alert.id in self._alerts:
            return
        rule = _rule(alert)
        if before := self._alerts.get(self._open.get(rule, "")):  # its clearing was not seen, as after a lost state
            self._store(replace(before, cleared=alert.time))
        self._open[rule] = alert.id
        self._store(AlertState(alert, partition))
        excess = len(self._alerts) - self._keep
        for id in _first(excess, (id for id, state in self._alerts.items() if not state.is_open)):
            del self._alerts[id]

    def _clear(self, alert: Alert) -> None:
        id = self._open.get(_rule(alert))
        if id and (state := self._alerts[id]).alert.time <= alert.time:
            del self._open[_rule(alert)]
            self._store(replace(state, cleared=alert.time))

    def _store(self, state: AlertState) -> None:
        self._number += 1
        self._alerts[state.alert.id] = replace(state, number=self._number)


def _rule(alert: Alert) -> Rule:
    return alert.pipeline, alert.key, alert.rule


def _first(count: int, ids: Iterable[str]) -> list[str]:
    return [id for _, id in zip(range(max(count, 0)), ids, strict=False)]
