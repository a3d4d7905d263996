"""The document of pipelines' topics: complete, the same each time, without credentials; and the schemas of shared topics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.admin.contracts import DOCUMENT, contracts, document, topic_schemas
from tocsin.pipelines.runtime.declare.dead_letter import KEPT, DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Pipeline
from tocsin.pipelines.runtime.formats.jpeg import FACTS, frame_fields
from tocsin.pipelines.runtime.formats.message import MessageFormat

KAFKA = {
    "bootstrap_servers": "broker-1:9092, broker-2:9093",
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": "somebody",
    "sasl_plain_password": "geheim",
}
FIELDS = [
    pa.field("mill", pa.string(), nullable=False),
    pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
    pa.field("current", pa.float64()),
]


class LineProtocol(MessageFormat):
    """Text, one reading a line."""

    media_type = "text/x-line-protocol"


def _pipeline(name: str = "mills", **changes: Any) -> Pipeline:
    declared = {
        "name": name,
        "topic": "sensors.mills",
        "schema": pa.schema(FIELDS),
        "key": "mill",
        "event_time": "at",
        "stages": [],
        "results": pa.schema([("current", pa.float64())]),
        "rules": [
            AlertRule(name="too high", severity="warning", when=pl.col("current") > 9),
            AlertRule(name="too.high", severity="critical", when=pl.col("current") > 99),
        ],
        "formats": [LineProtocol],
    }
    return Pipeline(**{**declared, **changes})


FRAMES = pa.schema([*FACTS, *frame_fields(4, 4)])
STORED = pa.schema([*FACTS, *frame_fields(4, 4, roots=["/frames", "s3://id:geheim@dives/film?secret=geheim"])])


def _frames(schema: pa.Schema) -> Pipeline:
    return _pipeline(schema=schema, key="camera", event_time="time", topic="video", rules=(), formats=())


def _schemas(made: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every schema of a document that is not a part of another."""
    yield from made["components"]["schemas"].values()
    for message in made["components"]["messages"].values():
        yield message["headers"]
        yield message["payload"]
        yield message["bindings"]["kafka"]["key"]


def _resolved(made: Mapping[str, Any], reference: str) -> Any:
    node: Any = made
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return _resolved(made, node["$ref"]) if "$ref" in node else node


def test_every_topic_has_a_channel_and_every_operation_its_messages() -> None:
    made = document([_pipeline()], KAFKA)
    assert {name: channel["address"] for name, channel in made["channels"].items()} == {
        name: name for name in ("sensors.mills", "alerts.mills", "sensors.mills.dlq")
    }
    found = {
        name: (operation["action"], [_resolved(made, one["$ref"])["name"] for one in operation["messages"]])
        for name, operation in made["operations"].items()
    }
    assert found == {
        "mills.readings": ("receive", [f"reading.mills.{kind}" for kind in ("json", "arrow", "line-protocol")]),
        "mills.alerts": ("send", ["alert.mills.too-high-0", "alert.mills.too-high-1"]),
        "mills.dead-letters": ("send", ["dead-letter"]),
    }
    assert made["components"]["messages"]["reading.mills.line-protocol"]["contentType"] == "text/x-line-protocol"


def test_its_schemas_are_schemas_in_the_dialect_that_asyncapi_reads() -> None:
    found = [*_schemas(document([_pipeline(), _frames(STORED)], KAFKA))]
    assert len(found) > 20
    for schema in found:
        Draft7Validator.check_schema(schema)


def test_a_pipeline_without_rules_has_no_alert_topic() -> None:
    assert [*document([_pipeline(rules=())], {})["channels"]] == ["sensors.mills", "sensors.mills.dlq"]


def test_the_message_key_is_named_and_correlates() -> None:
    made = document([_pipeline()], {})["components"]["messages"]
    assert made["reading.mills.json"]["correlationId"] == {"location": "$message.payload#/mill"}
    assert made["alert.mills.too-high-0"]["correlationId"] == {"location": "$message.header#/ce_subject"}
    for message in made.values():
        assert message["bindings"]["kafka"]["key"]["description"]
    keyed = pa.schema([FIELDS[0].with_metadata({"from": "header:Mill"}), *FIELDS[1:]])
    made = document([_pipeline(schema=keyed)], {})["components"]["messages"]
    assert made["reading.mills.json"]["correlationId"] == {"location": "$message.header#/Mill"}


def test_frames_are_in_the_message_or_referenced_if_there_are_roots() -> None:
    inside = document([_frames(FRAMES)], {})["components"]["messages"]
    assert [*inside] == ["reading.mills.jpeg", "dead-letter"]
    assert inside["reading.mills.jpeg"]["headers"]["required"] == ["content-type", "camera", "sequence", "time"]
    both = document([_frames(STORED)], {})["components"]["messages"]
    assert [*both] == ["reading.mills.jpeg", "reading.mills.reference", "dead-letter"]
    headers = both["reading.mills.reference"]["headers"]
    assert headers["required"] == ["camera", "sequence", "time", "frame-uri", "frame-sha256"]
    assert headers["properties"]["frame-uri"]["description"].endswith("inside /frames or s3://dives/film.")
    assert [*topic_schemas([_frames(STORED)])] == ["video.headers"]


