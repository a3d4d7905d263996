"""Kafka's errors that stay however often a call is repeated, and what a person has to do about each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare.errors import Refused

PERMANENT: Sequence[tuple[tuple[type[KafkaError], ...], str, str]] = (
    (
        (kafka_errors.AuthorizationError,),
        "the right to do this",
        "grant it to this user with kafka-acls; `tocsin check` names what is missing",
    ),
    (
        (
            kafka_errors.SaslAuthenticationFailedError,
            kafka_errors.UnsupportedSaslMechanismError,
            kafka_errors.IllegalSaslStateError,
            kafka_errors.DelegationTokenExpiredError,
        ),
        "to be let in",
        "correct the login in [kafka]; `tocsin check` names what is wrong with it",
    ),
    (
        (kafka_errors.UnsupportedCodecError, kafka_errors.UnsupportedCompressionTypeError),
        "a compression that can be read and written here",
        "install lz4, python-snappy and zstandard where workers run; `tocsin check` tries each",
    ),
    (
        (
            kafka_errors.UnsupportedVersionError,
            kafka_errors.UnrecognizedBrokerVersion,
            kafka_errors.UnsupportedForMessageFormatError,
        ),
        "a broker that knows this request",
        "use a newer broker, or raise the topic's message format",
    ),
    (
        (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        "a topic that takes a record of this size",
        "raise max.message.bytes of the topic, or message.max.bytes of the broker",
    ),
    (
        (kafka_errors.InvalidRecordError, kafka_errors.InvalidTimestampError),
        "a topic that takes this record",
        "correct the topic's cleanup.policy and message.timestamp settings; `tocsin check` looks at them",
    ),
    (
        (
            kafka_errors.KafkaConfigurationError,
            kafka_errors.IllegalArgumentError,
            kafka_errors.InvalidConfigurationError,
            kafka_errors.InvalidTransactionTimeoutError,
            kafka_errors.InvalidRequiredAcksError,
            kafka_errors.InvalidTopicError,
            kafka_errors.InvalidGroupIdError,
            kafka_errors.InvalidPartitionsError,
            kafka_errors.InvalidReplicationFactorError,
            kafka_errors.PolicyViolationError,
            kafka_errors.SecurityDisabledError,
        ),
        "settings that Kafka accepts",
        "correct [kafka], or the setting of the broker or topic that is named; `tocsin check` looks at them",
    ),
)
"""Kinds of errors, what was expected instead, and what to do. All others may pass: they are tried again."""


def permanent(reason: BaseException, where: str) -> Refused | None:
    """The error to stop with, or None where another try may succeed.

    Args:
        where: what was being done, to what; the line begins with it.
    """
    for found in _kafka_errors(reason):
        # kafka-python raises a bare KafkaError for what an earlier call failed of, and names that in the text alone.
        named = [kind for name in re.findall(r"\w+", str(found)) if isinstance(kind := _named(name), type)]
        for kind in [type(found), *named]:
            for kinds, expected, do in PERMANENT:
                if issubclass(kind, kinds):
                    text = " ".join(str(found).split())
                    said = text if kind.__name__ in text else f"{kind.__name__}: {text}".removesuffix(": ")
                    return Refused(f"{where}: expected {expected}, got {said}; {do}")
    return None


def _kafka_errors(reason: BaseException | None) -> Iterator[KafkaError]:
    """An error and its causes, of Kafka's alone: texts of others quote these."""
    while reason is not None:
        if isinstance(reason, KafkaError):
            yield reason
        reason = reason.__cause__


def _named(name: str) -> type | None:
    kind = getattr(kafka_errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, KafkaError) else None
