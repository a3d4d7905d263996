"""Pathway: the mean over each engine's last 30 readings, by a function of our own for each of its batches."""

import os
import time
from collections import defaultdict, deque
from pathlib import Path

import pathway as pw
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH = 30
SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
Reading = pw.schema_from_types(unit=int, cycle=int, **dict.fromkeys(SENSORS, float))


class Windows(pw.io.python.ConnectorObserver):
    """A Parquet file for each batch."""

    def __init__(self):
        self._windows, self._batch = defaultdict(lambda: deque(maxlen=LENGTH)), []

    def on_change(self, key, row, time, is_addition):
        self._batch.append((row["cycle"], row["unit"], row["value"]))

    def on_time_end(self, _):
        rows = []
        for cycle, unit, value in sorted(self._batch):  # a batch comes in no order
            window = self._windows[unit]
            window.append(value)
            if len(window) == LENGTH:
                rows.append({"unit": unit, "cycle": cycle, "mean": sum(window) / LENGTH})
        self._batch = []
        if rows:
            path = f"{os.environ['OUT']}/{time.time_ns()}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), f"{path}.part")
            Path(f"{path}.part").rename(path)


readings = pw.io.kafka.read(
    {"bootstrap.servers": os.environ["KAFKA"], "group.id": os.environ["OUT"], "auto.offset.reset": "earliest"},
    topic=os.environ["TOPIC"],
    format="json",
    schema=Reading,
)
values = readings.select(pw.this.unit, pw.this.cycle, value=sum(readings[s] for s in SENSORS) / len(SENSORS))
pw.io.python.write(values, Windows())
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
