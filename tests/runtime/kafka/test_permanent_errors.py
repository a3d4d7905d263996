"""Permanent errors, which no retry can cure, are distinguished from those that may pass."""

from __future__ import annotations

import pytest
from kafka import codec
from kafka import errors as kafka_errors

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.admin.preflight import codecs
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent

PERMANENT = [
    (kafka_errors.TopicAuthorizationFailedError("alerts.job"), "grant it to this user"),
    (kafka_errors.TransactionalIdAuthorizationFailedError(), "grant it to this user"),
    (kafka_errors.SaslAuthenticationFailedError("no"), "correct the login"),
    (kafka_errors.UnsupportedCodecError("Libraries for lz4 compression codec not found"), "install lz4"),
    (kafka_errors.IncompatibleBrokerVersion("too old"), "use a newer broker"),
    (kafka_errors.UnsupportedForMessageFormatError(), "use a newer broker"),
    (kafka_errors.MessageSizeTooLargeError(), "raise max.message.bytes"),
    (kafka_errors.InvalidRecordError(), "cleanup.policy"),
    (kafka_errors.InvalidTransactionTimeoutError(), "correct [kafka]"),
    # how the client reports an earlier error
    (kafka_errors.KafkaError("we are in an error state: [Error 29] TopicAuthorizationFailedError: a"), "grant it"),
]
PASSING = [
    kafka_errors.KafkaTimeoutError("no answer"),
    kafka_errors.NotLeaderForPartitionError(),
    kafka_errors.NotEnoughReplicasError(),
    kafka_errors.KafkaConnectionError("ECONNREFUSED"),
    kafka_errors.KafkaError("Cannot execute transactional method"),
    Unavailable("got TopicAuthorizationFailedError, which this text only quotes"),
    OSError("no route to host"),
]


@pytest.mark.parametrize(("reason", "do"), PERMANENT, ids=lambda p: type(p).__name__)
def test_a_permanent_error_becomes_one_line_that_says_what_to_do(reason: Exception, do: str) -> None:
    found = permanent(reason, "job/0")
    assert found is not None
    line = str(found)
    assert line.startswith("job/0: expected ") and ", got " in line and "\n" not in line
    assert do in line.rsplit("; ", 2)[-2] + line.rsplit("; ", 2)[-1]
    later = Unavailable("expected a transaction to end")
    later.__cause__ = reason
    assert str(permanent(later, "job/0")) == line


@pytest.mark.parametrize("reason", PASSING, ids=lambda p: type(p).__name__)
def test_what_may_pass_is_none(reason: Exception) -> None:
    assert permanent(reason, "job/0") is None


def test_an_option_that_the_client_does_not_take_is_a_wrong_setting(kafka: KafkaServer) -> None:
    with pytest.raises(ConfigError, match=r"expected options in \[kafka\] that kafka-python accepts"):
        clients.producer({"bootstrap_servers": kafka.bootstrap_servers, "compression_type": "lzma"})


def test_each_codec_is_tried_and_one_that_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert codecs() == "gzip, snappy, lz4, zstd"
    monkeypatch.setattr(codec, "lz4_decode", None)  # as without its library
    monkeypatch.setattr(codec, "zstd_decode", lambda content: b"")
    with pytest.raises(
        ConfigError, match=r"got lz4 fails \(.*\), zstd changes its content; install lz4, python-snappy"
    ):
        codecs()
