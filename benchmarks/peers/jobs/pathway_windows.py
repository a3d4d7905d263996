"""Pathway: the mean over each engine's last 30 readings."""

import os

import pathway as pw

SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
Reading = pw.schema_from_types(unit=int, cycle=int, **dict.fromkeys(SENSORS, float))

readings = pw.io.kafka.read(
    {"bootstrap.servers": os.environ["KAFKA"], "group.id": os.environ["OUT"], "auto.offset.reset": "earliest"},
    topic=os.environ["TOPIC"],
    format="json",
    schema=Reading,
)
values = readings.select(pw.this.unit, pw.this.cycle, value=sum(readings[s] for s in SENSORS) / len(SENSORS))
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
