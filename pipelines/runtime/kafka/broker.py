"""Checks a broker the way a pipeline's processes will reach it. Nothing is produced and no topic is created."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from tocsin.pipelines.runtime.declare.errors import Refused, Unavailable
from tocsin.pipelines.runtime.kafka import clients, private

LIMITS_MS = {"bootstrap_timeout_ms": 5000, "request_timeout_ms": 5000, "max_block_ms": 5000}
SHORT_MS = 1000
"""Timeout of the first attempt. A rejected login fails within it; only a broker that does not answer gets more time."""
MISSING = kafka_errors.UnknownTopicOrPartitionError.errno
NETWORK = (ConnectionError, TimeoutError, socket.gaierror)
_login_lock = threading.Lock()
"""Serializes login checks, because `_failures` attaches to a process-wide logger."""


class Broker:
    """A Kafka cluster.

    Args:
        options: of kafka-python's clients; timeouts are shortened.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = {"bootstrap_servers": "localhost", "security_protocol": "PLAINTEXT", **options, **LIMITS_MS}
        self.admin: KafkaAdminClient
        self.brokers = 0

    def reach(self) -> str:
        """Connect and log in. The other methods need the connection.

        Raises:
            Unavailable: no broker answers, or not as expected.
            Refused: the login is rejected; the message gives the reason and the setting.
        """
        servers = self.options["bootstrap_servers"]
        with _failures() as failed:
            for limit_ms in (SHORT_MS, LIMITS_MS["bootstrap_timeout_ms"]):
                try:
                    self.admin = clients.admin({**self.options, "bootstrap_timeout_ms": limit_ms})
                    break
                except Unavailable as reason:
                    why = _login_failure(self.options, failed)
                    if isinstance(why, Refused) or limit_ms != SHORT_MS:
                        raise why from reason
            try:
                cluster = self.admin.describe_cluster()
            except KafkaError as reason:
                advertised = ", ".join(f"{b.host}:{b.port}" for b in self.admin._manager.cluster.brokers())
                raise Unavailable(
                    f"Kafka at {servers}: expected to reach the brokers at their advertised addresses, {advertised}, got "
                    f"{failed[0] if failed else reason}; correct the brokers' advertised.listeners, or the route to them"
                ) from reason
        self.brokers = len(cluster["brokers"])
        return f"{servers}: {count(self.brokers, 'broker')}, {self.options['security_protocol']}"

    def close(self) -> None:
        """Close the connection."""
        if hasattr(self, "admin"):
            self.admin.close()

    def describe(self, topic: str) -> dict[str, Any] | None:
        """A topic's id, partitions and the operations we may perform on it; None if there is no such topic."""
        (described,) = self.admin.describe_topics([topic])
        if (code := described["error_code"]) and code != MISSING:
            reason = kafka_errors.for_code(code)
            raise Unavailable(
                f"topic {topic}: expected to describe it, got {reason.__name__}; "
                + (
                    "grant this user READ or WRITE on it; `tocsin rights` prints what it needs"
                    if issubclass(reason, kafka_errors.AuthorizationError)
                    else "try again"
                )
            )
        return None if code else described

    def configs(self, topic: str) -> dict[str, str]:
        """A topic's settings, defaults included; empty if we may not see them."""
        found = self.admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        return {name: str(config["value"]) for name, config in found["topic"][topic].items()}

    def check_creatable(self, topic: str, partitions: int, **configs: str) -> dict[str, str]:
        """Ask whether a topic could be created. Returns the settings that it would have.

        Raises:
            Unavailable: it could not be created.
        """
        request = {topic: {"num_partitions": partitions, "configs": configs}}
        (created,) = self.admin.create_topics(request, validate_only=True, raise_errors=False)["topics"]
        if code := created["error_code"]:
            suffix = "".join(f" and {n}={v}" for n, v in configs.items())
            raise Unavailable(
                f"topic {topic}: expected that the first start can create it, got "
                f"{created.get('error_message') or kafka_errors.for_code(code).__name__}; create it with "
                f"{count(partitions, 'partition')}{suffix}, or grant this user CREATE on it"
            )
        return {name: str(config["value"]) for name, config in created.get("configs", {}).items()}


