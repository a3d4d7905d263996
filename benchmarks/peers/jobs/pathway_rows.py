"""Pathway: the mean over each engine's last 30 readings, by a function of our own for each of its batches."""

from collections import defaultdict, deque

import parquet_files
import pathway as pw
from pathway_readings import values

LENGTH = 30


class Windows(pw.io.python.ConnectorObserver):
    """A Parquet file for each batch."""

    def __init__(self):
        self._windows, self._batch = defaultdict(lambda: deque(maxlen=LENGTH)), []

    def on_change(self, key, row, time, is_addition):
        self._batch.append((row["cycle"], row["unit"], row["value"]))

    def on_time_end(self, time):
        rows = []
        for cycle, unit, value in sorted(self._batch):  # a batch comes in no order
            window = self._windows[unit]
            window.append(value)
            if len(window) == LENGTH:
                rows.append({"unit": unit, "cycle": cycle, "mean": sum(window) / LENGTH})
        self._batch = []
        if rows:
            parquet_files.write(rows)


pw.io.python.write(values, Windows())
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
