"""Tocsin with alerts, but without transactions: a switch for this benchmark alone, to see what they cost."""

from confluent_kafka import Producer

from benchmarks.peers.jobs.tocsin_alerts import pipeline
from tocsin.pipelines.runtime.kafka import librdkafka, publisher

__all__ = ["pipeline"]


class AtLeastOnce:
    """What a publisher needs of `Transactions`. It fences nobody, and a failed commit leaves what it sent."""

    def __init__(self, options, name, *, group):
        self._producer: Producer = librdkafka.producer(options, **{"linger.ms": 0})

    def begin(self):
        pass

    def commit(self, messages, positions):
        for m in messages:
            partition = -1 if m.partition is None else m.partition
            self._producer.produce(m.topic, m.value, m.key, partition, headers=list(m.headers))
        self._producer.flush()
        return set()

    def end(self, partitions, *, commit):
        pass

    def confirm(self, partitions):
        pass

    def close(self):
        self._producer.flush()


publisher.transactions = AtLeastOnce
