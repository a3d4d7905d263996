"""Take any guard of the recovery rule away and what comes out is wrong; with all of them in place the same story ends well."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.flaws import EARLY
from tests.crash.harness import Job, Worker, until
from tests.crash.load import messages
from tocsin.pipelines.runtime.declare.durations import milliseconds

pytestmark = pytest.mark.crash
Start = Callable[..., Worker]
Story = Callable[[Job, Start], Worker]


def _kill(point: str) -> Story:
    """Killed at a point, and started again."""

    def story(job: Job, start: Start) -> Worker:
        with job.load():
            start().fall(point)
            return start()

    return story


def _stall(point: str) -> Story:
    """Stopped at a point, replaced, awake again after the replacement's first checkpoint."""

    def story(job: Job, start: Start) -> Worker:
        with job.load():
            zombie = start()
            zombie.fall(point, "SIGSTOP")
            before, worker = job.stored("0#epoch"), start()
            until(lambda: job.stored("0#checkpoint") >> 32 > before, "a checkpoint of the replacement")
            zombie.arm("alerts.committed")
            zombie.wake()
            zombie.process.join(60)  # until it is fenced, or has published
            zombie.kill()
        return worker

    return story


def _overlap(job: Job, start: Start) -> Worker:
    """A successor that has begun to take over while the owner still rings."""
    with job.load():
        worker = start()
        worker.fall("alerts.committed", "SIGSTOP")
        successor = start(**{EARLY.replace(".", "_"): "SIGSTOP"})
        time.sleep(1)  # with the guard in place there is no such point: it takes over and goes on
        worker.arm("alerts.committed")
        worker.wake()
        worker.ended()
        successor.wake()
        return successor


SILENCE_S = 6
NOW_MS = 3_598_000
"""From the timestamps of 200 messages of a load to the last two seconds."""


class TooSlow(Exception):
    """The machine was, for a story whose steps have to come in time."""


def _quiet(job: Job, start: Start) -> Worker:
    """Units fall silent one group after the other: state changes and alerts ring while no offset moves."""
    worker, begun, silence = start(), 0.0, milliseconds(job.plan.options["silence"]) / 1000
    for group in range(2):
        time.sleep(silence / 3 * group)
        # Sent as of now: units whose timestamps are of an hour ago are silent as soon as they are read.
        job.send(m._replace(at_ms=m.at_ms + NOW_MS) for m in islice(messages(4), 200) if m.partition == group)
        begun = begun or time.monotonic()
        job.drain(worker)
    # Armed before the first group falls silent: its alerts are in the snapshot, the second's in flight.
    if time.monotonic() - begun > silence:
        raise TooSlow("expected both groups in the table before the first falls silent")
    worker.fall("checkpoint.snapshot")
    worker = start()
    time.sleep(silence + 1)
    return worker


STORIES: dict[str, tuple[Story, str]] = {
    "txn-per-worker": (_stall("alerts.begin"), "alerts twice"),
    "no-journal": (_kill("alerts.committed"), "alerts twice"),
    "no-marks": (_kill("checkpoint.delta"), "alerts twice"),
    "no-epoch": (_stall("checkpoint.snapshot"), "rows twice"),
    "snapshot-by-offset": (_quiet, "rows lost"),
    "read-before-fence": (_overlap, "alerts twice"),
    "fresh-commit": (_stall("checkpoint.snapshot"), "rows twice"),
    "alerts-after-delta": (_kill("checkpoint.delta"), "alerts lost"),
}


@pytest.mark.parametrize("flaw", STORIES)
def test_without_a_guard_the_oracle_finds(make_job: MakeJob, flaw: str) -> None:
    story, expected = STORIES[flaw]
    found: list[str] = []
    for _ in range(3):  # what a zombie still gets done once it wakes is chance
        job, worker = _told(make_job, story, flaw)
        with suppress(AssertionError):  # a guard less can also leave what nobody can take over
            job.drain(worker, restart=lambda job=job: job.start(flaw=flaw)).stop()
        found = job.differences(silent=story is _quiet)
        if any(line.startswith(expected) for line in found):
            return
    pytest.fail(f"expected {expected}, got {found}")


@pytest.mark.parametrize("story", [_quiet, _overlap])
def test_with_all_guards_the_oracle_finds_nothing(make_job: MakeJob, story: Story) -> None:
    job, worker = _told(make_job, story)
    job.finish(worker)
    assert job.differences(silent=story is _quiet) == []


def _told(make_job: MakeJob, story: Story, flaw: str | None = None) -> tuple[Job, Worker]:
    """A story on a job of its own, and on one with longer silences where the machine is too slow for it."""
    for times in (1, 2, 4):
        job = make_job(silence=f"{SILENCE_S * times}s" if story is _quiet else "9999d")
        with suppress(TooSlow):
            return job, story(job, lambda job=job, **armed: job.start(flaw=flaw, **armed))
    pytest.fail(f"expected {story.__name__} to end in time with silences of {SILENCE_S * 4} s")
