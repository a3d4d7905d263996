"""A kafka-python with other private parts is refused before the first client is created."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.consumer.fetcher import Fetcher
from kafka.net.transport import KafkaTCPTransport
from kafka.producer.transaction_manager import TransactionManager
from kafka.record.default_records import DefaultRecordBatch

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.kafka import clients, private
from tocsin.pipelines.runtime.kafka.broker import _failures

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    private.check.cache_clear()
    yield
    private.check.cache_clear()


def test_the_version_that_is_pinned_has_them_all() -> None:
    private.check()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"kafka-python=={private.VERSION}" in project["dependencies"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (TransactionManager, "_supports_epoch_bump"),
        (Fetcher, "PartitionRecords"),
        (Fetcher.PartitionRecords, "_unpack_records"),
        (DefaultRecordBatch, "_read_msg"),
        (KafkaTCPTransport, "_sock_recv"),
        (KafkaAdminClient, "_find_coordinator_id"),
    ],
)
def test_one_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(ConfigError, match=rf"without .*{name}.*; install kafka-python==") as refused:
        clients.producer({"bootstrap_servers": "127.0.0.1:1"})
    assert "\n" not in str(refused.value)


def test_one_that_takes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransactionManager, "_supports_epoch_bump", lambda self, broker: False)
    private.check()  # further parameters are allowed
    private.check.cache_clear()
    monkeypatch.setattr(Fetcher.PartitionRecords, "_unpack_records", lambda self, records: None)
    with pytest.raises(ConfigError, match=r"without PartitionRecords._unpack_records\(self, tp, records\)"):
        private.check()


def test_one_that_the_library_does_not_use_any_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch of an unused part would change nothing."""
    for name, method in list(vars(TransactionManager).items()):
        if "_supports_epoch_bump" in getattr(getattr(method, "__code__", None), "co_names", ()):
            monkeypatch.setattr(TransactionManager, name, lambda self: None)
    with pytest.raises(ConfigError, match="without a use of _supports_epoch_bump in TransactionManager"):
        private.check()


def test_a_part_that_we_have_replaced_ourselves_is_no_loss() -> None:
    """`tocsin check` patches the transport while it creates the process's first client."""
    with _failures():
        private.check()
