"""More input than a shard can process: memory stays flat and nothing is lost; `latest` records what it skips."""

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest
import ray

from tests.crash.conftest import MakeJob
from tests.crash.deployed import ROOT, Deployed, actor
from tests.crash.harness import Job
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.ray_client import connect


@pytest.fixture
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


def _skipped(job: Job) -> dict[int, list[range]]:
    """Return each partition's skipped offsets, read from the journal."""
    found: dict[int, set[range]] = {}
    for record in job.read(f"_tocsin.{job.name}"):
        for item in orjson.loads(record.value)["items"]:
            if len(item) == 2:
                starts, ends = (dict(zip(flat[::2], flat[1::2], strict=True)) for flat in item)
                for partition, start in starts.items():
                    found.setdefault(partition, set()).add(range(start, ends[partition]))
    return {partition: sorted(ranges, key=lambda r: r.start) for partition, ranges in found.items()}


def test_latest_skips_what_is_too_old_and_tells_of_it_across_kills(make_job: MakeJob) -> None:
    job = make_job(slow=4, overload="latest", max_lag="1s", rows=32)
    with job.load(rate=600):  # three times what it can process
        worker = job.start()
        for point in ("anywhere", "alerts.sent", "checkpoint.files", "alerts.committed", "anywhere"):
            worker.fall(point)
            worker = job.start()
        time.sleep(1)
    job.finish(job.drain(worker, restart=job.start))
    skipped = _skipped(job)
    assert sum(len(r) for ranges in skipped.values() for r in ranges) > 300
    assert job.differences(skipped=skipped) == []


def _memory(*processes: psutil.Process) -> float:
    """Return the resident memory of processes in MB."""
    return sum(p.memory_info().rss for p in processes) / 1e6


@pytest.mark.slow
def test_memory_stays_flat_and_nothing_is_lost_when_producers_run_wild_and_when_the_broker_is_away(
    cluster: None, tmp_path: Path
) -> None:
    with KafkaServer(data=tmp_path / "kafka") as server:
        job, wild = Job(server.bootstrap_servers, tmp_path), tmp_path / "wild"
        wild.touch()
        deployed = Deployed(job, options={"slow": 10, "slow_while": str(wild), "rows": 512})
        with job.load(rate=1000) as load:  # ten times what it can process
            worker = psutil.Process(deployed.goes_on()["pid"])
            processes = [worker, psutil.Process(actor("Supervisor"))]
            time.sleep(20)
            at_20_s, lag_at_20_s = _memory(*processes), _lag(deployed)
            time.sleep(100)
            at_120_s, lag_at_120_s = _memory(*processes), _lag(deployed)
            load.rate = 100
            wild.unlink()
            until(lambda: _lag(deployed) < 1000, "the backlog to be worked off", 300)
            server.kill()
            time.sleep(60)
            away, said = _memory(*processes), deployed.status()
            server.restart()
            deployed.goes_on()
        print(f"MB at 20 s {at_20_s:.0f}, at 120 s {at_120_s:.0f}, after 60 s without a broker {away:.0f}")
        print(f"records behind at 20 s {lag_at_20_s}, at 120 s {lag_at_120_s}")
        assert max(at_120_s, away) <= 1.2 * at_20_s
        assert lag_at_120_s > lag_at_20_s + 20_000
        assert said["restarts"] == 0
        until(job.whole(), "all input to be in the table")
        deployed.stop()
        assert job.differences() == []


def _lag(deployed: Deployed) -> int:
    return int(deployed.shard()["window"]["gauges"]["behind"])
