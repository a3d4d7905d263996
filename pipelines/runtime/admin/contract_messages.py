"""The messages of a pipeline's topics, as AsyncAPI 3.0 describes messages: readings, alerts and dead letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
import pyarrow as pa

from tocsin.pipelines.runtime.declare.dead_letter import KEPT, MESSAGE_LIMIT, NULL_HEADERS, REASON, ROW, TIMESTAMP
from tocsin.pipelines.runtime.declare.drift import DRIFT
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine import alert_schema
from tocsin.pipelines.runtime.engine.alerts import CONTENT_TYPE
from tocsin.pipelines.runtime.formats import json_schema
from tocsin.pipelines.runtime.formats.arrow import Arrow
from tocsin.pipelines.runtime.formats.arrow_columns import accepted
from tocsin.pipelines.runtime.formats.codec import MAX_BYTES, MAX_ROWS, FormatOptions
from tocsin.pipelines.runtime.formats.codec import accepted as accepted_formats
from tocsin.pipelines.runtime.formats.headers import source
from tocsin.pipelines.runtime.formats.jpeg import JPEG, PIXELS, SHA256, URI
from tocsin.pipelines.runtime.formats.json import Json
from tocsin.pipelines.runtime.formats.json_schema import JsonSchema
from tocsin.pipelines.runtime.formats.message import MessageFormat
from tocsin.pipelines.runtime.formats.registry_format import RegistryFormat

Message = dict[str, Any]
BINDING_VERSION = "0.5.0"
"""The version of AsyncAPI's Kafka bindings."""
DEAD_LETTER = "dead-letter"
"""The name of the message that all dead-letter topics have."""
CONTENT_HEADER = "content-type"


def pixels(pipeline: Pipeline) -> pa.Field | None:
    """The field of a frame's pixels; None: the topic has no frames."""
    return next((f for f in pipeline.schema if source(f) == PIXELS), None)


def notes(pipeline: Pipeline) -> dict[str, str]:
    """Descriptions of the fields that have a role."""
    event_time = {pipeline.event_time: "The event time."} if pipeline.event_time else {}
    return event_time | {pipeline.key: "The asset. State is kept for each asset, and alerts name it."}


def reading_schemas(pipeline: Pipeline) -> dict[str, JsonSchema]:
    """The schemas that the messages of the input topic refer to, by name."""
    if pixels(pipeline):
        return {}
    return {_reading(pipeline): json_schema.payload(pipeline.schema, unknown=pipeline.unknown, notes=notes(pipeline))}


def readings(pipeline: Pipeline, options: FormatOptions) -> dict[str, Message]:
    """The messages that the input topic may have, by name: one a format.

    Args:
        options: of formats, by their section; a format whose section is not there is left out.
    """
    if frame := pixels(pipeline):
        return {f"reading.{pipeline.name}.{name}": message for name, message in _frames(pipeline, frame).items()}
    formats = {kind.media_type: kind for kind in accepted_formats(pipeline.formats, options)}
    return {f"reading.{pipeline.name}.{_slug(kind)}": _message(pipeline, kind) for kind in formats.values()}


def alert_schemas(pipeline: Pipeline) -> dict[str, JsonSchema]:
    """The schemas that the messages of the alert topic refer to, by name: the data of each rule."""
    found = {
        f"alert.{pipeline.name}.{id}": alert_schema.data(pipeline, rule)
        for id, rule in zip(_rule_ids(pipeline), pipeline.rules, strict=True)
    }
    return found | ({f"alert.{pipeline.name}.{DRIFT}": alert_schema.drift(pipeline)} if pipeline.drift else {})


