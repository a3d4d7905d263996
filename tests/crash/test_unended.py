"""A broker that counts a transaction as complete but does not end it: its alerts are published with its journal record, once."""

import pytest

from tests.crash.broker_faults import FAULTS, UNVERIFIED
from tests.crash.conftest import MakeJob
from tests.crash.harness import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON, LIBRDKAFKA


@pytest.fixture(scope="module")
def unverified(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A broker that does not check whether a record's partition belongs to its transaction."""
    with KafkaServer(data=tmp_path_factory.mktemp("kafka"), heap="256m", more=UNVERIFIED) as server:
        yield server


@pytest.mark.parametrize("client", [LIBRDKAFKA, KAFKA_PYTHON])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_row_and_alert_is_there_once(unverified: KafkaServer, make_job: MakeJob, fault: str, client: str) -> None:
    job = make_job(unverified.bootstrap_servers)
    with job.load(rate=300):
        worker = job.start(flaw=fault, kafka={CLIENT: KAFKA_PYTHON})
        until(lambda: not worker.process.is_alive(), "the fault", worker=worker)
        worker = job.start(kafka={CLIENT: client})
    job.finish(worker)
    assert job.differences() == []
