"""librdkafka, the native client of the path that every reading takes: its options, translated from kafka-python's.

kafka-python stays the client of everything else, and of this path where librdkafka is not installed, where an option has no
counterpart, or where `[kafka] client` says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError, for_code

from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

log = logging.getLogger(__name__)
CLIENT = "client"
"""The option that names the client."""
KAFKA_PYTHON, LIBRDKAFKA = "kafka-python", "librdkafka"
_NAMES = {
    "bootstrap_servers": "bootstrap.servers",
    "client_id": "client.id",
    "security_protocol": "security.protocol",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "connections_max_idle_ms": "connections.max.idle.ms",
    "metadata_max_age_ms": "metadata.max.age.ms",
    "reconnect_backoff_ms": "reconnect.backoff.ms",
    "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "request_timeout_ms": "socket.timeout.ms",
}
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_IGNORED = {CLIENT, "api_version", "api_version_auto_timeout_ms", "bootstrap_timeout_ms", "retry_backoff_ms"}
"""Options of kafka-python's own start and pace."""
_DEFAULTS = {
    "log.connection.close": False,
    "log_level": 2,  # its own lines wait for the next poll, which may never come
}
BACKOFF_MS = 1000


def chosen(options: Mapping[str, Any]) -> bool:
    """Whether librdkafka is the client of the hot path.

    Raises:
        ConfigError: the options ask for it, but it is not installed, or an option has no counterpart.
    """
    wanted = options.get(CLIENT)
    if wanted == KAFKA_PYTHON:
        return False
    unknown = [name for name in options if name not in _NAMES and name not in _IGNORED]
    if (mechanism := options.get("sasl_mechanism")) and mechanism not in _MECHANISMS:
        unknown.append(f"sasl_mechanism {mechanism}")
    lacks = "the package confluent-kafka" if find_spec("confluent_kafka") is None else ""
    lacks = lacks or (f"a counterpart of {', '.join(unknown)}" if unknown else "")
    if lacks and wanted == LIBRDKAFKA:
        raise ConfigError(
            f"kafka.client: expected {lacks}, got none for librdkafka; set kafka.client to {KAFKA_PYTHON!r}, or change that"
        )
    return not lacks


def consumer(options: Mapping[str, Any], **more: Any) -> Consumer:
    """A consumer without a group, of assigned partitions. `more`: options by librdkafka's names."""
    from confluent_kafka import Consumer

    fixed = {
        "group.id": "none",  # required, but never joined
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "check.crcs": True,
        "enable.partition.eof": True,
    }
    return _open(Consumer, options, fixed | more)


def producer(options: Mapping[str, Any], **more: Any) -> Producer:
    """A producer; with `transactional.id` a transactional one. `more`: options by librdkafka's names."""
    from confluent_kafka import Producer

    fixed = {"acks": "all", "allow.auto.create.topics": False, "partitioner": "murmur2_random", "batch.size": 65_536}
    # A request of a transactional producer must not outlast its transaction, which is shorter than what consumers may wait.
    patient = {name: value for name, value in options.items() if name != "request_timeout_ms"}
    return _open(Producer, patient, fixed | more)


def error(reason: Any) -> KafkaError:
    """The error that kafka-python raises for a `confluent_kafka.KafkaError`, as which all our code knows it."""
    text = f"{reason.name()}: {reason.str()}"
    return for_code(reason.code())(text) if reason.code() > 0 else KafkaError(text)


def translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by librdkafka's names."""
    found = {_NAMES[name]: value for name, value in options.items() if name in _NAMES and value is not None}
    if isinstance(servers := found.get("bootstrap.servers"), list | tuple):
        found["bootstrap.servers"] = ",".join(servers)
    if "ssl.endpoint.identification.algorithm" in found:
        found["ssl.endpoint.identification.algorithm"] = "https" if options["ssl_check_hostname"] else "none"
    if "ssl.certificate.location" in found:
        found.setdefault("ssl.key.location", found["ssl.certificate.location"])  # one file may hold both
    if "SSL" in str(options.get("security_protocol")) and (trusted := os.environ.get("SSL_CERT_FILE")):
        found.setdefault("ssl.ca.location", trusted)  # as Python does
    found["reconnect.backoff.max.ms"] = found.get(
        "reconnect.backoff.max.ms", max(BACKOFF_MS, found.get("reconnect.backoff.ms", 0))
    )
    return found


def _open(client: Callable[..., Any], options: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    from confluent_kafka import KafkaException

    try:
        return client({**_DEFAULTS, **translated(options), **more, "logger": log})
    except KafkaException as reason:
        raise ConfigError(
            f"Kafka at {options.get('bootstrap_servers', 'localhost')}: expected options in [kafka] that librdkafka accepts, "
            f"got {' '.join(reason.args[0].str().split())}; correct them, or set kafka.client to {KAFKA_PYTHON!r}"
        ) from reason
