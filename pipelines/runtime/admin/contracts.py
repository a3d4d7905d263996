"""The contracts of pipelines: an AsyncAPI 3.0 document of their topics, and JSON Schemas for those who produce readings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from types import MappingProxyType
from typing import Any

import yaml

from tocsin.pipelines.runtime.admin import contract_messages as messages
from tocsin.pipelines.runtime.admin.contract_messages import BINDING_VERSION, DEAD_LETTER, Message, pixels, reference
from tocsin.pipelines.runtime.control.context_table import pipeline as context_table
from tocsin.pipelines.runtime.control.deployment import context_table_plan
from tocsin.pipelines.runtime.control.labels_table import labels_table_plan
from tocsin.pipelines.runtime.control.labels_table import pipeline as labels_table
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.formats import json_schema
from tocsin.pipelines.runtime.formats.codec import FormatOptions
from tocsin.pipelines.runtime.formats.registry_format import SECTION

DOCUMENT, SCHEMAS = "asyncapi.yaml", "schemas"
ABOUT = """\
The topics of these pipelines: {names}.
Tocsin is the application. It receives readings, and sends alerts and dead letters.
A header's value is UTF-8 text: a string or a time as it is, a number or a boolean as JSON writes it.
Names of a reading's headers may be in any case.
Subscribers read with isolation.level=read_committed.
"""
READINGS = "Readings."
LABELS = "Labels: the truth about readings, which arrives later."
CONTEXT = "Context: intervals of assets, such as maintenance, with which readings are joined by time."
SASL = {"PLAIN": "plain", "SCRAM-SHA-256": "scramSha256", "SCRAM-SHA-512": "scramSha512", "GSSAPI": "gssapi"}
"""AsyncAPI's names of SASL mechanisms. Its scheme for OAUTHBEARER asks for addresses, so that one is left out."""


def contracts(
    pipelines: Sequence[Pipeline], kafka: Mapping[str, Any], options: FormatOptions = MappingProxyType({})
) -> dict[str, str]:
    """The content of each file by its path: the document, and the JSON Schemas of input topics.

    Equal pipelines and settings give equal files. No file has a credential.

    Args:
        kafka: `[kafka]`; only the addresses and the kind of login are used.
        options: of message formats, by their section; only whether a section is there, and a registry's address, is used.
    """
    text = yaml.dump(
        document(pipelines, kafka, options), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    schemas = {f"{SCHEMAS}/{name}.schema.json": _json(schema) for name, schema in topic_schemas(pipelines).items()}
    return {DOCUMENT: text, **schemas}


def document(
    pipelines: Sequence[Pipeline], kafka: Mapping[str, Any], options: FormatOptions = MappingProxyType({})
) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the pipelines' input, label, context, alert and dead-letter topics."""
    channels, operations = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    components: dict[str, dict[str, Any]] = {"messages": {}, "schemas": {}}

    def operation(name: str, action: str, title: str, topic: str, about: str, found: Mapping[str, Message]) -> None:
        channel = channels.setdefault(topic, _channel(topic, about))
        channel["messages"] |= {message: reference("messages", message) for message in found}
        components["messages"] |= found
        here = f"#/channels/{topic}"
        used = [{"$ref": f"{here}/messages/{message}"} for message in found]
        operations[name] = {"action": action, "title": title, "channel": {"$ref": here}, "messages": used}

    readers = {READINGS: pipelines, LABELS: labels_tables(pipelines), CONTEXT: context_tables(pipelines)}
    for p, about_input in ((p, about) for about, those in readers.items() for p in those):
        components["schemas"] |= messages.reading_schemas(p) | messages.alert_schemas(p)
        operation(
            f"{p.name}.readings",
            "receive",
            f"{p.name} reads",
            p.topic,
            about_input,
            messages.readings(p, options),
        )
        if p.rings:
            about, found = f"Alerts of {p.name}.", messages.alerts(p)
            operation(f"{p.name}.alerts", "send", f"{p.name} raises or clears an alert", p.alerts, about, found)
        about, found = f"Records of {p.topic} that could not be processed.", {DEAD_LETTER: messages.dead_letter()}
        operation(f"{p.name}.dead-letters", "send", f"{p.name} refuses a record", p.dead_letters, about, found)
    servers, schemes = _servers(kafka, str(options.get(SECTION, {}).get("url", "")))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tocsin",
            "version": metadata.version("tocsin"),
            "description": ABOUT.format(names=", ".join(p.name for p in pipelines)),
        },
        "servers": servers,
        "channels": channels,
        "operations": operations,
        "components": {**components, **({"securitySchemes": schemes} if schemes else {})},
    }


