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

from tocsin.pipelines.runtime.declare.trace import TRACE

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.rules import Transition

TYPE = "io.tocsin.alert."
"""Prefix of the CloudEvents type; the transition follows."""
SOURCE = "/tocsin/"
"""Prefix of the CloudEvents source; the pipeline's name follows."""
ACTS = ("acknowledged", "silenced")
"""The transitions that a person makes; those of rules are `TRANSITIONS`."""
ACT = ("about", "by", "reason")
"""CloudEvents extension attributes of what a person does about an alert, and fields of `Alert`."""
CONTENT_TYPE = "application/json"
EVIDENCE_LINEAGE = ("topic", "partition", "offset", "row", "model_version")
"""Columns of the lineage that every alert's data has."""
TEXT_LIMIT = 1000
"""Most characters of a text, or of binary in base64, in an alert's evidence. The table holds the whole value."""


@dataclass(frozen=True)
class Alert:
    """A rule was raised or cleared for a key, or a person acknowledged or silenced an alert.

    Args:
        id: stable across restarts: a hash of what caused the alert, not of when it was published. A recreated topic reuses
            offsets, so its topic id is part of the hash.
        transition: `raised` or `cleared` by the pipeline, `acknowledged` or `silenced` by a person.
        time: the event time of the row at which the rule was raised or cleared, or when the person did it.
        data: the evidence from the row. The row becomes visible in the table only at the next commit.
        about: the id of the alert that a person acknowledged or silenced; else "".
        by, reason: who did that, and why; else "".
        traceparent, tracestate: the W3C trace context that the record which caused the alert came with; "" if it had none. They say
            nothing about the alert itself, so they are not part of its identity.
    """

    id: str
    pipeline: str
    rule: str
    severity: str
    transition: str
    key: str
    time: datetime
    data: Mapping[str, Any]
    about: str = ""
    by: str = ""
    reason: str = ""
    traceparent: str = ""
    tracestate: str = ""

    def headers(self) -> list[tuple[str, bytes]]:
        """CloudEvents attributes as Kafka headers; the trace context also by the names that OpenTelemetry's clients read."""
        attributes = {
            "ce_specversion": "1.0",
            "ce_id": self.id,
            "ce_source": SOURCE + self.pipeline,
            "ce_type": TYPE + self.transition,
            "ce_subject": self.key,
            "ce_time": self.time.isoformat(),
            **{f"ce_{name}": text for name in (*ACT, *TRACE) if (text := getattr(self, name))},
            "content-type": CONTENT_TYPE,
            **{name: text for name in TRACE if (text := getattr(self, name))},
        }
        return [(name, value.encode()) for name, value in attributes.items()]

    def value(self) -> bytes:
        """The event's data."""
        return orjson.dumps({"rule": self.rule, "severity": self.severity, **self.data})

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes]], value: bytes) -> Alert:
        """Parse a published alert."""
        attributes = {name: content.decode() for name, content in headers}
        data = orjson.loads(value)
        return cls(
            id=attributes["ce_id"],
            pipeline=attributes["ce_source"].removeprefix(SOURCE),
            rule=data.pop("rule"),
            severity=data.pop("severity"),
            transition=attributes["ce_type"].removeprefix(TYPE),
            key=attributes["ce_subject"],
            time=datetime.fromisoformat(attributes["ce_time"]),
            data=data,
            **{name: attributes.get(f"ce_{name}", "") for name in (*ACT, *TRACE)},
        )


def generation(facts: Mapping[str, Any], topic_id: str) -> str:
    """The part of an alert's id that tells topics of the same name apart: "" for the first topic, or the topic's id.

    Args:
        facts: those of the last snapshot. Without a snapshot the earlier topic is unknown, so the id is used.
    """
    is_same_topic = bool(facts) and (facts.get("topic_id") or topic_id) == topic_id  # old brokers report no ids
    return str(facts.get("generation", "")) if is_same_topic else topic_id


def alerts_from(
    pipeline: Pipeline, frame: pl.DataFrame, transitions: Sequence[Transition], generation: str = ""
) -> list[Alert]:
    """The alerts for one step's rule transitions, in row order; `generation` is that of the input topic."""
    return [_alert(pipeline, t, frame.row(t.row, named=True), generation) for t in transitions]


def _alert(pipeline: Pipeline, transition: Transition, row: dict[str, Any], generation: str) -> Alert:
    rule = transition.rule
    if row["offset"] is None:  # a timer's row has no record: its key and event time identify it
        origin: list[Any] = [row["key"], row["event_time"].isoformat()]
    else:
        origin = [row["topic"], row["partition"], row["offset"], row["row"]]
    topic = [generation] if generation else []
    identity = orjson.dumps([pipeline.name, *topic, *origin, rule.name, transition.transition])
    lineage = {name: row[name] for name in EVIDENCE_LINEAGE}
    values = {n: row[n] for n in (rule.data or pipeline.results.names)}
    evidence = {name: _json_value(value) for name, value in values.items()}
    return Alert(
        id=hashlib.sha256(identity).hexdigest()[:32],
        pipeline=pipeline.name,
        rule=rule.name,
        severity=rule.severity,
        transition=transition.transition,
        key=row["key"],
        time=row["event_time"],
        data=lineage | evidence,
    )


def _json_value(value: Any) -> Any:
    """Convert a column's value to its form in JSON."""
    if isinstance(value, str):
        return value[:TEXT_LIMIT]
    if isinstance(value, bytes):
        return b64encode(value[: TEXT_LIMIT * 3 // 4]).decode()
    if isinstance(value, Decimal):
        return str(value)  # most parsers read a JSON number as a float
    if isinstance(value, list):
        return [_json_value(item) for item in value] if value and not isinstance(value[0], int | float) else value
    if isinstance(value, dict):
        return {_json_key(key): _json_value(item) for key, item in value.items()}
    return value


def _json_key(key: Any) -> str:
    """Convert a map's key to its form in JSON."""
    if isinstance(key, date):  # or datetime, its subclass
        return key.isoformat()
    if isinstance(key, bool):
        return str(key).lower()
    return str(_json_value(key))
