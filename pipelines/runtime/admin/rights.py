"""The rights that users of Kafka need, by what they do, and the commands that grant them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from tocsin.pipelines.runtime.declare import names


@dataclass(frozen=True)
class Right:
    """One right. Kafka adds `Describe` to those that read, write or create.

    Args:
        operation: as `kafka-acls` names it, such as `Read`.
        kind: of the resource: `topic`, `group` or `transactional-id`.
        name: the resource's name, or how it begins.
        prefixed: whether the name is a beginning.
    """

    operation: str
    kind: str
    name: str
    prefixed: bool = False


@dataclass(frozen=True)
class Subject:
    """The pipeline that rights are for.

    Args:
        name: the pipeline's.
        topic: its input.
        sinks: names of its alert sinks.
        table: whether its alerts are written to the table `alerts`.
        shadow: whether challengers of its model run in its shadow.
        labels: whether its labels are written to a table.
        context: whether its rows are joined with its context.
    """

    name: str
    topic: str
    sinks: tuple[str, ...] = ()
    table: bool = True
    shadow: bool = False
    labels: bool = False
    context: bool = False


def _run(subject: Subject) -> Iterator[Right]:
    """Rights of the user of `[kafka]`, who runs the pipeline."""
    alerts = names.alert_topic(subject.name)
    yield from _shards(subject.name, subject.topic)
    yield from _topic(alerts, "Read", "Write", "Create", "DescribeConfigs")
    yield from _topic(names.dead_letter_topic(subject.topic), "Read")
    if subject.table:
        yield from _shards(alerts, alerts)
    for sink in subject.sinks:
        yield Right("Read", "group", names.sink_group(subject.name, sink))
    tables = {names.label_topic(subject.name): subject.labels, names.context_topic(subject.name): subject.context}
    for name in (name for name, is_written in tables.items() if is_written):
        yield from _shards(name, name)
        yield from _topic(name, "Create")
    if subject.shadow:
        shadows = names.shadow(subject.name)
        for operation in ("Read", "Write", "Create", "DescribeConfigs"):
            yield Right(operation, "topic", names.journal_topic(shadows), prefixed=True)
        yield Right("Write", "transactional-id", shadows, prefixed=True)
        yield Right("Read", "group", names.lag_group(shadows), prefixed=True)


def _shards(pipeline: str, topic: str) -> Iterator[Right]:
    """Rights with which shards read a topic, without those for alerts."""
    yield from _topic(topic, "Read", "DescribeConfigs")
    yield from _topic(names.dead_letter_topic(topic), "Write", "Create", "DescribeConfigs")
    yield from _topic(names.journal_topic(pipeline), "Read", "Write", "Create", "DescribeConfigs")
    yield Right("Write", "transactional-id", f"{pipeline}/", prefixed=True)
    yield Right("Read", "group", names.lag_group(pipeline))


def _feed(subject: Subject) -> Iterator[Right]:
    yield from _topic(subject.topic, "Write")


def _subscribe(subject: Subject) -> Iterator[Right]:
    yield from _topic(names.alert_topic(subject.name), "Read")


def _acknowledge(subject: Subject) -> Iterator[Right]:
    yield from _topic(names.alert_topic(subject.name), "Read", "Write")


def _label(subject: Subject) -> Iterator[Right]:
    yield from _topic(names.label_topic(subject.name), "Write")


def _plan(subject: Subject) -> Iterator[Right]:
    yield from _topic(names.context_topic(subject.name), "Write")


def _replay(subject: Subject) -> Iterator[Right]:
    yield from _topic(names.dead_letter_topic(subject.topic), "Read")
    yield from _topic(subject.topic, "Write")
    yield from _topic(names.REPLAYED, "Read", "Write", "Create")
    yield Right("Write", "transactional-id", names.replay_id(names.dead_letter_topic(subject.topic)))


def _topic(name: str, *operations: str) -> Iterator[Right]:
    yield from (Right(operation, "topic", name) for operation in operations)


ROLES: dict[str, Callable[[Subject], Iterator[Right]]] = {
    "run": _run,
    "feed": _feed,
    "subscribe": _subscribe,
    "acknowledge": _acknowledge,
    "label": _label,
    "plan": _plan,
    "replay": _replay,
}
"""What a user of Kafka does. `run` is the user of `[kafka]`; the other ones may be people's own users."""


def rights(role: str, subject: Subject) -> list[Right]:
    """The fewest rights that a role needs, each once."""
    return [*dict.fromkeys(ROLES[role](subject))]


def commands(granted: Iterable[Right], principal: str, bootstrap_servers: str) -> list[str]:
    """The calls of `kafka-acls` that grant rights, one a resource.

    Args:
        principal: such as `User:tocsin`.
    """
    start = ["kafka-acls", "--bootstrap-server", bootstrap_servers, "--add", "--allow-principal", principal]
    calls = []
    ordered = sorted(granted, key=lambda r: (r.kind, r.name, r.prefixed))
    for (kind, name, prefixed), same in groupby(ordered, lambda r: (r.kind, r.name, r.prefixed)):
        operations = [part for right in same for part in ("--operation", right.operation)]
        pattern = ["--resource-pattern-type", "prefixed"] if prefixed else []
        calls.append(shlex.join([*start, *operations, f"--{kind}", name, *pattern]))
    return calls
