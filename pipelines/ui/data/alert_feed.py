"""Follows the alert topics into a board: first the table `alerts`, then Kafka from where the table ends."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import polars as pl
from kafka import KafkaConsumer, TopicPartition

from tocsin.pipelines.runtime import Alert
from tocsin.pipelines.runtime.admin.acknowledgement import from_row
from tocsin.pipelines.runtime.control.deployment import ALERTS
from tocsin.pipelines.runtime.declare.names import alert_topic
from tocsin.pipelines.runtime.declare.trace import TRACEPARENT
from tocsin.pipelines.runtime.engine.alerts import ACT
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.lake.delta import exists
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.logs import one_line
from tocsin.pipelines.ui.data.board import AlertBoard, AlertState

log = logging.getLogger(__name__)
POLL_MS = 500
REFRESH_S = 5.0
"""Seconds after which the feed looks for new alert topics and partitions."""
AGAIN_S = 2.0
TOPIC = re.compile(re.escape(alert_topic("")) + r".+(?<!\.dlq)")
IDENTITY = (
    "id",
    "pipeline",
    "rule",
    "severity",
    "transition",
    "key",
    "event_time",
    "topic",
    "partition",
    "offset",
    "data",
)
ORDER = ["processed_at", "topic", "partition", "offset"]
MOST = 100_000
"""Most alerts of one asset that are read."""


def recorded(lake: Lake, pipeline: str, key: str) -> list[AlertState]:
    """The alerts of one asset in the table `alerts`, the newest first. Newer ones may be in the topic alone."""
    board = AlertBoard(keep=MOST)
    if exists(lake, ALERTS):
        own = _rows(lake).filter(pl.col("pipeline") == pipeline, pl.col("key") == key)
        for row in own.sort(ORDER).collect().iter_rows(named=True):
            board.add(from_row(row).alert, row["partition"])
    return board.of(pipeline, key)


def _rows(lake: Lake) -> pl.LazyFrame:
    """The table `alerts`. One of an earlier version lacks columns."""
    table = lake.scan(ALERTS)
    names = table.collect_schema().names()
    return table.select([name for name in (*IDENTITY, *ACT, TRACEPARENT, "processed_at") if name in names])


class AlertFeed:
    """Reads all alert topics in one thread and puts every committed event on the board.

    Guarantee: events of one partition are put on the board in their order; one of an open or aborted transaction never is. After
    an error the feed reads on from where it was. What is older than both the table and the topics is not shown.

    Args:
        kafka: options of kafka-python's clients.
        keep: newest events to begin with, of the table or of each partition.
    """

    def __init__(self, kafka: Mapping[str, Any], lake: Lake, board: AlertBoard, keep: int = 3000) -> None:
        self._kafka, self._lake, self._board, self._keep = kafka, lake, board, keep
        self._stop = threading.Event()
        self._positions: dict[TopicPartition, int] = {}
        self.problem = ""
        """Why no new alerts come, in one line; "" if they do."""
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        loaded = False
        while not self._stop.is_set():
            try:
                if not loaded:
                    self._load()
                loaded = True
                self._follow()
            except Exception as reason:  # retry whatever Kafka, the lake and their libraries raise
                if (line := one_line(reason)) != self.problem:
                    log.warning("alerts: %s; trying again", line)
                self.problem = line
                self._stop.wait(AGAIN_S)

    def _load(self) -> None:
        """Put the table's newest events on the board, and older ones that are still raised."""
        if not exists(self._lake, ALERTS):
            return
        rows = _rows(self._lake)
        rules = rows.drop("data").filter(pl.col("transition").is_in(["raised", "cleared"]))  # evidence may be large
        last = rules.group_by("pipeline", "key", "rule").agg(pl.col("id", "transition").sort_by(ORDER).last())
        still_raised = rows.join(last.filter(pl.col("transition") == "raised"), on="id", how="semi")
        newest = rows.top_k(self._keep, by=ORDER)
        found = pl.concat([still_raised, newest]).unique(["topic", "partition", "offset", "id"]).sort(ORDER).collect()
        for row in found.iter_rows(named=True):
            published = from_row(row)
            self._board.add(published.alert, published.partition)
        ends = (
            rows.group_by("topic", "partition").agg(pl.col("offset").sort_by("processed_at", "offset").last()).collect()
        )
        self._positions |= {TopicPartition(topic, p): offset + 1 for topic, p, offset in ends.iter_rows()}

    def _follow(self) -> None:
        with closing(clients.consumer(self._kafka)) as consumer:
            refresh_at = 0.0
            while not self._stop.is_set():
                if time.monotonic() > refresh_at:
                    self._assign(consumer)
                    refresh_at = time.monotonic() + REFRESH_S
                    self.problem = "" if consumer.assignment() else "there is no alert topic yet"
                if not consumer.assignment():
                    self._stop.wait(POLL_MS / 1000)
                    continue
                for tp, records in consumer.poll(POLL_MS).items():
                    for record in records:
                        self._take(record)
                    self._positions[tp] = consumer.position(tp)

    def _take(self, record: Any) -> None:
        try:
            alert = Alert.read(record.headers, record.value)
        except (KeyError, ValueError, TypeError) as reason:
            place = f"{record.topic}[{record.partition}]@{record.offset}"
            log.warning("%s: expected an alert, got %r; skipping it", place, reason)
            return
        self._board.add(alert, record.partition)

    def _assign(self, consumer: KafkaConsumer) -> None:
        """Assign new partitions. Each begins where the table ends, or with its newest events."""
        topics = [topic for topic in consumer.topics() if TOPIC.fullmatch(topic)]
        existing = {TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()}
        assigned, new = consumer.assignment(), existing - consumer.assignment()
        if not new and assigned <= existing:
            return
        positions = {tp: consumer.position(tp) for tp in assigned & existing}
        consumer.assign([*existing])
        begins, ends = (consumer.beginning_offsets([*new]), consumer.end_offsets([*new])) if new else ({}, {})
        for tp in new:
            known = self._positions.get(tp)
            # A topic that was created again ends before the table's offset.
            start = known if known is not None and known <= ends[tp] else max(ends[tp] - self._keep, begins[tp])
            positions[tp] = max(start, begins[tp])
        for tp, offset in positions.items():
            consumer.seek(tp, offset)
