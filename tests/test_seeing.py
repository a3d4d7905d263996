"""Observability of a deployment on Ray and Apache Kafka: metrics, status, logs and health probes."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from tests.crash.deployed import Deployed
from tests.crash.harness import Job
from tests.crash.oracle import _readings as readings
from tests.runtime.control.test_health import get
from tests.support.ports import free_port
from tests.support.scraped import local_cluster
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.cli.status import status_report
from tocsin.pipelines.runtime.control.ray_client import find
from tocsin.pipelines.runtime.settings import Settings
from tocsin.pipelines.runtime.telemetry.metrics import METRICS, endpoints

SECRET = "hush-this-one"
RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


@pytest.fixture(scope="module")
def metrics_port() -> Iterator[int]:
    """The port on which a local cluster serves metrics."""
    with local_cluster() as port:
        yield port


Series = dict[tuple[tuple[str, str], ...], float]


def samples(job: Job) -> list[Any]:
    """The job's samples, as Prometheus scrapes them."""
    (address,) = endpoints()
    with urllib.request.urlopen(address, timeout=30) as said:
        families = text_string_to_metric_families(said.read().decode())
        return [s for family in families for s in family.samples if s.labels.get("pipeline") == job.name]


def scrape(job: Job) -> dict[str, Series]:
    """The job's samples by name and by our own labels. If two supervisors report a series, the larger value counts."""
    found: dict[str, Series] = {}
    for sample in samples(job):
        others = {n for n in sample.labels if n in RAYS_OWN or n.startswith("otel_")}
        ours = tuple((n, v) for n, v in sorted(sample.labels.items()) if n not in others and n != "pipeline")
        series = found.setdefault(sample.name, {})
        series[ours] = max(sample.value, series.get(ours, sample.value))
    return found


def states(job: Job) -> Series:
    return scrape(job).get("ray_tocsin_shards", {})


def total(found: dict[str, Series], name: str) -> float:
    return found.get(f"ray_tocsin_{name}", {}).get((("shard", "0"),), -1)


def logged(pid: int) -> list[str]:
    """The lines that one of our processes wrote to stderr, without Ray's own marks, such as `:job_id:01000000`."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = [line for file in folder.glob(f"worker-*-{pid}.err") for line in file.read_text().splitlines()]
    return [line for line in lines if not line.startswith(":")]


def status(job: Job) -> dict[str, Any]:
    return ray.get(find(job.name).status.remote(), timeout=30)


@pytest.mark.slow
def test_a_deployment_is_scraped_read_and_probed(metrics_port: int, kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    job.kafka["sasl_plain_password"] = SECRET
    port = free_port()
    deployed = Deployed(job, health=("127.0.0.1", port))
    with KafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        producer.send(job.topic, b"not a reading", key=b"unit-7", partition=0)
    with job.load(rate=300):
        deployed.goes_on()
    until(job.whole(), "all input to be in the table")

    # Metrics agree with what is in Kafka and in the table.
    rows, out = [reading for m in job.read(job.topic) for _, reading in readings(m)], job.found()
    expected = {
        "rows_total": sum(reading is not None for reading in rows),
        "results_total": out.rows.total(),
        "alerts_total": out.alerts.total(),
        "dead_letters_total": out.letters.total(),
    }
    assert min(expected.values()) > 0
    until(lambda: all(total(scrape(job), name) == n for name, n in expected.items()), f"metrics to say {expected}")
    found = until(lambda: (s := scrape(job)) and total(s, "committed_lag_records") == 0 and s, "all to be committed")
    assert set(found) == {name for m in METRICS for name in m.exported} - {"ray_tocsin_model_info"}  # no model here
    assert total(found, "latency_seconds_count") == expected["rows_total"]
    buckets = found["ray_tocsin_latency_seconds_bucket"]
    assert buckets[("le", "+Inf"), ("shard", "0")] == expected["rows_total"]
    by_bound = [buckets[labels] for labels in sorted(buckets, key=lambda labels: float(dict(labels)["le"]))]
    assert by_bound == sorted(by_bound)
    assert total(found, "checkpoints_total") > 1 and total(found, "step_busy_seconds_total") > 0
    assert (total(found, "lag_records"), total(found, "keys")) == (0, 20)
    assert states(job)[(("state", "running"),)] == 1
    assert found["ray_tocsin_restarts_total"] == {(): 0}
    (listening,) = {
        c.laddr for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == metrics_port
    }
    assert listening.ip == "127.0.0.1"

    # Health and `tocsin status` agree.
    assert get(port, "/livez")[0] == get(port, "/readyz")[0] == 200
    said = status_report(Settings(kafka=job.kafka), status(job))
    assert (said["ready"], said["problems"]) == (True, [])

    # Each line is JSON. The log counts every dead letter, but does not give each its own line.
    worker = status(job)["shards"][0]["pid"]
    lines = [json.loads(line) for line in logged(worker)]
    mentions = [line for line in lines if "stage" in line]
    count, first = sum(line["count"] for line in mentions), mentions[0]
    assert count == expected["dead_letters_total"] and len(mentions) < count
    place = ("pipeline", "shard", "topic", "partition", "offset", "asset", "stage")
    assert [first[name] for name in place] == [job.name, 0, job.topic, 0, 0, "unit-7", "decode"]

    # A worker that dies loses no series and leaves none behind, and its death is logged.
    os.kill(worker, signal.SIGKILL)
    until(lambda: scrape(job).get("ray_tocsin_restarts_total") == {(): 1}, "the restart to be counted")
    with job.load(rate=100):  # the same readings: late now, but counted
        until(lambda: total(scrape(job), "rows_total") > expected["rows_total"], "the total to go on from where it was")
    assert len({sample.labels["WorkerId"] for sample in samples(job)}) == 1
    supervisor = ray.get(find(job.name).__ray_call__.remote(lambda _: os.getpid()))
    told = [json.loads(line) for line in logged(supervisor)]
    assert any("died" in line["message"] and line["pipeline"] == job.name for line in told)
    pids = [worker, supervisor, status(job)["shards"][0]["pid"]]
    assert SECRET not in "".join(line for pid in pids for line in logged(pid)) + json.dumps(status(job), default=str)
    deployed.stop()


def test_a_shard_that_needs_a_person_is_seen_everywhere(metrics_port: int, kafka: KafkaServer, tmp_path: Path) -> None:
    job, port = Job(kafka.bootstrap_servers, tmp_path), free_port()
    Deployed(job).lose_journal()
    again = Deployed(job, health=("127.0.0.1", port))

    def refused() -> dict[str, Any] | None:
        try:
            code, said = get(port, "/readyz")
        except OSError:
            return None
        return said if code == 503 and said["problems"][0]["state"] == "refused" else None

    said = until(refused, "the shard to be refused")
    (problem,) = said["problems"]
    assert problem["shard"] == 0 and "expected the journal that goes with checkpoint" in problem["why"]
    assert get(port, "/livez")[0] == 200
    assert status_report(Settings(kafka=job.kafka), status(job))["problems"] == said["problems"]
    until(lambda: states(job).get((("state", "refused"),)) == 1, "the refusal to be scraped")
    lines = [json.loads(line) for line in logged(status(job)["shards"][0]["pid"])]
    (line,) = [line for line in lines if line["level"] == "error"]
    assert line["logger"].startswith("tocsin")
    assert (line["pipeline"], line["shard"], line["message"]) == (job.name, 0, problem["why"])
    again.stop()
