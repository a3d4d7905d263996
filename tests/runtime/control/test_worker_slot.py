"""A worker's slot on Ray, without a shard: which worker counts as ended, which is asked again, and that no process is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from tests.conftest import ROOT
from tests.support.idle import ERRORS, Boss, Idle
from tocsin.pipelines.runtime.control import worker_slot as place_
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.draining import drain, stop_pipeline, workers
from tocsin.pipelines.runtime.control.ray_client import NAMESPACE, actors, connect
from tocsin.pipelines.runtime.control.supervisor import Supervisor
from tocsin.pipelines.runtime.control.worker import Status
from tocsin.pipelines.runtime.control.worker_slot import Ended, WorkerSlot
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard_config import ShardId
from tocsin.pipelines.runtime.lake.storage import Lake

ID = ShardId("job", 0)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": str(ROOT)}, cpus=2)
    yield
    ray.shutdown()


def told(state: str = "running", shard: int = 0, **facts: Any) -> list[Status]:
    return [Status(ShardId("job", shard), state, "", facts, None, 0)]


def started(name: str, *said: Any) -> tuple[Any, psutil.Process]:
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
    worker = ray.remote(max_concurrency=8, **options)(Idle).remote(*(said or [told()]))
    return worker, psutil.Process(ray.get(worker.pid.remote()))


def filled(name: str, *said: Any) -> tuple[WorkerSlot, psutil.Process]:
    place = WorkerSlot(name.rpartition("/")[0])
    worker, process = started(name, *said)
    place.attach(worker)
    return place, process


def heard(place: WorkerSlot, seconds: float = 20) -> list[Status]:
    """Wait until the worker reports its shards. Returns the report."""
    give_up = time.monotonic() + seconds
    while not (known := place.poll(stuck_s=60)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return known


def heard_until_silent(place: WorkerSlot) -> None:
    """Poll the worker until it counts as ended, which raises `Ended`."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        place.poll(stuck_s=60)
        time.sleep(0.02)


@pytest.mark.parametrize("error", ERRORS)
def test_a_worker_that_cannot_be_reached_or_answers_with_an_error_is_asked_again(error: str) -> None:
    place, process = filled("job/worker-0/1", error, error, told())
    assert heard(place) == told()
    assert process.is_running()
    place.mark_ended("the test is over")
    process.wait(60)


def test_a_worker_that_never_answers_otherwise_is_ended_and_its_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_, "STALLED_S", 1.0)
    place, process = filled("job/worker-0/2", told(), "own")
    heard(place)
    with pytest.raises(Ended, match="it has not answered for 1 s; its last answer: RuntimeError: boom"):
        heard_until_silent(place)
    place.mark_ended("it does not answer")
    process.wait(60)


def test_a_worker_that_stalls_is_ended_and_its_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_, "STALLED_S", 1.0)
    place, process = filled("job/worker-0/3")
    heard(place)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(Ended, match="it has not answered for 1 s"):
        heard_until_silent(place)
    place.mark_ended("it does not answer")
    process.wait(60)


def test_a_death_is_heard_of_at_once_with_a_reason_in_one_line() -> None:
    place, process = filled("job/worker-0/4")
    heard(place)
    process.kill()
    killed = time.monotonic()
    ray.wait([place.liveness], timeout=5)
    with pytest.raises(
        Ended, match="its process died: no error reported, as after SIGKILL or when out of memory"
    ) as died:
        heard_until_silent(place)  # a report from before its death may come first
    assert time.monotonic() - killed < 2
    assert "\n" not in str(died.value)
    place.mark_ended(str(died.value))


HANGS = {
    "the step of job/0 has taken 61 s": Status(ID, "running", "", {"turn_s": 61}, None, 0),
    "the recovery of job/0 has made no progress for 61 s": Status(ID, "starting", "", {}, None, 0, 61),
    "the recovery of job/0 has made no progress for 62 s": Status(ID, "waiting", "no broker", {}, None, 0, 62),
}


def test_a_shard_that_hangs_ends_its_worker() -> None:
    place, process = filled("job/worker-0/5", *([status] for status in HANGS.values()))
    for why in HANGS:
        with pytest.raises(Ended, match=why):
            heard(place)
    assert place.mark_ended(why) == place_.BACKOFF_S[0]
    assert (place.restarts, place.why, place.actor) == (1, why, None)
    process.wait(60)