def alerts(pipeline: Pipeline) -> dict[str, Message]:
    """The messages of the alert topic, by name: one a rule, and one of drift."""
    titles = {
        id: f"The rule {rule.name} of {pipeline.name} is raised or cleared for an asset, or a person acts on its alert"
        for id, rule in zip(_rule_ids(pipeline), pipeline.rules, strict=True)
    }
    if pipeline.drift:
        titles[DRIFT] = f"The input of {pipeline.name} has drifted, or no longer does, or a person acts on that alert"
    found = dict[str, Message]()
    for id, title in titles.items():
        name = f"alert.{pipeline.name}.{id}"
        found[name] = {
            "name": name,
            "title": title,
            "contentType": CONTENT_TYPE,
            "headers": alert_schema.headers(pipeline),
            "payload": reference("schemas", name),
            "correlationId": {"location": "$message.header#/ce_subject"},
            "bindings": _keyed(f"The asset: the value of {pipeline.key} as text."),
        }
    return found


def dead_letter() -> Message:
    """The message of every dead-letter topic: the original record, with the reason in further headers."""
    count: JsonSchema = {"type": "integer", "minimum": 0}
    text: JsonSchema = {"type": "string"}
    always: dict[str, JsonSchema] = {
        f"{REASON}topic": text | {"description": "Where the record was read."},
        f"{REASON}partition": count,
        f"{REASON}offset": count,
        f"{REASON}stage": text | {"description": "Where it failed, such as decode."},
        f"{REASON}exception.class.name": text | {"description": "The kind of the reason, such as BadValue."},
        f"{REASON}exception.message": text | {"maxLength": MESSAGE_LIMIT},
        TIMESTAMP: {
            "type": "integer",
            "description": "Kafka's timestamp of the record, ms since 1970 UTC; -1: unknown.",
        },
    }
    sometimes: dict[str, JsonSchema] = {
        ROW: count | {"description": "The row of the message that failed; without it, the whole message."},
        NULL_HEADERS: text | {"description": "Which of the original's headers are null: their places, from 0 on."},
        f"{KEPT}uri": text | {"description": "Where the original is, if it is too large for this topic."},
        f"{KEPT}sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        f"{KEPT}size": count | {"description": "The original's size in bytes."},
        f"{KEPT}format": {"const": "record", "description": "The file holds key and headers, too."},
    }
    headers = {"type": "object", "properties": always | sometimes, "required": [*always]}
    return {
        "name": DEAD_LETTER,
        "title": "A record, or one row of it, that could not be processed",
        "description": "The original's headers come first. Of headers with the same name, the last one counts.",
        "headers": headers,
        "payload": _binary("The original's value, unchanged."),
        "bindings": _keyed("The original's key, unchanged.", "string", "null"),
    }