def test_it_has_the_brokers_and_how_to_log_in_and_no_credential() -> None:
    files = contracts([_pipeline(), _frames(STORED)], KAFKA)
    assert "geheim" not in "".join(files.values()) and "somebody" not in "".join(files.values())
    made = yaml.safe_load(files[DOCUMENT])
    assert {server["host"]: server["protocol"] for server in made["servers"].values()} == {
        "broker-1:9092": "kafka-secure",
        "broker-2:9093": "kafka-secure",
    }
    assert made["components"]["securitySchemes"] == {"sasl": {"type": "scramSha512"}}


@pytest.mark.parametrize(
    ("options", "protocol", "schemes"),
    [
        ({}, "kafka", []),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}, "kafka", ["plain"]),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "kafka-secure", []),
        ({"security_protocol": "SSL", "ssl_certfile": "client.pem"}, "kafka-secure", ["X509"]),
        ({"security_protocol": "PLAINTEXT", "sasl_mechanism": "PLAIN"}, "kafka", []),
    ],
)
def test_a_login_is_described_by_its_kind(options: dict[str, Any], protocol: str, schemes: list[str]) -> None:
    made = document([_pipeline()], options)
    assert made["servers"]["kafka-1"]["protocol"] == protocol
    found = made["components"].get("securitySchemes", {})
    assert [scheme["type"] for scheme in found.values()] == schemes
    assert [one["$ref"] for one in made["servers"]["kafka-1"].get("security", [])] == [
        f"#/components/securitySchemes/{name}" for name in found
    ]


def test_equal_pipelines_give_equal_files_that_say_the_same_in_yaml() -> None:
    files = contracts([_pipeline(), _frames(STORED)], KAFKA)
    assert files == contracts([_pipeline(), _frames(STORED)], KAFKA)
    assert yaml.safe_load(files[DOCUMENT]) == document([_pipeline(), _frames(STORED)], KAFKA)
    assert "&id" not in files[DOCUMENT] and "*id" not in files[DOCUMENT]
    schema = json.loads(files["schemas/sensors.mills.schema.json"])
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["mill", "at"]


def test_a_topic_of_two_pipelines_has_a_schema_that_satisfies_both() -> None:
    strict = _pipeline("strict", schema=pa.schema([FIELDS[0], FIELDS[1], pa.field("current", pa.int8())]))
    made = document([_pipeline(), strict], {})
    assert [*made["operations"]][::3] == ["mills.readings", "strict.readings"]
    assert len(made["channels"]["sensors.mills"]["messages"]) == 6
    schema = topic_schemas([_pipeline(), strict])["sensors.mills"]
    Draft202012Validator.check_schema(schema)
    valid = {"mill": "a", "at": 0, "current": 7}
    assert Draft202012Validator(schema).is_valid(valid)
    assert not Draft202012Validator(schema).is_valid(valid | {"current": 7.5})
    assert "allOf" not in topic_schemas([_pipeline(), _pipeline("twin")])["sensors.mills"]


@pytest.mark.parametrize("row", [None, 7])
@pytest.mark.parametrize("kept", [(), ("uri", "sha256", "size", "format")])
@pytest.mark.parametrize("headers", [(), (("trace", None), ("x", b"1"))])
def test_what_is_published_as_a_dead_letter_is_valid(row: int | None, kept: Any, headers: Any) -> None:
    record = ConsumerRecord("sensors.mills", 3, 0, 1042, -1, 0, b"k", b"{}", list(headers), None, 1, 1, 1)
    letter = DeadLetter.of(record, stage="decode", error="BadValue", message="x" * 5000, row=row)
    content = {"uri": b"s3://lake/_dead", "sha256": b"0" * 64, "size": b"12", "format": b"record"}
    letter = DeadLetter(**{**vars(letter), "kept": tuple((f"{KEPT}{name}", content[name]) for name in kept)})
    described = document([_pipeline()], {})["components"]["messages"]["dead-letter"]["headers"]
    sent = {name: _parsed(described, name, text) for name, text in letter.headers_out()}
    assert [error.message for error in Draft202012Validator(described).iter_errors(sent)] == []
    assert {*sent} - {*described["properties"]} == {name for name, _ in headers}
    del sent["__connect.errors.offset"]
    assert not Draft202012Validator(described).is_valid(sent)


def _parsed(described: Mapping[str, Any], name: str, text: bytes) -> Any:
    """A header's value as the schema describes it."""
    is_number = described["properties"].get(name, {}).get("type") == "integer"
    return orjson.loads(text) if is_number else text.decode()


REGISTRY = {"schema_registry": {"url": "https://registry:8081", "username": "somebody", "token": "geheim"}}


def test_formats_of_a_schema_registry_are_there_if_it_is_set() -> None:
    files = contracts([_pipeline(content_type="application/avro")], KAFKA, REGISTRY)
    assert "geheim" not in "".join(files.values()) and "somebody" not in "".join(files.values())
    made = yaml.safe_load(files[DOCUMENT])
    registry = made["servers"]["kafka-1"]["bindings"]["kafka"]
    assert (registry["schemaRegistryUrl"], registry["schemaRegistryVendor"]) == ("https://registry:8081", "confluent")
    found = made["components"]["messages"]
    for name, kind in (("avro", "application/avro"), ("protobuf", "application/protobuf")):
        message = found[f"reading.mills.{name}"]
        assert message["contentType"] == kind
        assert message["bindings"]["kafka"]["schemaIdLocation"] == "payload"
    assert "content-type" not in found["reading.mills.avro"]["headers"]["required"]
    assert "content-type" in found["reading.mills.json"]["headers"]["required"]
