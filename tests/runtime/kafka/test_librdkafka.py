"""Which client reads and publishes, and what librdkafka is told of `[kafka]`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.kafka import librdkafka
from tocsin.pipelines.runtime.kafka.librdkafka import KAFKA_PYTHON, LIBRDKAFKA, chosen, translated
from tocsin.pipelines.runtime.kafka.native_transactions import NativeTransactions

PLAIN = {"bootstrap_servers": "a:1", "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}
FOREIGN: list[tuple[Mapping[str, Any], str]] = [
    ({"sasl_mechanism": "GSSAPI"}, "sasl_mechanism GSSAPI"),
    ({"sasl_mechanism": "AWS_MSK_IAM"}, "sasl_mechanism AWS_MSK_IAM"),
    ({"ssl_context": object()}, "ssl_context"),
    ({"sasl_oauth_token_provider": object(), "fetch_max_bytes": 1}, "sasl_oauth_token_provider, fetch_max_bytes"),
]


def test_librdkafka_is_chosen_unless_it_is_told_otherwise() -> None:
    assert chosen(PLAIN)
    assert chosen({**PLAIN, "client": LIBRDKAFKA})
    assert not chosen({**PLAIN, "client": KAFKA_PYTHON})


@pytest.mark.parametrize(("options", "names"), FOREIGN)
def test_an_option_without_a_counterpart_chooses_the_other_client_or_is_one_clear_line(
    options: Mapping[str, Any], names: str
) -> None:
    assert not chosen({**PLAIN, **options})
    with pytest.raises(
        ConfigError, match=f"^kafka.client: expected a counterpart of {names}, got none for librdkafka; "
    ):
        chosen({**PLAIN, **options, "client": LIBRDKAFKA})


def test_where_it_is_not_installed_the_other_client_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librdkafka, "find_spec", lambda _: None)
    assert not chosen(PLAIN)
    with pytest.raises(ConfigError, match="expected the package confluent-kafka, got none"):
        chosen({**PLAIN, "client": LIBRDKAFKA})


def test_options_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    given = {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SSL",
        "ssl_certfile": "both.pem",
        "ssl_check_hostname": False,
        "reconnect_backoff_ms": 4000,
        "client": LIBRDKAFKA,
    }
    expected = {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SSL",
        "ssl.certificate.location": "both.pem",
        "ssl.key.location": "both.pem",
        "ssl.endpoint.identification.algorithm": "none",
        "reconnect.backoff.ms": 4000,
        "reconnect.backoff.max.ms": 4000,
    }
    assert translated(given) == expected
    monkeypatch.setenv("SSL_CERT_FILE", "trusted.pem")
    assert translated(given) == expected | {"ssl.ca.location": "trusted.pem"}
    assert "ssl.ca.location" not in translated({"bootstrap_servers": "a:1"})


def test_a_transaction_works_with_each_pace_that_the_other_client_takes(kafka: KafkaServer) -> None:
    paces = {"request_timeout_ms": 30_000, "reconnect_backoff_ms": 4000, "metadata_max_age_ms": 60_000}
    options = {"bootstrap_servers": kafka.bootstrap_servers, **paces}
    with closing(NativeTransactions(options, "paces", group="paces")) as transactions:
        transactions.begin()
        assert transactions.commit([], {}) == set()


def test_a_wrong_option_is_one_clear_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^Kafka at a:1: expected options in \[kafka\] that librdkafka accepts, got .*; correct them"
    ):
        librdkafka.consumer({"bootstrap_servers": "a:1", "metadata_max_age_ms": -5})
