"""Checks that the private parts of kafka-python that this project relies on exist.

Fencing and the checks of the log go beyond the library's public API. If one of these parts were renamed, a patch would silently
have no effect. So each process that uses Kafka checks them first.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType
from typing import Any

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.transaction_manager import TransactionManager
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from tocsin.pipelines.runtime.declare.errors import ConfigError

VERSION = "3.0.12"
"""The version that pyproject.toml pins, and that has these parts."""


@cache
def check() -> None:
    """Check that each part exists, takes the arguments that we pass, and is used by the library itself.

    Raises:
        ConfigError: a part fails the check.
    """
    if missing := list(_missing()):
        raise ConfigError(
            f"kafka-python: expected version {VERSION}, because fencing and log checks use its private API, got "
            f"{kafka.__version__} without {', '.join(missing)}; install kafka-python=={VERSION}"
        )


def _missing() -> Iterator[str]:
    if (records := getattr(Fetcher, "PartitionRecords", None)) is None:
        yield "Fetcher.PartitionRecords"
        return
    methods: list[tuple[Any, str, tuple[str, ...]]] = [
        (TransactionManager, "_supports_epoch_bump", ("self",)),
        (TransactionManager, "maybe_add_partition_to_transaction", ("self", "topic_partition")),
        (records, "_unpack_records", ("self", "tp", "records")),
        (MemoryRecords, "next_batch", ("self",)),
        (DefaultRecordBatch, "_read_msg", ("self",)),
        (KafkaTCPTransport, "_sock_recv", ("self",)),
        (KafkaSSLTransport, "_sock_recv", ("self",)),
        (KafkaAdminClient, "_find_coordinator_id", ("self", "key", "key_type")),
        (KafkaConnectionManager, "run", ("self", "coro", "args")),
        (KafkaConnectionManager, "send", ("self", "request", "node_id")),
        (ClusterMetadata, "brokers", ("self",)),
        (ClusterMetadata, "add_topic", ("self", "topic")),
        (ClusterMetadata, "refresh_metadata", ("self",)),
    ]
    for owner, name, parameters in methods:
        method = getattr(owner, name, None)
        if not callable(method) or tuple(inspect.signature(method).parameters)[: len(parameters)] != parameters:
            yield f"{owner.__name__}.{name}({', '.join(parameters)})"
    # An override or a patch has an effect only if the library's own code uses the part.
    used: list[tuple[Any, str]] = [
        (TransactionManager, "_supports_epoch_bump"),
        (Fetcher, "PartitionRecords"),
        (records, "_unpack_records"),
        (records, "next_batch"),
        (DefaultRecordBatch, "_read_msg"),
        (DefaultRecordBatch, "_buffer"),
        (KafkaTCPTransport, "_sock_recv"),
        (KafkaProducer, "_transaction_manager"),
        (KafkaConsumer, "_fetcher"),
        (KafkaConsumer, "_cluster"),
        (KafkaConsumer, "_net"),
        (KafkaAdminClient, "_manager"),
        (KafkaConnectionManager, "cluster"),
    ]
    for owner, name in used:
        if not any(name in _names(code) for code in _codes(owner)):
            yield f"a use of {name} in {owner.__name__}"
    for name in ("base_offset", "next_offset", "magic"):
        if not isinstance(getattr(DefaultRecordBatch, name, None), property):
            yield f"DefaultRecordBatch.{name}"


def _codes(owner: type) -> Iterator[CodeType]:
    """The code of a class's own methods."""
    for member in vars(owner).values():
        method = member.fget if isinstance(member, property) else member
        if code := getattr(method, "__code__", None):
            yield code


def _names(code: CodeType) -> Iterator[str]:
    """All names that code uses, nested functions included."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)
