"""Exactly once when the broker is killed."""

from pathlib import Path

import pytest

from tests.crash.conftest import MakeJob
from tocsin.deploy.kafka.server import KafkaServer

pytestmark = [pytest.mark.crash, pytest.mark.kafka, pytest.mark.slow]


def test_each_row_and_alert_is_there_once_when_the_broker_is_killed(make_job: MakeJob, tmp_path: Path) -> None:
    with KafkaServer(data=tmp_path / "broker") as broker:
        job = make_job(broker.bootstrap_servers)
        with job.load():
            worker = job.start()
            for point in ("alerts.begin", "alerts.sent", "checkpoint.snapshot"):
                rows, alerts = worker.fall(point, "SIGSTOP")
                assert rows > 0, point
                assert alerts > 0, point
                broker.kill()
                worker.wake()
                broker.start()
                worker = job.drain(worker, restart=job.start)
        job.drain(worker, restart=job.start).stop()
        assert job.differences() == []