@contextmanager
def _failures() -> Iterator[list[BaseException]]:
    """Collect the reasons why connections fail. The client only raises a timeout, and logs the reason."""
    private.check()  # `_sock_recv` is replaced below
    errors: list[BaseException] = []

    class ErrorCollector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failures = (a for a in record.args or () if isinstance(a, BaseException))
            errors.extend(f for f in failures if "Unable to bootstrap" not in str(f))

    logger, collector = logging.getLogger("kafka.net.manager"), ErrorCollector()
    originals = {kind: kind._sock_recv for kind in (KafkaTCPTransport, KafkaSSLTransport)}
    for kind, original in originals.items():
        kind._sock_recv = _data_before_error(original)
    previous = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield errors
    finally:
        for kind, original in originals.items():
            kind._sock_recv = original
        logger.removeHandler(collector)
        logger.level, logger.propagate = previous


def _data_before_error(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return data that came before the other side hung up. The client would discard it, but it holds the reason."""

    def receive(transport: Any) -> Any:
        data, error = read(transport)
        return data, None if data else error

    return receive


def check_login(options: Mapping[str, Any]) -> None:
    """Check whether a broker rejects this client's login. A broker that does not answer is not an error.

    Raises:
        Refused: the broker rejects the login, and will do so again.
    """
    broker = Broker(options)
    try:
        with _login_lock:
            broker.reach()
    except Unavailable:
        return
    finally:
        broker.close()


def _login_failure(options: Mapping[str, Any], failed: Sequence[BaseException]) -> Unavailable | Refused:
    """The error for a failed bootstrap, in terms of the settings.

    Args:
        failed: the reason of each attempt; the most specific one is reported.
    """

    def first(kind: type[BaseException], text: str = "") -> BaseException | None:
        return next((f for f in failed if isinstance(f, kind) and text in str(f)), None)

    where, protocol = f"Kafka at {options['bootstrap_servers']}", options["security_protocol"]
    mechanism = options.get("sasl_mechanism")
    kind: type[Unavailable | Refused] = Refused
    if reason := first(kafka_errors.SaslAuthenticationFailedError):
        expected = f"to log in as {options.get('sasl_plain_username')}"
        advice = "correct kafka.sasl_plain_username and its password"
    elif reason := first(kafka_errors.UnsupportedSaslMechanismError):
        expected, advice = f"it to accept kafka.sasl_mechanism = {mechanism}", "set a mechanism that it accepts"
    elif reason := first(kafka_errors.IllegalSaslStateError):
        expected = f"it to accept a login, as kafka.security_protocol = {protocol} requires"
        advice = "set PLAINTEXT or SSL, because this listener accepts no login"
    elif reason := next((f for f in failed if isinstance(f, OSError) and not isinstance(f, NETWORK)), None):
        expected = "the files in kafka.ssl_cafile, ssl_certfile and ssl_keyfile to exist and be valid"
        advice = "correct the paths or replace the files"
    elif reason := first(KafkaError, "CERTIFICATE_VERIFY_FAILED"):
        expected = "a certificate signed by a CA in kafka.ssl_cafile"
        advice = "set kafka.ssl_cafile to the CA that signed it, and kafka.bootstrap_servers to the host name in it"
    elif reason := first(KafkaError, "Handshake failed"):
        expected = f"TLS, as kafka.security_protocol = {protocol} requires"
        advice = "set PLAINTEXT or SASL_PLAINTEXT if this listener has no TLS"
    elif reason := first(KafkaError, "ECONN") or first(KafkaError, "timed out") or first(KafkaError, "DNS"):
        expected, advice, kind = "a broker to answer", "is it running, and is the address right?", Unavailable
    else:
        kind = Unavailable  # it may be a broker that is just starting
        reason = failed[0] if failed else None
        expected = f"an answer in {protocol}" + (f" with {mechanism}" if mechanism else "")
        advice = "correct kafka.security_protocol and kafka.sasl_mechanism: this listener may need TLS or another kind of login"
    return kind(f"{where}: expected {expected}, got {str(reason) if reason else 'silence'}; {advice}")


def count(number: int, of: str) -> str:
    """A number with its noun, such as 3 shards."""
    return f"{number} {of}" if number == 1 else f"{number} {of}s"
