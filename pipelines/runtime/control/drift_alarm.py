"""The alert `drift`: raised when a pipeline's readings have drifted from its model's training data, cleared when they are back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.drift import DRIFT, DRIFT_SEVERITY
from tocsin.pipelines.runtime.declare.pipeline import CLEARED, RAISED
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.lake.storage import Lake, read

CLEAR = 0.8
"""Share of the level below which the alert is cleared."""


@dataclass(frozen=True)
class Drift:
    """How far readings have drifted.

    Args:
        at: when the last of them were read.
        index: the greatest population stability index of a column and group.
        level: from which they count as drifted.
        column, group: of the greatest index.
        drifted: columns above the level.
        assets, readings: how many were compared.
    """

    at: datetime
    index: float
    level: float
    column: str
    group: str
    drifted: tuple[str, ...]
    assets: int
    readings: int
    model_version: str


class DriftAlarm:
    """Raises and clears the alert of one pipeline.

    Guarantee: each transition is published at least once, with the same id each time, whatever ends this process. It is stored in
    the lake first, and published again after a restart until Kafka has it.

    Args:
        topic: the pipeline's input topic, for the evidence.
        publish: writes an event to the alert topic.
    """

    def __init__(self, lake: Lake, pipeline: str, topic: str, publish: Callable[[Alert], None]) -> None:
        self._lake, self._pipeline, self._topic, self._publish = lake, pipeline, topic, publish
        try:
            stored = orjson.loads(read(lake.files, names.drift_file(pipeline)))
        except FileNotFoundError:
            stored = {"firing": False, "pending": None}
        self.firing: bool = stored["firing"]
        self._pending: dict[str, Any] | None = stored["pending"]

    def note(self, drift: Drift | None, *, muted: bool = False) -> None:
        """Raise or clear the alert if the drift asks for it; publish what is not published yet.

        Args:
            drift: None: nothing new is known.
            muted: raise nothing now.

        Raises:
            Unavailable, Refused: Kafka does not store the event; a later call tries again.
        """
        if drift and drift.index > drift.level and not self.firing and not muted:
            self._turn(RAISED, drift)
        elif drift and drift.index < CLEAR * drift.level and self.firing:
            self._turn(CLEARED, drift)
        if self._pending:
            self._publish(_alert(self._pipeline, self._topic, self._pending))
            self._store(None)

    def _turn(self, transition: str, drift: Drift) -> None:
        self.firing = transition == RAISED
        self._store({"transition": transition, **asdict(drift)})

    def _store(self, pending: dict[str, Any] | None) -> None:
        self._pending = pending
        content = orjson.dumps({"firing": self.firing, "pending": pending})
        self._lake.replace(names.drift_file(self._pipeline), content)


def _alert(pipeline: str, topic: str, pending: Mapping[str, Any]) -> Alert:
    evidence = {name: value for name, value in pending.items() if name not in ("transition", "at")}
    at = pending["at"] if isinstance(pending["at"], datetime) else datetime.fromisoformat(pending["at"])
    identity = orjson.dumps([pipeline, DRIFT, pending["transition"], at.isoformat()])
    return Alert(
        id=hashlib.sha256(identity).hexdigest()[:32],
        pipeline=pipeline,
        rule=DRIFT,
        severity=DRIFT_SEVERITY,
        transition=pending["transition"],
        key=pipeline,
        time=at,
        data={"topic": topic, "partition": None, "offset": None, "row": None, **evidence},
    )
