"""Pathway: the readings of the topic, each with the mean of its sensors."""

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
