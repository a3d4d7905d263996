"""Pathway: the mean over each engine's last 30 readings."""

import os

import pathway as pw
from pathway_readings import values

windows = values.windowby(pw.this.cycle, window=pw.temporal.sliding(hop=1, duration=30), instance=pw.this.unit)
means = windows.reduce(
    unit=pw.this._pw_instance,
    cycle=pw.reducers.max(pw.this.cycle),
    mean=pw.reducers.avg(pw.this.value),
    readings=pw.reducers.count(),
)
full = means.filter(pw.this.readings == 30)
pw.io.csv.write(full, f"{os.environ['OUT']}/rows.csv")  # what it writes to Delta Lake needs a licence key
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