def reference(kind: str, name: str) -> dict[str, str]:
    """A reference to a component of the document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _message(pipeline: Pipeline, kind: type[MessageFormat]) -> Message:
    """A message of readings in one format."""
    names = (kind.media_type, *kind.aliases)
    message: Message = {
        "name": f"reading.{pipeline.name}.{_slug(kind)}",
        "title": _first_line(kind),
        "contentType": kind.media_type,
        "headers": _headers(pipeline, names, required=pipeline.content_type not in names),
        "bindings": _keyed(_routing(pipeline)),
    }
    if kind is Json:
        place = source(pipeline.schema.field(pipeline.key))
        location = f"header#/{place.removeprefix(json_schema.HEADER)}" if place else f"payload#/{pipeline.key}"
        return message | {
            "description": f"At most {MAX_BYTES} bytes. {json_schema.LIMITS}",
            "payload": reference("schemas", _reading(pipeline)),
            "correlationId": {"location": f"$message.{location}"},
        }
    body = [f for f in pipeline.schema if source(f) is None]
    columns = {"x-columns": [_column(f) for f in body]} if kind is Arrow else {}
    about = f"At most {MAX_ROWS} rows and {MAX_BYTES} bytes. A row has the fields of the schema {_reading(pipeline)}."
    if issubclass(kind, RegistryFormat):
        about = f"At most {MAX_BYTES} bytes, in Confluent's wire format. Fields are those of the schema {_reading(pipeline)}."
        message["bindings"]["kafka"] |= {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent"}
    return message | {"description": about, "payload": _binary(_first_line(kind)) | columns}


def _column(f: pa.Field) -> dict[str, Any]:
    """A column of an Arrow stream, and the types that it may have."""
    return {"name": f.name, "type": str(f.type), "nullable": f.nullable, "accepts": accepted(f.type)}


def _frames(pipeline: Pipeline, frame: pa.Field) -> dict[str, Message]:
    """The messages of a topic of frames: a JPEG, or where it is."""
    place = source(pipeline.schema.field(pipeline.key)) or ""
    common = {
        "correlationId": {"location": f"$message.header#/{place.removeprefix(json_schema.HEADER)}"},
        "bindings": _keyed(_routing(pipeline)),
    }
    name = f"reading.{pipeline.name}"
    inside: Message = {
        "name": f"{name}.jpeg",
        "title": "One frame as a JPEG file",
        "contentType": JPEG,
        "headers": _headers(pipeline, (JPEG,), required=True),
        "payload": _binary(f"A JPEG file of at most {MAX_BYTES} bytes, grey or RGB."),
        **common,
    }
    roots: list[str] = orjson.loads(frame.metadata.get(b"roots", b"[]"))
    if not roots:
        return {"jpeg": inside}
    shown = " or ".join(_without_credentials(root) for root in roots)
    headers = json_schema.headers(pipeline.schema, notes(pipeline))
    headers["properties"] |= {
        URI: {"type": "string", "description": f"The path or URI of a JPEG file inside {shown}."},
        SHA256: {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
    }
    headers["required"] = [*headers["required"], URI, SHA256]
    claim: Message = {
        "name": f"{name}.reference",
        "title": "Where one frame is",
        "headers": headers,
        "payload": _binary("Ignored."),
        **common,
    }
    return {"jpeg": inside, "reference": claim}


def _headers(pipeline: Pipeline, content_types: Sequence[str], *, required: bool) -> JsonSchema:
    """The schema of a reading's headers. The first content type is the usual one."""
    headers = json_schema.headers(pipeline.schema, notes(pipeline))
    usual, *others = content_types
    said = f"{usual}{''.join(f' or {other}' for other in others)}, with or without parameters."
    content_type = {
        "type": "string",
        "examples": [usual],
        "description": said if required else f"{said} May be absent.",
    }
    headers["properties"] = {CONTENT_HEADER: content_type, **headers["properties"]}
    if required:
        headers["required"] = [CONTENT_HEADER, *headers["required"]]
    return headers


def _keyed(meaning: str, *types: str) -> dict[str, Any]:
    """The Kafka binding of a message, with what its key is: text, unless `types` says otherwise."""
    key = {"type": [*types] or "string", "description": meaning}
    return {"kafka": {"key": key, "bindingVersion": BINDING_VERSION}}


def _routing(pipeline: Pipeline) -> str:
    return (
        f"The value of {pipeline.key} as text. Tocsin does not read it: it makes Kafka's partitioner keep all readings of a "
        f"{pipeline.key} on one partition, which Tocsin needs. A message with many rows may go without a key, to the partition "
        "that the key of its rows belongs to."
    )


def _without_credentials(root: str) -> str:
    """A folder's path or URI. A URI may also name a user, and have options in its query."""
    return re.sub(r"://[^/@]*@", "://", root.partition("?")[0]) if "://" in root else root


def _binary(meaning: str) -> JsonSchema:
    return {"type": "string", "format": "binary", "description": meaning}


def _reading(pipeline: Pipeline) -> str:
    return f"reading.{pipeline.name}"


def _slug(kind: type[MessageFormat]) -> str:
    """A format's name in the document: `LineProtocol` is `line-protocol`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.__name__.strip("_")).lower()


def _first_line(kind: type[MessageFormat]) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def _rule_ids(pipeline: Pipeline) -> list[str]:
    """A name for each rule, of the letters that a component's name may have."""
    ids = [re.sub(r"[^A-Za-z0-9_-]", "-", rule.name) for rule in pipeline.rules]
    return [id if ids.count(id) == 1 else f"{id}-{place}" for place, id in enumerate(ids)]
