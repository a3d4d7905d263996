"""Another plan: from a checkpoint on, and from the same one on when it is run again."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from pipelines.runtime.codec import Codec
from pipelines.runtime.plan import Plan
from pipelines.runtime.reader import Reader
from pipelines.runtime.shard import Shard
from pipelines.runtime.sink import Sink
from pipelines.runtime.spec import Spec
from tests.crash.conftest import MakeJob
from tests.crash.harness import PARTITIONS, Job
from tests.crash.job import SCHEMA
from tests.crash.load import messages

LEVEL, HIGHER = 0.75, 0.9


def _shard(job: Job, **options: Any) -> Shard:
    plan = Plan("tests.crash.job:pipeline", {"name": job.name, "topic": job.topic, "every": "100ms", **options})
    reader = Reader(job.kafka, job.topic, range(PARTITIONS), Codec(topic=job.topic, schema=SCHEMA), 500)
    return Shard(Spec(plan, job.lake, job.kafka, 0, range(PARTITIONS)), reader)


def _read(shard: Shard, job: Job) -> None:
    while shard.facts()["read"] != job.ends():
        shard.turn()


def _hot(job: Job) -> Iterator[float]:
    for record in job.read(f"alerts.{job.name}"):
        data = orjson.loads(record.value)
        if data["rule"] == "hot" and (b"raised" in dict(record.headers)["ce_type"]):
            yield data["score"]


def test_a_plan_changes_at_a_checkpoint_and_is_run_again_from_its_mark(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, load = make_job(), messages(3)
    job.send(itertools.islice(load, 400))
    first = _shard(job)
    _read(first, job)
    first.checkpoint()
    before = list(_hot(job))
    lands = threading.Event()
    monkeypatch.setattr(Sink, "publish", lambda *_: lands.wait(30))  # this checkpoint is marked, but never in Delta
    first.change(
        Plan("tests.crash.job:pipeline", {"name": job.name, "topic": job.topic, "every": "100ms", "high": HIGHER})
    )
    job.send(itertools.islice(load, 5))
    while "high" not in first._live.plan.options:
        first.turn()
    changed_at = len(list(_hot(job)))
    job.send(itertools.islice(load, 400))
    _read(first, job)
    after = list(_hot(job))[changed_at:]
    assert min(before) < HIGHER < min(after)
    monkeypatch.undo()

    second = _shard(job, high=HIGHER)
    lands.set()
    assert second.facts()["uncommitted_rows"] > 0
    job.send(itertools.islice(load, 200))
    _read(second, job)
    second.close()
    assert min(list(_hot(job))[changed_at:]) > HIGHER
    assert not [r for r in caplog.records if "re-ran" in r.message]
    found = job.found()
    assert {*found.rows.values(), *found.alarms.values(), *found.letters.values()} == {1}
