"""Bytewax: each hundredth reading is an alert; one at a time, as its Kafka example does."""

import os
from datetime import UTC, datetime

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow


def alert(message):
    reading = orjson.loads(message.value)
    if (reading["cycle"] + reading["unit"]) % 100:
        return None
    at = datetime.fromtimestamp(message.timestamp[1] / 1000, UTC).isoformat().encode()
    return KafkaSinkMessage(message.key, message.value, headers=[("ce_time", at), ("ce_type", b"raised")])


brokers = [os.environ["KAFKA"]]
flow = Dataflow("alerts")
messages = kop.input("in", flow, brokers=brokers, topics=[os.environ["TOPIC"]], batch_size=1)
kop.output(
    "out",
    op.filter_map("alert", messages.oks, alert),
    brokers=brokers,
    topic=os.environ["ALERTS"],
    add_config={"linger.ms": "0"},
)