def topic_schemas(pipelines: Sequence[Pipeline]) -> dict[str, json_schema.JsonSchema]:
    """The JSON Schemas of input, label and context topics, by name: `<topic>` of a JSON message, `<topic>.headers` of its headers.

    A topic that several pipelines read has the schema that satisfies all of them.
    """
    found = dict[str, json_schema.JsonSchema]()
    every = [*pipelines, *labels_tables(pipelines), *context_tables(pipelines)]
    for topic in dict.fromkeys(p.topic for p in every):
        readers = [p for p in every if p.topic == topic]
        bodies = [
            json_schema.payload(p.schema, unknown=p.unknown, notes=messages.notes(p)) for p in readers if not pixels(p)
        ]
        headers = [json_schema.headers(p.schema, messages.notes(p)) for p in readers]
        by = " and ".join(p.name for p in readers)
        if bodies:
            about = f"A reading in JSON, as {by} reads it. {json_schema.LIMITS}"
            found[topic] = _schema_file(topic, about, bodies)
        if headers := [one for one in headers if one["properties"]]:
            about = f"The headers of a reading, as {by} reads it: UTF-8 text, of numbers and booleans what JSON writes."
            found[f"{topic}.headers"] = _schema_file(f"{topic}, headers", about, headers)
    return found


def labels_tables(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """The pipelines that read the labels of those that have any."""
    plans = [labels_table_plan(p.name, p.truth) for p in pipelines if p.truth]
    return [labels_table(plan.options, None) for plan in plans]


def context_tables(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """The pipelines that read the context of those that have one."""
    plans = [context_table_plan(p.name, p.context) for p in pipelines if p.context]
    return [context_table(plan.options, None) for plan in plans]


def _schema_file(title: str, about: str, schemas: Sequence[json_schema.JsonSchema]) -> json_schema.JsonSchema:
    body = schemas[0] if all(schema == schemas[0] for schema in schemas) else {"allOf": [*schemas]}
    return {"$schema": json_schema.DIALECT, "title": title, "description": about, **body}


def _channel(topic: str, about: str) -> dict[str, Any]:
    bindings = {"kafka": {"topic": topic, "bindingVersion": BINDING_VERSION}}
    return {"address": topic, "description": about, "messages": {}, "bindings": bindings}


def _servers(kafka: Mapping[str, Any], registry: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The brokers with their schema registry, and how a client logs in: the kind, without a name or a password."""
    protocol = str(kafka.get("security_protocol") or "PLAINTEXT")
    mechanism = SASL.get(str(kafka.get("sasl_mechanism"))) if protocol.startswith("SASL") else None
    schemes: dict[str, dict[str, str]] = {"sasl": {"type": mechanism}} if mechanism else {}
    if protocol.endswith("SSL") and kafka.get("ssl_certfile"):
        schemes["certificate"] = {"type": "X509"}
    server = {
        "protocol": "kafka-secure" if protocol.endswith("SSL") else "kafka",
        **({"security": [reference("securitySchemes", name) for name in schemes]} if schemes else {}),
        **({"bindings": {"kafka": _registry(registry)}} if registry else {}),
    }
    hosts = _hosts(kafka.get("bootstrap_servers", "localhost:9092"))
    return {f"kafka-{number}": {"host": host, **server} for number, host in enumerate(hosts, 1)}, schemes


def _registry(url: str) -> dict[str, str]:
    return {"schemaRegistryUrl": url, "schemaRegistryVendor": "confluent", "bindingVersion": BINDING_VERSION}


def _hosts(servers: str | Iterable[str]) -> list[str]:
    listed = servers.split(",") if isinstance(servers, str) else servers
    return [host.strip() for host in listed if host.strip()]


def _json(schema: json_schema.JsonSchema) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes each value out where it occurs, since not every tool follows YAML's own references; and lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_str)
