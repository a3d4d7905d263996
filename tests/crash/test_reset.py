"""Reset: rows from the new positions on are deleted and written again, once; a kill leaves it complete or not begun."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.harness import PARTITIONS, Job
from tests.crash.load import Message, messages, reading
from tests.crash.oracle import Outcome, judge
from tests.crash.test_losses import _replace_input
from tests.support.waits import until
from tocsin.pipelines.runtime.admin.reset import To, reset

pytestmark = pytest.mark.crash
START_MS = int(time.time() * 1000) - 3_600_000


def _judge_all(job: Job) -> None:
    """Let every shard process what was sent, commit and end."""
    workers = [job.start(shard=config.shard) for config in job.configs()]
    for worker in workers:
        job.drain(worker)
    for worker in workers:
        worker.stop()


def _middle(job: Job) -> tuple[int, dict[int, int]]:
    """Return a time within the log, and each partition's first offset from that time on."""
    log = job.read(job.topic)
    at = sorted(m.timestamp for m in log)[len(log) // 2]
    first = {p: min(m.offset for m in log if m.partition == p and m.timestamp >= at) for p in range(PARTITIONS)}
    assert all(first.values())
    return at, first


def _later(job: Job, first: Mapping[int, int]) -> Outcome:
    """Return the expected outcome of the records from these offsets on, without state of earlier records."""
    return judge(m for m in job.read(job.topic) if m.offset >= first[m.partition])


def _earlier(outcome: Outcome, first: Mapping[int, int]) -> Counter[Any]:
    """Return the rows of the records before these offsets."""
    return Counter({row: n for row, n in outcome.rows.items() if row[0][1] < first[row[0][0]]})


def test_a_kill_leaves_it_done_or_not_begun_on_all_shards(make_job: MakeJob) -> None:
    job, sent = make_job(shards=2), messages(8)
    job.send(islice(sent, 400))
    _judge_all(job)
    at, first = _middle(job)
    for point in ("takeover.fenced", "takeover.owned", "reset.owned", "reset.said", "reset.snapshot"):
        before = job.found()
        job.reset(at, **{point.replace(".", "_"): "SIGKILL"}).fell(point)
        assert job.found() == before, point
        job.send(islice(sent, 40))
        _judge_all(job)
        assert job.differences() == [], point

    whole = judge(job.read(job.topic))
    job.reset(at, reset_delta="SIGKILL").fell("reset.delta")
    assert job.found().rows == _earlier(whole, first)
    job.send(islice(sent, 40))
    later = _later(job, first)
    assert set(later.rows) < {row for row in judge(job.read(job.topic)).rows if row[0][1] >= first[row[0][0]]}
    for times in (1, 2):
        _judge_all(job)
        found = job.found()
        assert found.rows == _earlier(whole, first) + later.rows
        values = {i: v for i, v in whole.values.items() if i[1] < first[i[0]]} | later.values
        assert {i: pytest.approx(v, abs=1e-4) for i, v in values.items()} == found.values
        again = Counter({alert: times * n for alert, n in later.alerts.items()})
        assert found.alerts == whole.alerts + again  # published again with the same ids, see `Alert.id`
        if times == 1:
            assert job.reset(at).ended() == 0


def test_a_kill_does_not_forget_what_has_rung_since_the_last_commit(make_job: MakeJob) -> None:
    """Without a checkpoint, the next owner knows the published alerts from the journal alone."""
    job = make_job(every="1h")
    job.send(islice(messages(2), 300))
    job.send(Message(p, b"no reading", [], START_MS) for p in range(PARTITIONS))
    last = {(p, end - 1, None) for p, end in job.ends().items()}
    worker = job.start()
    until(lambda: last <= set(job.letters()), "all to be judged", worker=worker)
    worker.kill()
    rung = job.found()
    assert rung.alerts and not rung.rows
    for point in ("reset.owned", "reset.said", "reset.snapshot"):
        job.reset("earliest", **{point.replace(".", "_"): "SIGKILL"}).fell(point)
    job.finish(job.start())
    assert job.differences() == []


@pytest.mark.parametrize("point", ["alerts.begin", "checkpoint.snapshot"])
def test_a_shard_that_stalled_before_it_can_neither_say_nor_commit_anything(make_job: MakeJob, point: str) -> None:
    job = make_job()
    zombie = job.start()
    with job.load():
        zombie.arm(point, "SIGSTOP")
        rows, alerts = zombie.fell(point)
    assert rows and alerts
    assert job.reset("earliest").ended() == 0
    said = job.found()
    assert not said.rows
    zombie.wake()
    assert zombie.ended() == 1
    assert "Fenced" in zombie.said
    assert job.found() == said
    job.finish(job.start())
    found, expected = job.found(), judge(job.read(job.topic))
    assert (found.rows, set(found.alerts)) == (expected.rows, set(expected.alerts))


def _series(unit: int, at_s: int) -> list[Message]:
    return [Message(0, json.dumps(reading(unit, i, 0.3)).encode(), [], START_MS + (at_s + i) * 1000) for i in range(3)]


PLACES: dict[To, tuple[set[int], set[int]]] = {
    "earliest": (set(), {0, 2}),
    START_MS + 50_000: ({0}, {0, 2}),
    START_MS + 150_000: ({0, 2}, {0, 2}),
    "latest": ({0, 2}, {0, 2}),
}
"""Position of the reset -> units whose rows remain, and units that have rows once everything is processed."""


@pytest.mark.parametrize("to", PLACES, ids=["earliest", "between", "behind", "latest"])
def test_a_timers_row_goes_and_comes_with_the_rows_of_its_time(make_job: MakeJob, to: To) -> None:
    stay, come = PLACES[to]
    job = make_job(silence="1s")
    job.send([*_series(0, 0), *_series(2, 100)])
    worker = job.drain(job.start())
    until(lambda: len(job.read(f"alerts.{job.name}")) == 2, "two silent units", worker=worker)
    worker.stop()
    assert {i[3] for i, _ in job.found().rows if i[1] is None} == {0, 2}
    assert job.reset(to).ended() == 0
    assert {i[3] for i, _ in job.found().rows} == {i[3] for i, _ in job.found().rows if i[1] is None} == stay
    job.send(_series(4, 200))
    worker = job.drain(job.start())
    until(lambda: 4 in {i[3] for i, _ in job.found().rows if i[1] is None}, "unit 4 to be silent", worker=worker)
    worker.stop()
    found = job.found()
    assert set(found.rows.values()) == {1}
    assert {i[3] for i, _ in found.rows} == {i[3] for i, _ in found.rows if i[1] is None} == come | {4}


def test_it_is_the_way_out_of_a_topic_that_was_made_anew(make_job: MakeJob) -> None:
    job, sent = make_job(), messages(6)
    job.send(islice(sent, 200))
    _judge_all(job)
    _replace_input(job)
    job.send(islice(sent, 300))
    stopped = job.start()
    assert stopped.ended() == 1 and "TopicReplaced" in stopped.said
    done = reset(job.configs(), "earliest")
    assert done.positions == dict.fromkeys(range(PARTITIONS), 0) and done.deleted
    _judge_all(job)
    found, expected = job.found(), judge(job.read(job.topic))
    assert found.rows == expected.rows


def test_one_that_never_ran_begins_where_it_says(make_job: MakeJob) -> None:
    job, sent = make_job(), messages(6)
    job.send(islice(sent, 200))
    ends = job.ends()
    assert reset(job.configs(), "latest").positions == ends
    job.send(islice(sent, 200))
    _judge_all(job)
    assert job.found().rows == _later(job, ends).rows
