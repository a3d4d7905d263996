"""A process that stalls, is replaced and wakes up publishes and commits nothing more."""

import random
import time

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.process import ANYWHERE
from tocsin.pipelines.runtime.telemetry.failpoints import POINTS

pytestmark = pytest.mark.crash
STEPPING = [p for p in POINTS if p.startswith(("alerts.", "checkpoint."))]
TAKEOVER = [p for p in POINTS if p.startswith("takeover.")]


def test_one_that_stalled_between_two_steps_of_a_commit_ends_without_another_word(make_job: MakeJob) -> None:
    rng, job = random.Random(5), make_job()
    with job.load():
        worker = job.start()
        for point in [*STEPPING, ANYWHERE]:
            rows, alerts = worker.fall(point, "SIGSTOP")
            assert rows > 0, point
            assert alerts > 0, point
            zombie, worker = worker, job.replace()
            time.sleep(rng.uniform(0, 0.3))
            zombie.wake()
            assert zombie.ended() == 1, point
            assert "Fenced: " in zombie.said, zombie.said
            assert worker.process.is_alive(), f"{point}: {worker.said}\nthe zombie: {zombie.said}"
    job.finish(worker)
    assert job.differences() == []
    for where, epochs in job.epochs().items():
        assert epochs == sorted(epochs), f"{where}: an older owner wrote after a newer one"
        assert epochs[-1] == len(STEPPING) + 2, where


@pytest.mark.slow  # its sibling above stays in the suite
def test_one_that_stalled_in_its_takeover_leaves_every_row_and_alert_there_once(make_job: MakeJob) -> None:
    job = make_job()
    with job.load():
        worker = job.start()
        for point in TAKEOVER:
            worker.fall(ANYWHERE)
            zombie = job.start(**{point.replace(".", "_"): "SIGSTOP"})
            zombie.fell(point)
            worker = job.replace()
            zombie.wake()
            assert zombie.ended() == 1, point  # fenced, or its reads before and after the stall differ
            worker.kill()  # if it woke before it owned the table, it has fenced its successor
            worker = job.start()
    job.finish(worker)
    assert job.differences() == []
