"""A broker that counts a transaction as complete but does not end it: its alerts are published with its journal record, once."""

import pytest

from tests.crash.broker_faults import FAULTS, UNVERIFIED, ended_only_in
from tests.crash.conftest import MakeJob
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.publisher import Message, Publisher


@pytest.fixture(scope="module")
def unverified(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A broker that does not check whether a record's partition belongs to its transaction."""
    with KafkaServer(data=tmp_path_factory.mktemp("kafka"), heap="256m", more=UNVERIFIED) as server:
        yield server


@pytest.mark.parametrize("fault", FAULTS)
def test_each_row_and_alert_is_there_once(unverified: KafkaServer, make_job: MakeJob, fault: str) -> None:
    job = make_job(unverified.bootstrap_servers)
    with job.load(rate=300):
        worker = job.start(flaw=fault)
        until(lambda: not worker.process.is_alive(), "the fault", worker=worker)
        worker = job.start()
    job.finish(worker)
    assert job.differences() == []


def test_an_owner_that_lives_on_ends_it_after_a_slow_transaction(
    unverified: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = {"bootstrap_servers": unverified.bootstrap_servers}
    with clients.admin(kafka) as admin:
        admin.create_topics({"alerts.x": {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)

    def publish(partition: int, value: bytes) -> None:
        publisher.publish(lambda: [Message("alerts.x", b"k", value, partition=partition)], {}, lambda: None)
        publisher.settle(wait=True)

    publisher = Publisher(kafka, "x/0", group="g")
    with ended_only_in(publisher, lambda _: False):
        publish(0, b"left open")
    publish(1, b"quick")
    assert [record.value for record in clients.committed(kafka, ["alerts.x"])] == [b"quick"]
    with ended_only_in(publisher, lambda _: False):
        publish(0, b"left open, too")
    monkeypatch.setattr("tocsin.pipelines.runtime.kafka.publisher.SLOW_S", 0)
    publish(1, b"slow")
    publisher.close()
    found = sorted(record.value for record in clients.committed(kafka, ["alerts.x"]))
    assert found == [b"left open", b"left open, too", b"quick", b"slow"]
