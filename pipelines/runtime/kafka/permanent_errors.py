"""Kafka errors that a retry does not fix, and what a person has to do about each."""

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
        "to log in",
        "correct the login in [kafka]; `tocsin check` names what is wrong with it",
    ),
    (
        (kafka_errors.UnsupportedCodecError, kafka_errors.UnsupportedCompressionTypeError),
        "a compression codec that is installed here",
        "install lz4, python-snappy and zstandard where workers run; `tocsin check` tries each",
    ),
    (
        (
            kafka_errors.UnsupportedVersionError,
            kafka_errors.UnrecognizedBrokerVersion,
            kafka_errors.UnsupportedForMessageFormatError,
        ),
        "a broker that supports this request",
        "use a newer broker, or raise the topic's message format",
    ),
    (
        (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        "a topic that accepts a record of this size",
        "raise max.message.bytes of the topic, or message.max.bytes of the broker",
    ),
    (
        (kafka_errors.InvalidRecordError, kafka_errors.InvalidTimestampError),
        "a topic that accepts this record",
        "correct the topic's cleanup.policy and message.timestamp settings; `tocsin check` checks them",
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
        "correct [kafka], or the named setting of the broker or topic; `tocsin check` checks them",
    ),
)
"""Kinds of errors, what was expected instead, and what to do. All other errors may be transient and are retried."""


def permanent(reason: BaseException, where: str) -> Refused | None:
    """The error to stop with; None if a retry may succeed.

    Args:
        where: the operation and its target; the message begins with it.
    """
    for found in _kafka_errors(reason):
        # For an earlier call's failure, kafka-python raises a bare KafkaError that names the cause only in its text.
        named = [kind for name in re.findall(r"\w+", str(found)) if isinstance(kind := _error_class(name), type)]
        for kind in [type(found), *named]:
            for kinds, expected, advice in PERMANENT:
                if issubclass(kind, kinds):
                    text = " ".join(str(found).split())
                    detail = text if kind.__name__ in text else f"{kind.__name__}: {text}".removesuffix(": ")
                    return Refused(f"{where}: expected {expected}, got {detail}; {advice}")
    return None


def _kafka_errors(reason: BaseException | None) -> Iterator[KafkaError]:
    """The Kafka errors among an error and its causes. Other errors only quote these in their text."""
    while reason is not None:
        if isinstance(reason, KafkaError):
            yield reason
        reason = reason.__cause__


def _error_class(name: str) -> type | None:
    kind = getattr(kafka_errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, KafkaError) else None
