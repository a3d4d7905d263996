"""What a person does about an alert: acknowledge or silence it. Each is an event of its own on the pipeline's alert topic."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import polars as pl

from tocsin.pipelines.runtime.control.deployment import ALERTS
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.alert_topic import publish
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.lake.delta import exists
from tocsin.pipelines.runtime.lake.storage import Lake

NAME_LIMIT, REASON_LIMIT = 100, 500
"""Most characters of a person's name and of a reason."""


@dataclass(frozen=True)
class PublishedAlert:
    """An alert and the partition of its topic that holds it."""

    alert: Alert
    partition: int


def act(
    published: PublishedAlert,
    transition: Literal["acknowledged", "silenced"],
    *,
    by: str,
    reason: str,
    now: datetime,
    until: datetime | None = None,
) -> Alert:
    """The event for what a person did about an alert.

    It has the alert's asset, rule, severity and evidence. It has an id of its own, because subscribers take two events with one
    id for the same event; `about` is the alert's id.

    Args:
        by: the person; one line.
        reason: one line.
        until: when a mute ends; it becomes `silenced_until` of the evidence.

    Raises:
        ConfigError: the alert is not a raised one, or name or reason is empty or too long.
    """
    alert = published.alert
    if alert.transition != "raised":
        raise ConfigError(
            f"alert {alert.id} of {alert.pipeline}: expected one that was raised, got {alert.transition}; name the raised alert"
        )
    by, reason = _line("by", by, NAME_LIMIT), _line("reason", reason, REASON_LIMIT)
    identity = orjson.dumps([alert.id, transition, by, reason, now.isoformat()])
    more = {} if until is None else {"silenced_until": until.isoformat()}
    return replace(
        alert,
        id=hashlib.sha256(identity).hexdigest()[:32],
        transition=transition,
        time=now,
        data={**alert.data, **more},
        about=alert.id,
        by=by,
        reason=reason,
    )


def acknowledge(options: Mapping[str, Any], published: PublishedAlert, *, by: str, reason: str) -> Alert:
    """Publish that a person acknowledges an alert; see `act` and `publish`."""
    event = act(published, "acknowledged", by=by, reason=reason, now=datetime.now(UTC))
    publish(options, event, published.partition)
    return event


def find_alert(options: Mapping[str, Any], lake: Lake, pipeline: str, id: str) -> PublishedAlert:
    """A pipeline's alert: from the table `alerts`, or from the topic if it is not in the table yet.

    Args:
        id: its `ce_id`, or the first characters of it if no other alert begins so; six at least.

    Raises:
        ConfigError: there is no such alert, or there are several.
        Unavailable: Kafka does not answer.
    """
    where = f"alert {id} of {pipeline}"
    if not re.fullmatch(r"[0-9a-f]{6,32}", id):
        raise ConfigError(f"{where}: expected 6 to 32 hexadecimal digits; see `tocsin alerts {pipeline} --json`")
    found = _in_table(lake, pipeline, id)
    if len(id) < 32 or not found:  # the topic may hold another alert that begins so
        found |= _in_topic(options, pipeline, id)
    if len(found) != 1:
        got = f"{len(found)}: {', '.join(sorted(found)[:3])}" if found else "none"
        raise ConfigError(f"{where}: expected one alert, got {got}; see `tocsin alerts {pipeline} --json`")
    return found.popitem()[1]


def _in_topic(options: Mapping[str, Any], pipeline: str, id: str) -> dict[str, PublishedAlert]:
    found = dict[str, PublishedAlert]()
    for record in clients.committed(options, [names.alert_topic(pipeline)]):
        attributes = dict(record.headers)
        if (attributes.get("ce_id") or b"").startswith(id.encode()):
            alert = Alert.read(record.headers, record.value)
            found[alert.id] = PublishedAlert(alert, record.partition)
    return found


def _in_table(lake: Lake, pipeline: str, id: str) -> dict[str, PublishedAlert]:
    if not exists(lake, ALERTS):
        return {}
    is_it = (pl.col("pipeline") == pipeline) & pl.col("id").str.starts_with(id)
    rows = lake.scan(ALERTS).filter(is_it, pl.col("transition") == "raised").collect()
    return {row["id"]: from_row(row) for row in rows.iter_rows(named=True)}


def from_row(row: Mapping[str, Any]) -> PublishedAlert:
    """An alert from its row of the table `alerts`. Tables that an earlier version wrote lack some columns."""
    data = orjson.loads(row["data"])
    alert = Alert(
        id=row["id"],
        pipeline=row["pipeline"],
        rule=row["rule"],
        severity=row["severity"],
        transition=row["transition"],
        key=row["key"],
        time=row["event_time"],
        data={name: value for name, value in data.items() if name not in ("rule", "severity")},
        about=row.get("about") or "",
        by=row.get("by") or "",
        reason=row.get("reason") or "",
        traceparent=row.get("traceparent") or "",
    )
    return PublishedAlert(alert, row["partition"])


def _line(name: str, text: str, limit: int) -> str:
    """A text on one line, without control characters."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    if not 0 < len(line) <= limit:
        raise ConfigError(f"{name}: expected 1 to {limit} characters, got {len(line)}; correct it")
    return line
