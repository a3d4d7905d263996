"""Resharding: the state moves while no shard runs, and no row, alert or dead letter is lost or duplicated."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.conftest import EACH, MakeJob
from tests.crash.harness import Job, Worker
from tests.crash.process import ANYWHERE
from tests.support.waits import until
from tocsin.pipelines.runtime.telemetry.failpoints import RESHARDING

pytestmark = pytest.mark.crash


def _start(job: Job, shards: int) -> list[Worker]:
    return [job.start(shard=n, shards=shards) for n in range(shards)]


def _moved(job: Job, shards: int) -> None:
    mover = job.move(shards)
    assert mover.ended() == 0, mover.said
    assert job.shards == shards


def _gone_on(job: Job, workers: Sequence[Worker]) -> None:
    """Wait until each partition's offset in the table has advanced."""
    before = [job.stored(f"{job.topic}/{p}") for p in range(job.partitions)]
    on = lambda: all(job.stored(f"{job.topic}/{p}") > at for p, at in enumerate(before))  # noqa: E731
    until(on, "all partitions to go on", worker=workers[0])


def _finish(job: Job, workers: Sequence[Worker]) -> None:
    ends = job.ends()
    until(lambda: job.drained(ends), "all in the table", worker=workers[0])
    for worker in workers:
        worker.stop()


def test_one_shard_becomes_two_and_one_again_under_load(make_job: MakeJob) -> None:
    job = make_job(partitions=3)
    with job.load():
        workers = _start(job, 1)
        for shards in (2, 3, 1):
            _gone_on(job, workers)
            for worker in workers[1:]:
                worker.stop()
            rows, alerts = workers[0].fall(ANYWHERE)  # its alerts are ahead of its rows
            assert rows and alerts
            _moved(job, shards)
            workers = _start(job, shards)
        _gone_on(job, workers)
    _finish(job, workers)
    assert job.differences() == []
    assert not [*Path(job.lake.place("_state", job.name, "1")).iterdir()], "snapshots of a shard that is no more"


def test_a_kill_leaves_all_as_it_was_or_all_moved(make_job: MakeJob, kills: int) -> None:
    rng, job, shards = random.Random(9), make_job(), 1
    points = [*RESHARDING, *(RESHARDING if kills >= EACH else ()), "takeover.owned", "takeover.rerun"]
    with job.load():
        workers = _start(job, shards)
        for point in points:
            _gone_on(job, workers)
            workers[0].fall(ANYWHERE)
            for worker in workers:
                worker.kill()
            wanted = 3 - shards
            job.move(wanted, **{point.replace(".", "_", 1): "SIGKILL"}).fell(point)
            assert job.shards == (wanted if point == "reshard.committed" else shards), point
            if rng.random() < 0.5 or job.shards == wanted:
                shards = job.shards  # the move is given up, or complete
            else:
                _moved(job, shards := wanted)
            workers = _start(job, shards)
        _gone_on(job, workers)
    _finish(job, workers)
    assert job.differences() == []


@pytest.mark.parametrize("point", RESHARDING)
def test_a_move_that_stalls_is_overtaken_and_says_and_stores_nothing_any_more(make_job: MakeJob, point: str) -> None:
    job = make_job()
    with job.load():
        workers = _start(job, 1)
        _gone_on(job, workers)
        workers[0].fall(ANYWHERE)
        zombie = job.move(2, **{point.replace(".", "_", 1): "SIGSTOP"})
        zombie.fell(point)
        _moved(job, 2)
        workers = _start(job, 2)
        _gone_on(job, workers)
        for worker in workers:
            worker.fall("alerts.committed")  # only their journals record what they published
        zombie.wake()
        assert zombie.ended() == (0 if point == "reshard.committed" else 1), zombie.said
        assert ("Fenced: " in zombie.said) == (point != "reshard.committed"), zombie.said
        workers = _start(job, 2)
        _gone_on(job, workers)
    _finish(job, workers)
    assert job.differences() == []


def test_an_old_worker_that_stalled_or_comes_back_is_fenced(make_job: MakeJob) -> None:
    job = make_job()
    with job.load():
        zombie = job.start()
        zombie.fall("checkpoint.snapshot", "SIGSTOP")
        _moved(job, 2)
        workers = _start(job, 2)
        _gone_on(job, workers)
        zombie.wake()
        assert zombie.ended() == 1
        assert "Fenced: " in zombie.said
        again = job.start()  # still expects one shard; fences the producer of shard 0
        assert again.ended() == 1
        assert "expected 2 shards, as its table has it, got 1" in again.said
        workers[0].process.join(40)
        assert "Fenced: " in workers[0].said
        workers[0] = job.start(shard=0, shards=2)
        _gone_on(job, workers)
    _finish(job, workers)
    assert job.differences() == []


def test_an_owner_who_comes_while_it_moves_is_not_robbed(make_job: MakeJob) -> None:
    job = make_job()
    with job.load():
        worker = job.start()
        _gone_on(job, [worker])
        worker.kill()
        mover = job.move(2, reshard_written="SIGSTOP")
        mover.fell("reshard.written")
        worker = job.start()
        _gone_on(job, [worker])
        mover.wake()
        assert mover.ended() == 1
        assert "it runs somewhere; `tocsin stop` it there" in mover.said
        assert job.shards == 1
        time.sleep(0.5)
        assert worker.process.is_alive(), worker.said
    job.finish(worker)
    assert job.differences() == []
