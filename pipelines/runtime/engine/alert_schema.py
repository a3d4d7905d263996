"""The JSON Schemas of what an alert rule publishes: the headers and the data of its alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import types

from tocsin.pipelines.runtime.declare.drift import DRIFT, DRIFT_SEVERITY
from tocsin.pipelines.runtime.declare.fields import integer_range
from tocsin.pipelines.runtime.declare.pipeline import TRANSITIONS
from tocsin.pipelines.runtime.declare.trace import TRACEPARENT, TRACESTATE
from tocsin.pipelines.runtime.engine.alerts import ACTS, CONTENT_TYPE, EVIDENCE_LINEAGE, SOURCE, TEXT_LIMIT, TYPE

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Pipeline

JsonSchema = dict[str, Any]
DECIMAL = r"^-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?$"


def headers(pipeline: Pipeline) -> JsonSchema:
    """The schema of an alert's headers: CloudEvents 1.0 in Kafka's binary mode."""
    attributes: dict[str, JsonSchema] = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {
            "type": "string",
            "pattern": "^[0-9a-f]{32}$",
            "description": "The same for the same alert, however often it is computed.",
        },
        "ce_source": {"type": "string", "const": SOURCE + pipeline.name},
        "ce_type": {"type": "string", "enum": [TYPE + transition for transition in (*TRANSITIONS, *ACTS)]},
        "ce_subject": {"type": "string", "description": f"The asset: the value of {pipeline.key} as text."},
        "ce_time": {
            "type": "string",
            "format": "date-time",
            "description": "The event time of the row, or when the person acted.",
        },
        "content-type": {"type": "string", "const": CONTENT_TYPE},
    }
    of_people: dict[str, JsonSchema] = {
        "ce_about": {
            "type": "string",
            "pattern": "^[0-9a-f]{32}$",
            "description": f"The id of the alert that a person has {' or '.join(ACTS)}.",
        },
        "ce_by": {"type": "string", "description": "Who did so."},
        "ce_reason": {"type": "string", "description": "Why."},
    }
    return {"type": "object", "properties": attributes | of_people | _trace(), "required": [*attributes]}


def _trace() -> dict[str, JsonSchema]:
    """The headers of an alert whose record came with a trace context: as CloudEvents and as OpenTelemetry name them."""
    described: dict[str, JsonSchema] = {
        TRACEPARENT: {
            "type": "string",
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
            "description": "W3C trace context, in the trace of the record that caused the alert.",
        },
        TRACESTATE: {"type": "string", "description": "That of the record."},
    }
    return {f"{prefix}{name}": schema for prefix in ("ce_", "") for name, schema in described.items()}


def data(pipeline: Pipeline, rule: AlertRule) -> JsonSchema:
    """The schema of the data of a rule's alerts. Columns may be null. `silenced_until` is there after a mute only."""
    constants: dict[str, JsonSchema] = {
        "rule": {"type": "string", "const": rule.name},
        "severity": {"type": "string", "const": rule.severity},
    }
    count = {"type": "integer", "minimum": 0}
    unless_timer = {
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "Null: no record, but a timer caused the alert.",
    }
    lineage: dict[str, JsonSchema] = {
        "topic": {"type": "string", "const": pipeline.topic},
        "partition": count,
        "offset": unless_timer,
        "row": unless_timer,
        "model_version": {"type": "string"},
    }
    evidence = {name: _column(pipeline.table.field(name).type) for name in rule.data or pipeline.results.names}
    properties = constants | {name: lineage[name] for name in EVIDENCE_LINEAGE} | evidence
    return _data(properties, muted="asset")


def drift(pipeline: Pipeline) -> JsonSchema:
    """The schema of the data of the alert `drift`, which the supervisor raises for the pipeline as a whole."""
    text, number, count = ({"type": kind} for kind in ("string", "number", "integer"))
    no_record = {"type": "null", "description": "No record caused the alert."}
    properties: dict[str, JsonSchema] = {
        "rule": {"type": "string", "const": DRIFT},
        "severity": {"type": "string", "const": DRIFT_SEVERITY},
        "topic": {"type": "string", "const": pipeline.topic},
        **dict.fromkeys(("partition", "offset", "row"), no_record),
        "model_version": text,
        "index": number | {"description": "The greatest population stability index of a column against training."},
        "level": number | {"description": "The index from which the input has drifted."},
        "column": text | {"description": "The column with the greatest index."},
        "group": text | {"description": "Its operating regime, if there are several."},
        "drifted": {"type": "array", "items": text, "description": "The columns above the level."},
        "assets": count | {"description": "How many assets were compared."},
        "readings": count | {"description": "How many of their readings."},
    }
    return _data(properties, muted="alert")


def _data(properties: dict[str, JsonSchema], *, muted: str) -> JsonSchema:
    until: JsonSchema = {"type": "string", "format": "date-time", "description": f"When a mute of the {muted} ends."}
    return {"type": "object", "properties": properties | {"silenced_until": until}, "required": [*properties]}


def _column(kind: pa.DataType) -> JsonSchema:
    """The schema of a column's value in an alert: as it is written, or null."""
    written = _written(kind)
    return {**written, "type": [written["type"], "null"]}


def _written(kind: pa.DataType) -> JsonSchema:
    if types.is_list(kind) or types.is_large_list(kind):
        return {"type": "array", "items": _column(kind.value_type)}
    if types.is_struct(kind):
        parts = {part.name: _column(part.type) for part in kind}
        return {"type": "object", "properties": parts, "required": [*parts]}
    if types.is_map(kind):
        return {"type": "object", "additionalProperties": _column(kind.item_type)}
    if types.is_boolean(kind):
        return {"type": "boolean"}
    if types.is_integer(kind):
        values = integer_range(kind)
        return {"type": "integer", "minimum": values.start, "maximum": values.stop - 1}
    if types.is_floating(kind):
        return {"type": "number", "description": "Null stands for NaN and infinity, too."}
    return {"type": "string", **_text(kind)}


def _text(kind: pa.DataType) -> JsonSchema:
    """What is known of a value that is written as text."""
    if types.is_date(kind):
        return {"format": "date"}
    if types.is_timestamp(kind):
        return {"format": "date-time"} if kind.tz else {"description": "A date and a time without an offset."}
    if types.is_decimal(kind):
        return {"pattern": DECIMAL}
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return {"contentEncoding": "base64", "maxLength": TEXT_LIMIT}
    return {"maxLength": TEXT_LIMIT}