def test_a_shard_that_its_worker_does_not_know_is_given_to_it_again() -> None:
    place = WorkerSlot("job/worker-0", shards={ID: "starting"})
    place._assigned_at[ID] = time.monotonic()
    place.record([])
    assert place.shards == {ID: "starting"}  # the worker may not know it yet
    place._assigned_at[ID] -= place_.AGAIN_S
    place.record([])
    assert place.shards == {}


def test_a_restarted_supervisor_adopts_one_worker_a_place_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, older = started("job/worker-0/10")
    _, newer = started("job/worker-0/11")
    _, broken = started("job/worker-0/12", "own")
    _, beyond = started("job/worker-3/10")
    _, other = started("jobs/worker-0/10")
    monkeypatch.setattr(Supervisor, "_place", lambda *_: None)
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.logs.start", lambda **_: None)
    plan = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
    supervisor = Supervisor(Deployment(plan, Lake(str(tmp_path)), {}, partitions=1))
    for process in (older, broken, beyond):
        process.wait(60)
    assert newer.is_running()
    assert other.is_running()
    assert [shard["state"] for shard in supervisor.status()["shards"]] == ["running"]
    supervisor.ends("job/worker-0/11", "job/0: RuntimeError: the lake is gone")
    newer.kill()
    give_up = time.monotonic() + 10
    while (shard := supervisor.status()["shards"][0])["state"] != "restarting":
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert shard["error"] == "job/0: RuntimeError: the lake is gone"
    assert supervisor.stop(1)
    drain("jobs", 1)


def test_a_pipelines_workers_are_drained_by_their_names_and_it_is_said_which_were_not() -> None:
    _, first = started("job/worker-0/20")
    _, second = started("job/worker-1/21", told(shard=9))
    assert list(workers("job")) == ["job/worker-0/20", "job/worker-1/21"]
    assert drain("job", 5) == {"job/worker-1/21": "its shards did not commit, and made no progress for 5 s"}
    for process in (first, second):
        process.wait(60)
    assert [name for name in actors() if name.startswith("job/")] == []


def test_a_worker_whose_shards_go_on_committing_is_waited_for() -> None:
    started("job/worker-0/25", told(shard=8))
    assert drain("job", 1) == {}


def test_asked_twice_a_supervisor_stops_once_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer may be lost. The first call comes before the supervisor has adopted its workers."""
    _, process = started("job/worker-0/30", told(shard=9))
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.logs.start", lambda **_: None)
    monkeypatch.setattr(Supervisor, "_adopt", lambda *_: time.sleep(1))
    plan = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
    supervisor = Supervisor(Deployment(plan, Lake(str(tmp_path)), {}, partitions=1))
    assert not supervisor.stop(2)
    process.wait(60)
    assert not supervisor.stop(2)


def test_a_supervisor_hears_its_workers_last_words_and_is_asked_again_to_stop_when_it_does_not_answer() -> None:
    options: dict[str, Any] = {"name": "job/supervisor", "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
    boss = ray.remote(**options)(Boss).remote("unavailable", "own", True)
    worker, process = started("job/worker-0/40")
    ray.get(worker.speak.remote("job/0: RuntimeError: boom"))
    assert ray.get(boss.words.remote()) == [("job/worker-0/40", "job/0: RuntimeError: boom")]
    stop_pipeline("job", 5)
    process.wait(60)
    assert [name for name in actors() if name.startswith("job/")] == []


def test_workers_without_a_supervisor_are_drained_and_what_is_certain_is_said() -> None:
    _, first = started("job/worker-0/50")
    _, second = started("job/worker-1/51", told(shard=9))
    with pytest.raises(Unavailable) as said:
        stop_pipeline("job", 5)
    assert str(said.value) == (
        "pipeline job: expected all shards to commit and all processes to end, got job/worker-1/51: its shards did not commit, "
        "and made no progress for 5 s; all its processes have ended; nothing is lost, and the next start continues from the last "
        "commit"
    )
    for process in (first, second):
        process.wait(60)
