"""A broker that counts a transaction as complete but does not end it: its alerts are published with its journal record, once."""

from contextlib import closing
from functools import partial

import pytest
from kafka import TopicPartition

from tests.crash.broker_faults import FAULTS, UNVERIFIED, ended_only_in
from tests.crash.conftest import MakeJob
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON, LIBRDKAFKA
from tocsin.pipelines.runtime.kafka.native_transactions import NativeTransactions
from tocsin.pipelines.runtime.kafka.publisher import Publisher
from tocsin.pipelines.runtime.kafka.python_transactions import PythonTransactions
from tocsin.pipelines.runtime.kafka.transactions import Message


@pytest.fixture(scope="module")
def unverified(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A broker that does not check whether a record's partition belongs to its transaction."""
    with KafkaServer(data=tmp_path_factory.mktemp("kafka"), heap="256m", more=UNVERIFIED) as server:
        yield server


@pytest.mark.parametrize("client", [LIBRDKAFKA, pytest.param(KAFKA_PYTHON, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_row_and_alert_is_there_once(unverified: KafkaServer, make_job: MakeJob, fault: str, client: str) -> None:
    job = make_job(unverified.bootstrap_servers)
    with job.load(rate=300):
        worker = job.start(flaw=fault, kafka={CLIENT: KAFKA_PYTHON})
        until(lambda: not worker.process.is_alive(), "the fault", worker=worker)
        start = partial(job.start, kafka={CLIENT: client})
        worker = job.drain(start(), restart=start)  # librdkafka begins anew after it has ended something
    job.finish(worker)
    assert job.differences() == []


def test_an_owner_that_lives_on_ends_it_after_a_slow_transaction(
    unverified: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = {"bootstrap_servers": unverified.bootstrap_servers, CLIENT: KAFKA_PYTHON}
    with clients.admin(kafka) as admin:
        admin.create_topics({"alerts.x": {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)

    def publish(partition: int, value: bytes) -> None:
        publisher.publish(lambda: [Message("alerts.x", b"k", value, partition=partition)], {}, lambda: None)
        publisher.settle(wait=True)

    publisher = Publisher(kafka, "x/0", group="g")
    producer = publisher._transactions
    assert isinstance(producer, PythonTransactions)
    with ended_only_in(producer, lambda _: False):
        publish(0, b"left open")
    publish(1, b"quick")
    assert [record.value for record in clients.committed(kafka, ["alerts.x"])] == [b"quick"]
    with ended_only_in(producer, lambda _: False):
        publish(0, b"left open, too")
    monkeypatch.setattr("tocsin.pipelines.runtime.kafka.publisher.SLOW_S", 0)
    publish(1, b"slow")
    publisher.close()
    found = sorted(record.value for record in clients.committed(kafka, ["alerts.x"]))
    assert found == [b"left open", b"left open, too", b"quick", b"slow"]


def test_an_owner_that_cannot_end_it_starts_again(unverified: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.pipelines.runtime.kafka.native_transactions.CONFIRM_S", 0.3)
    kafka = {"bootstrap_servers": unverified.bootstrap_servers}
    with clients.admin(kafka) as admin:
        admin.create_topics({"alerts.y": {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    with closing(PythonTransactions(kafka, "y/0", group="g")) as earlier:
        earlier.begin()
        with ended_only_in(earlier, lambda _: False):
            earlier.commit([Message("alerts.y", b"k", b"left open", partition=0)], {})
    with closing(NativeTransactions(kafka, "y/0", group="g")) as producer:
        producer.begin()
        touched = producer.commit([Message("alerts.y", b"k", b"ended", partition=1)], {})
        producer.confirm(touched)
        with pytest.raises(Unavailable, match=r"expected the broker to end what it has committed in .*partition=0"):
            producer.confirm({*touched, TopicPartition("alerts.y", 0)})
