"""Alerts, as CloudEvents 1.0 in Kafka's binary mode."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.rules import Transition

TYPE = "io.tocsin.alert."
"""What a type begins with, before the transition."""
SOURCE = "/tocsin/"
"""What a source begins with, before the pipeline."""
TEXT_LIMIT = 1000
"""Characters of a text, or of binary in base64, that an alert carries as evidence; the table has all of it."""


@dataclass(frozen=True)
class Alert:
    """A rule was raised or cleared for a key.

    Args:
        id: the same after any number of restarts: a hash of what rang, not of when it was sent. A topic that was made again counts
            its offsets anew, so from then on its own id is in the hash, too.
        time: the event time of the row that rang.
        data: the row's evidence; its table row becomes visible only at the next commit.
    """

    id: str
    pipeline: str
    rule: str
    severity: str
    transition: str
    key: str
    time: datetime
    data: Mapping[str, Any]

    def headers(self) -> list[tuple[str, bytes]]:
        """CloudEvents attributes as Kafka headers."""
        attributes = {
            "ce_specversion": "1.0",
            "ce_id": self.id,
            "ce_source": SOURCE + self.pipeline,
            "ce_type": TYPE + self.transition,
            "ce_subject": self.key,
            "ce_time": self.time.isoformat(),
            "content-type": "application/json",
        }
        return [(name, value.encode()) for name, value in attributes.items()]

    def value(self) -> bytes:
        """The event's data."""
        return orjson.dumps({"rule": self.rule, "severity": self.severity, **self.data})

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes]], value: bytes) -> Alert:
        """An alert as it was published."""
        ce = {name: content.decode() for name, content in headers}
        data = orjson.loads(value)
        return cls(
            id=ce["ce_id"],
            pipeline=ce["ce_source"].removeprefix(SOURCE),
            rule=data.pop("rule"),
            severity=data.pop("severity"),
            transition=ce["ce_type"].removeprefix(TYPE),
            key=ce["ce_subject"],
            time=datetime.fromisoformat(ce["ce_time"]),
            data=data,
        )


def generation(facts: Mapping[str, Any], topic_id: str) -> str:
    """What tells a topic's alerts from those of one of its name before it: "" for the first, or its id.

    Args:
        facts: of the last snapshot; without any it is unknown what topic that was of.
    """
    same = bool(facts) and (facts.get("topic_id") or topic_id) == topic_id  # a broker of old has no ids
    return str(facts.get("generation", "")) if same else topic_id


def alerts_from(
    pipeline: Pipeline, frame: pl.DataFrame, edges: Sequence[Transition], generation: str = ""
) -> list[Alert]:
    """The alerts of one step's rule edges, in the rows' order; `generation`: of the input topic."""
    if not edges:
        return []
    rows = frame[[e.row for e in edges]].drop("event_date").to_dicts()
    return [_alert(pipeline, edge, row, generation) for edge, row in zip(edges, rows, strict=True)]


def _alert(pipeline: Pipeline, edge: Transition, row: dict[str, Any], generation: str) -> Alert:
    rule = edge.rule
    if row["offset"] is None:  # a timer's: no record rang, so the key and its time name it
        origin: list[Any] = [row["key"], row["event_time"].isoformat()]
    else:
        origin = [row["topic"], row["partition"], row["offset"], row["row"]]
    topic = [generation] if generation else []
    name = orjson.dumps([pipeline.name, *topic, *origin, rule.name, edge.transition])
    lineage = {n: row[n] for n in ("topic", "partition", "offset", "row", "model_version")}
    shown = {n: row[n] for n in (rule.data or pipeline.results.names)}
    evidence = {name: _evidence(value) for name, value in shown.items()}
    return Alert(
        id=hashlib.sha256(name).hexdigest()[:32],
        pipeline=pipeline.name,
        rule=rule.name,
        severity=rule.severity,
        transition=edge.transition,
        key=row["key"],
        time=row["event_time"],
        data=lineage | evidence,
    )


def _evidence(value: Any) -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, str):
        return value[:TEXT_LIMIT]
    if isinstance(value, bytes):
        return b64encode(value[: TEXT_LIMIT * 3 // 4]).decode()
    if isinstance(value, Decimal):
        return str(value)  # a JSON number is a float to most who read it
    if isinstance(value, list):
        return [_evidence(item) for item in value] if value and not isinstance(value[0], int | float) else value
    if isinstance(value, dict):
        return {_name(key): _evidence(item) for key, item in value.items()}
    return value


def _name(key: Any) -> str:
    """A map's key as JSON has it."""
    if isinstance(key, date):  # and datetime
        return key.isoformat()
    if isinstance(key, bool):
        return str(key).lower()
    return str(_evidence(key))
