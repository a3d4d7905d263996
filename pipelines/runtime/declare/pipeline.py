"""A pipeline's declaration: the input, the stages, the results and the alert rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pyarrow as pa

from tocsin.pipelines.runtime.declare import columns, names
from tocsin.pipelines.runtime.declare.context import ContextTopic, Intervals
from tocsin.pipelines.runtime.declare.durations import milliseconds, size
from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.drift import DriftReference
    from tocsin.pipelines.runtime.declare.stage import Stage
    from tocsin.pipelines.runtime.declare.state import StateDelta
    from tocsin.pipelines.runtime.declare.truth import Truth

IDENTITY = pa.schema(
    [
        pa.field("_partition", pa.int32()),
        pa.field("_offset", pa.int64()),
        pa.field("_row", pa.int32()),
        pa.field("_timestamp", pa.timestamp("ms", tz="UTC")),
    ]
)
"""Columns that the runtime puts before a reading's own: its place in the topic and Kafka's timestamp."""

TUNING = (
    *("rows", "wait", "every", "size", "forget_after", "warmup", "max_skew", "max_age", "overload", "max_lag"),
    "content_type",
)
"""Options of every pipeline. The runtime applies them; a factory need not know them."""

LINEAGE = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("row", pa.int32()),
        pa.field("key", pa.string()),
        pa.field("event_time", pa.timestamp("us", tz="UTC")),
        pa.field("processed_at", pa.timestamp("us", tz="UTC")),
        pa.field("model_version", pa.string()),
    ]
)
"""Columns that the runtime puts before a result's own. A row that a timer makes has no offset and no row."""

MAX_AGE = "10000d"
"""27 years. History that is fed on purpose is rarely so old. A time in the wrong unit, or of a clock never set, always is."""

FORGET_AFTER = "30d"
"""Keys inactive for this long, and frames this old, are forgotten, unless a pipeline or its options set another value."""

RAISED, CLEARED = TRANSITIONS = ("raised", "cleared")
"""What a rule may do at a row: its alert begins or ends."""


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """Raise an alert when a condition over the result columns holds for a key.

    Args:
        when: raises the alert.
        clear: ends the alert; None: it ends as soon as `when` is false. While neither holds, the alert stays as it is.
        hold: consecutive rows of the key for which `when` must hold.
        cooldown: event time after the key's last alert of this rule during which the rule raises no other.
        data: result columns that go into the alert as its evidence; all of them when empty. Binary is written as base64, a
            decimal as text, a map as an object. Long text and binary are truncated.
    """

    name: str
    severity: str
    when: pl.Expr
    clear: pl.Expr | None = None
    hold: int = 1
    cooldown: str = "0s"
    data: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ConfigError(f"alert rule {self.name}: expected hold of at least 1 row, got {self.hold}")
        _readable(f"alert rule {self.name}: cooldown", milliseconds, self.cooldown)


@dataclass(frozen=True)
class Batch:
    """A step takes at most `rows` rows. It begins `wait` after the one before, or as soon as it has a row, whichever is later."""

    rows: int = 8192
    wait: str = "5ms"


