"""A shard's state survives a kill: timers, hysteresis, cool-downs and alerts that are ahead of the table."""

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.harness import PARTITIONS, Job
from tests.crash.load import ARROW, Message, arrow, messages, reading
from tests.crash.oracle import Outcome
from tests.support.waits import until

pytestmark = pytest.mark.crash
START_MS = int(time.time() * 1000) - 3_600_000
UNCOMMITTED = {"every": "1h"}
"""No checkpoint after the first, so that a successor depends on the journal alone."""

LAST = [Message(partition, b"no reading", [], START_MS) for partition in range(PARTITIONS)]
"""Sent after other messages. Their dead letters show that all before them is processed, in the table or not."""


def _judged(job: Job) -> None:
    last = {(partition, end - 1, None) for partition, end in job.ends().items()}
    until(lambda: last <= set(job.letters()), "all to be judged")


def _series(heats: list[float], *, at: int = 0, unit: int = 0) -> list[Message]:
    """Return one unit's readings from cycle `at` on, one per second of event time."""
    return [
        Message(0, json.dumps(reading(unit, at + i, heat)).encode(), [], START_MS + (at + i) * 1000)
        for i, heat in enumerate(heats)
    ]


def _now(sent: Iterable[Message]) -> Iterator[Message]:
    """Stamp messages with the current time. Units with timestamps of an hour ago would be inactive at once."""
    return (m._replace(at_ms=int(time.time() * 1000)) for m in sent)


def _rung(outcome: Outcome) -> list[tuple[str, str, int | None]]:
    """Return rule, transition and offset of the alerts, by offset."""
    return sorted(((r, t, i[1]) for r, t, i, _ in outcome.alerts), key=lambda a: (a[2] is None, a[2]))


def test_a_timer_that_rang_before_the_kill_does_not_ring_again(make_job: MakeJob) -> None:
    job = make_job(silence="1s", **UNCOMMITTED)
    job.send(_now(m for unit in range(3) for m in _series([0.3, 0.3, 0.3], unit=unit)))
    job.start().fall("alerts.committed")
    worker = job.start()
    time.sleep(2.5)
    worker.stop()
    assert job.differences(silent=True) == []
    assert _rung(job.found()) == [("silent", "raised", None)] * 3


def test_a_timer_that_was_running_at_the_kill_rings_once(make_job: MakeJob) -> None:
    job = make_job(silence="2s")
    job.send(_now(_series([0.3, 0.3, 0.3])))
    worker = job.drain(job.start())
    worker.kill()
    worker = job.start()
    until(lambda: job.read(f"alerts.{job.name}"), "the silent unit's alert")
    time.sleep(1)
    worker.stop()
    assert job.differences(silent=True) == []


def test_an_alert_published_after_the_last_commit_is_not_repeated_and_its_row_is_not_lost(make_job: MakeJob) -> None:
    job = make_job(**UNCOMMITTED)
    job.send([*islice(messages(2), 300), *LAST])
    job.start().fall("alerts.committed")
    assert job.stored("0#checkpoint") == 1 << 32 | 1
    before = job.found()
    assert before.alerts
    assert not before.rows
    worker = job.start()
    _judged(job)
    worker.stop()
    assert job.differences() == []
    assert set(before.alerts) <= set(job.found().alerts)


@pytest.mark.parametrize("options", [UNCOMMITTED, {}], ids=["journal", "snapshot"])
def test_an_alert_that_is_on_and_its_cool_down_outlive_a_kill(make_job: MakeJob, options: dict[str, Any]) -> None:
    job, series = make_job(**options), [1.0] * 5 + [0.6, 0.3] + [0.6] * 5 + [0.1, 0.1, 0.1]
    worker = job.start()
    for start, end in ((0, 5), (5, 7), (7, 9), (9, len(series))):
        job.send([*_series(series[start:end], at=start), *LAST])
        _judged(job)
        worker.kill()
        worker = job.start()
    worker.stop()
    assert job.differences() == []


def _crowd() -> list[Message]:
    """Return messages of one busy unit among others, and Arrow messages with several units and several rows of a unit."""
    out, cycles = list[Message](), [0] * 12

    def ahead(unit: int) -> dict[str, Any]:
        cycles[unit] += 1
        return reading(unit, cycles[unit], (cycles[unit] * 37 + unit * 11) % 100 / 100 + 0.0005, float(cycles[unit]))

    for i in range(250):
        at_ms = START_MS + i * 50
        out.append(Message(0, json.dumps(ahead(0)).encode(), [], at_ms))
        if i % 5 == 0:
            mates = [ahead(u) for u in (2, 0, 4, 2, 6, 8, 10)]
            out += [Message(0, arrow(mates), ARROW, at_ms), Message(1, arrow([ahead(1), ahead(3)]), ARROW, at_ms)]
    return out


@pytest.mark.slow  # half a minute; tests/runtime/engine/test_splits.py has the same without kills
def test_steps_of_1_7_and_512_rows_give_the_same_rows_and_alerts_across_kills(make_job: MakeJob) -> None:
    crowd, found = _crowd(), []
    for rows in (1, 7, 512):
        job = make_job(rows=rows)
        worker = job.start()
        for part in (crowd[:150], crowd[150:]):
            before = len(job.read(f"alerts.{job.name}"))
            job.send(part)
            until(lambda job=job, before=before: len(job.read(f"alerts.{job.name}")) > before, "an alert")
            worker.kill()
            worker = job.start()
        job.finish(worker)
        assert job.differences() == [], rows
        found.append(job.found())
    assert len(found[0].rows) > 300
    assert len(found[0].alerts) > 50
    for other in found[1:]:
        assert found[0].differences(other) == []
