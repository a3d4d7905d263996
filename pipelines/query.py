"""The read API: result tables, SQL over them with Polars, and alerts."""

from __future__ import annotations

import logging
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from polars.exceptions import PolarsError
from pyarrow import fs

from tocsin.pipelines.runtime import Alert, ConfigError, Settings, Unavailable
from tocsin.pipelines.runtime.lake.delta import exists
from tocsin.pipelines.runtime.lake.storage import Lake

if TYPE_CHECKING:
    from kafka import KafkaConsumer

log = logging.getLogger(__name__)
ALERTS = "alerts."
REFRESH_S = 5.0
"""Seconds after which a subscriber looks for new alert topics."""


def results(pipeline: str, *, lake: Lake | Path | str | None = None, shadow: bool | None = False) -> pl.LazyFrame:
    """A pipeline's results as of the last commit. The frame is lazy: rows are read when it is collected.

    Args:
        lake: the lake to read; None: the settings'.
        shadow: the rows of models that ran in the pipeline's shadow, in place of its own; None: both.

    Raises:
        Unavailable: the table does not exist yet.
    """
    where = _lake(lake)
    if not exists(where, pipeline):
        existing = ", ".join(tables(where)) or "none"
        raise Unavailable(
            f"results of {pipeline}: expected a table in {where.place()}, got {existing}; start it: `tocsin up {pipeline}`"
        )
    return where.scan(pipeline, shadow=shadow)


def query(sql: str, *, lake: Lake | Path | str | None = None, limit: int | None = None) -> pl.DataFrame:
    """Run Polars SQL over the lake's tables; each table has the name of its pipeline, and `NAME.shadow` is its shadows' rows.

    Args:
        lake: the lake to read; None: the settings'.
        limit: the most rows of the answer; None: all.

    Raises:
        ConfigError: the SQL is wrong, or names a table or column that does not exist.
    """
    where = _lake(lake)
    scans = {name: where.scan(name) for name in tables(where)}
    scans |= {f"{name}.shadow": where.scan(name, shadow=True) for name in scans if where.has_shadow(name)}
    try:
        answer = pl.SQLContext(scans).execute(sql, eager=False)
        return (answer if limit is None else answer.head(limit)).collect()
    except PolarsError as reason:
        existing = ", ".join(scans) or "none"
        # Polars' now() is local time without a zone. Comparing it with our UTC columns fails; a cast would shift it.
        hint = "write times as text, in UTC: '2026-01-31 12:00:00'" if "Datetime" in str(reason) else ""
        raise ConfigError(
            f"query in {where.place()}: {str(reason).splitlines()[0]}; {hint or f'the tables are: {existing}'}"
        ) from reason


def alerts(
    pipeline: str | None = None,
    *,
    kafka: Mapping[str, Any] | None = None,
    follow: bool = False,
    since: Literal["earliest", "latest"] = "earliest",
) -> Iterator[Alert]:
    """Read alerts, in order within each partition. Alerts of uncommitted transactions are never returned.

    Args:
        pipeline: whose alerts; None: of all pipelines.
        kafka: options of kafka-python's clients; None: the settings'.
        follow: wait for new alerts; otherwise stop at the log's current end.
        since: where to begin.

    Raises:
        Unavailable: Kafka does not answer, or the pipeline has no alert topic. With `follow`, a missing topic is waited for.
    """
    from tocsin.pipelines.runtime.kafka import clients

    options = Settings.load().kafka.client_options() if kafka is None else kafka
    with closing(clients.consumer(options)) as consumer:
        ends = _assign(consumer, pipeline, since)
        if pipeline and not ends and not follow:
            raise Unavailable(
                f"alerts of {pipeline}: expected topic {ALERTS}{pipeline} at {options.get('bootstrap_servers')}, "
                f"got none; start it: `tocsin up {pipeline}`"
            )
        refreshed = time.monotonic()
        while follow or any(consumer.position(p) < end for p, end in ends.items()):
            for records in consumer.poll(500).values():
                for record in records:
                    try:
                        yield Alert.read(record.headers, record.value)
                    except (KeyError, ValueError, TypeError) as reason:
                        place = f"{record.topic}[{record.partition}]@{record.offset}"
                        log.warning("%s: expected an alert, got %r; skipping it", place, reason)
            if follow and time.monotonic() - refreshed > REFRESH_S:
                _assign(consumer, pipeline, "earliest")  # read a topic that was created meanwhile from its start
                refreshed = time.monotonic()


def _assign(consumer: KafkaConsumer, pipeline: str | None, since: str) -> dict[Any, int]:
    """Assign alert partitions that are not assigned yet; returns the current end offset of each of them."""
    from kafka import TopicPartition

    name_pattern = re.escape(pipeline) if pipeline else r".+(?<!\.dlq)"
    topics = [t for t in consumer.topics() if re.fullmatch(re.escape(ALERTS) + name_pattern, t)]
    existing = {TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()}
    new = existing - consumer.assignment()
    if not new:
        return {}
    consumer.assign([*consumer.assignment(), *new])
    ends = consumer.end_offsets([*new])
    starts = consumer.beginning_offsets([*new]) if since == "earliest" else ends
    for partition, offset in starts.items():
        consumer.seek(partition, offset)
    return ends


def _lake(lake: Lake | Path | str | None) -> Lake:
    if isinstance(lake, Lake):
        return lake
    return Settings.load().lake.open() if lake is None else Lake(str(lake))


def tables(lake: Lake) -> list[str]:
    """Names of the folders that hold a Delta log."""
    files = lake.files
    folders = [f.path for f in files.get_file_info(fs.FileSelector("", allow_not_found=True))]
    logs = files.get_file_info([posixpath.join(f, "_delta_log") for f in folders])
    return [f for f, info in sorted(zip(folders, logs, strict=True)) if info.type == fs.FileType.Directory]