@dataclass(frozen=True)
class Commit:
    """A checkpoint is taken after each `every`, and when uncommitted results reach `size`.

    It comes earlier at the first result after a start, and when a backlog ends, unless `every` is over a minute.
    """

    every: str = "5s"
    size: str = "64MB"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One input topic, stages in order, one results table, alert rules.

    Args:
        into: the results table's folder in the lake; several pipelines may share it. Default: `name`.
        schema: one reading. A field with `nullable=False` must be present and finite. In a nullable one whose metadata has
            `{"nan": "null"}`, NaN counts as null; elsewhere it is refused, as infinity is everywhere. A field whose metadata has
            `{"from": "header:<name>"}` is read from that record header; one with `{"from": "value"}` is the value's text.
        key: the column whose value names the asset; state is kept per (partition, key).
        results: columns of `rows.table` after the last stage that are stored; the runtime adds the lineage. Their types must
            be ones that Delta stores: see `tocsin.pipelines.runtime.declare.columns`. A field's metadata says how people see it:
            `{"unit": "ppm"}`, and `{"axis": "air"}` if plots and the live page draw it. Columns of one axis are drawn together,
            and the first one is what an asset is judged by. Default: each column of float values, on an axis of its own.
        event_time: a timestamp column of `schema`; None: the Kafka timestamp.
        unknown: "ignore" fields that `schema` does not name, or "reject" readings that have them.
        max_skew: how far an event time may be ahead of the Kafka timestamp.
        max_age: how far an event time may be behind the Kafka timestamp. The Kafka timestamp itself may be behind the machine's
            clock by as much, or by 10000 days if that is more: a log may be read long after it was written.
        overload: what happens when readings arrive faster than they can be processed. "block": nothing is skipped and the lag
            grows. "latest": readings older than `max_lag` by Kafka's timestamp are skipped, journaled and counted.
        forget_after: a key that is inactive for this long is forgotten.
        state_version: raise it when the meaning or the shape of the state changes. State of an older version is then migrated,
            or else rebuilt, or else refused.
        migrate: called with the older version and its state. Returns this version's state (`dataclasses.replace` of `cells` and
            `waiting`), or None if it cannot. Cells are `[K, ...]` tensors, one row a key, with names such as
            "0-Sorted/newest|", "1-Last/rows|data" and "1-Last/rows|count"; a missing one starts at its fill. Waiting rows have
            a reading's columns.
        warmup: how much of the log, by Kafka's timestamps, is processed to rebuild the state; its rows and alerts are dropped.
            "0s": none.
        files: result columns that are paths in the lake, each mapped to the last stage's column with that file's bytes. If
            neither is null, the file is written before its row is visible. `frames/<name>/<day>/` is kept for `forget_after`.
        truth: the labels that arrive later, and how results are scored with them; None: there are none.
        context: the intervals that its rows are joined with, such as maintenance; None: there are none. See `InContext`.
        drift: the distribution of the model's training readings. A stage `Census` counts those of the stream. None: drift is not
            looked for.
        formats: message formats that the topic may have besides JSON and Arrow; see `MessageFormat`.
        content_type: the media type of messages that have no header `content-type`.
        experimental: why its results are not to be relied on yet, printed when the pipeline starts; "": they are.
        silences: muted asset -> until when it raises no alert, ms since the epoch. A person orders it; see `Plan`.
        shadow_of: the pipeline whose table it writes to as its shadow; "": it is none.
        intervals: what is known of its context; see `Plan`.
        forgets: asset -> when a person ordered that its state be removed, ms since the epoch. A shard removes it when it adopts
            an order that it has not had before; see `Plan`.
    """

    name: str
    topic: str
    schema: pa.Schema
    key: str
    stages: Sequence[Stage]
    results: pa.Schema
    into: str = ""
    rules: Sequence[AlertRule] = ()
    event_time: str | None = None
    unknown: Literal["ignore", "reject"] = "ignore"
    max_skew: str = "1h"
    max_age: str = MAX_AGE
    overload: Literal["block", "latest"] = "block"
    max_lag: str = "30s"
    model_version: str = ""
    batch: Batch = field(default_factory=Batch)
    commit: Commit = field(default_factory=Commit)
    forget_after: str = FORGET_AFTER
    state_version: int = 1
    migrate: Callable[[int, StateDelta], StateDelta | None] | None = None
    warmup: str = "0s"
    files: Mapping[str, str] = field(default_factory=dict)
    truth: Truth | None = None
    context: ContextTopic | None = None
    drift: DriftReference | None = None
    formats: Sequence[type[Any]] = ()
    content_type: str = "application/json"
    experimental: str = ""
    shadow_of: str = ""
    silences: Mapping[str, int] = field(default_factory=dict)
    forgets: Mapping[str, int] = field(default_factory=dict)
    intervals: Intervals = field(default_factory=Intervals, compare=False, repr=False)

    def __post_init__(self) -> None:
        where = f"pipeline {self.name}"
        for name in (self.name, self.folder):  # they name topics and folders
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ConfigError(
                    f"{where}: expected a name of letters, digits, dots, dashes and underscores, got {name!r}; rename it"
                )
        if self.key not in self.schema.names or self.schema.field(self.key).nullable:
            required = [f.name for f in self.schema if not f.nullable]
            raise ConfigError(
                f"{where}: expected key to be a field that is not nullable ({required}), got {self.key!r}"
            )
        if self.event_time and self.event_time not in (
            times := [f.name for f in self.schema if pa.types.is_timestamp(f.type)]
        ):
            raise ConfigError(
                f"{where}: expected event_time to be a timestamp field ({times}), got {self.event_time!r}"
            )
        if underscored := [n for n in self.schema.names if n.startswith("_")]:
            raise ConfigError(f"{where}: field names must not start with an underscore, got {underscored}; rename them")
        alert_fields = {"rule", "severity"} if self.rules else set()  # an alert's data has them beside the results
        reserved = {*LINEAGE.names, "event_date", *alert_fields, *(() if self.shadow_of else (names.IN_SHADOW,))}
        if clash := set(self.results.names) & reserved:
            raise ConfigError(
                f"{where}: expected result columns that the runtime does not write itself, got {sorted(clash)}; "
                "rename them"
            )
        columns.check(where, self.results)
        if not (isinstance(self.batch.rows, int) and self.batch.rows > 0):
            raise ConfigError(f"{where}: expected rows per step to be at least 1, got {self.batch.rows!r}")
        if self.overload not in (policies := ("block", "latest")):
            raise ConfigError(f"{where}: expected overload to be one of {policies}, got {self.overload!r}")
        durations = {
            "max_skew": self.max_skew,
            "max_age": self.max_age,
            "max_lag": self.max_lag,
            "warmup": self.warmup,
            "wait": self.batch.wait,
            "every": self.commit.every,
        }
        for name, text in (durations | {"forget_after": self.forget_after}).items():
            _readable(f"{where}: {name}", milliseconds, text)
        _readable(f"{where}: size", size, self.commit.size)

    @property
    def folder(self) -> str:
        """The results table's folder in the lake."""
        return self.into or self.name

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic."""
        return names.dead_letter_topic(self.topic)

    @property
    def alerts(self) -> str:
        """The alert topic."""
        return names.alert_topic(self.name)

    @property
    def rings(self) -> bool:
        """Whether it publishes alerts."""
        return bool(self.rules or self.drift)

    @property
    def journal(self) -> str:
        """The compacted topic of the shards' journals, one partition a shard."""
        return names.journal_topic(self.name)

    @property
    def table(self) -> pa.Schema:
        """The results table's schema, lineage first."""
        results = [f.with_nullable(True) for f in self.results]  # rows of another version may lack it
        return pa.schema([*LINEAGE, *results, pa.field("event_date", pa.string())])


def tuned(pipeline: Pipeline, options: Mapping[str, Any]) -> Pipeline:
    """The pipeline with the options applied that an operator may set for any pipeline; see `TUNING`."""

    def pick(*names: str) -> dict[str, Any]:
        return {name: options[name] for name in names if name in options}

    batch, commit = replace(pipeline.batch, **pick("rows", "wait")), replace(pipeline.commit, **pick("every", "size"))
    others = pick("forget_after", "warmup", "max_skew", "max_age", "overload", "max_lag", "content_type")
    return replace(pipeline, batch=batch, commit=commit, **others)


def _readable(where: str, read: Callable[[str], int], text: str) -> None:
    """Raise a `ConfigError` that names the setting unless `read` parses the text."""
    try:
        read(text)
    except ConfigError as reason:
        raise ConfigError(f"{where}: {reason}") from None
