"""Without any one guard of the recovery rule, the output of its scenario is wrong; with all guards it is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.flaws import EARLY
from tests.crash.harness import Job, Worker
from tests.crash.load import messages
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.durations import milliseconds

pytestmark = pytest.mark.crash
Start = Callable[..., Worker]
Story = Callable[[Job, Start], Worker]


def _kill(point: str) -> Story:
    """Kill the process at a point and restart it."""

    def story(job: Job, start: Start) -> Worker:
        with job.load():
            start().fall(point)
            return start()

    return story


def _stall(point: str) -> Story:
    """Stop the process at a point, replace it, and wake it after the replacement's first checkpoint."""

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
    """Start a successor whose recovery begins while the owner still publishes alerts."""
    with job.load():
        worker = start()
        worker.fall("alerts.committed", "SIGSTOP")
        successor = start(**{EARLY.replace(".", "_"): "SIGSTOP"})
        time.sleep(1)  # with the guard, that point does not exist: recovery goes on
        worker.arm("alerts.committed")
        worker.wake()
        worker.ended()
        successor.wake()
        return successor


SILENCE_S = 6
NOW_MS = 3_598_000
"""Moves the timestamps of 200 messages of a load, which start an hour ago, into the last two seconds."""


class TooSlow(Exception):
    """The machine is too slow for a scenario whose steps have deadlines."""


def _quiet(job: Job, start: Start) -> Worker:
    """Let two groups of units become inactive in turn, so that state changes and alerts are raised while no offset moves."""
    worker, begun, silence = start(), 0.0, milliseconds(job.plan.options["silence"]) / 1000
    for group in range(2):
        time.sleep(silence / 3 * group)
        # With timestamps of an hour ago, the units would be inactive as soon as they are read.
        job.send(m._replace(at_ms=m.at_ms + NOW_MS) for m in islice(messages(4), 200) if m.partition == group)
        begun = begun or time.monotonic()
        job.drain(worker)
    # The point is armed before the first group is inactive: the snapshot has its alerts, the second group's are in flight.
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


@pytest.mark.slow  # a minute in all
@pytest.mark.parametrize("flaw", STORIES)
def test_without_a_guard_the_oracle_finds(make_job: MakeJob, flaw: str) -> None:
    story, expected = STORIES[flaw]
    found: list[str] = []
    for _ in range(3):  # what a woken zombie still completes depends on timing
        job, worker = _told(make_job, story, flaw)
        with suppress(AssertionError):  # without a guard, recovery may fail altogether
            job.drain(worker, restart=lambda job=job: job.start(flaw=flaw)).stop()
        found = job.differences(silent=story is _quiet)
        if any(line.startswith(expected) for line in found):
            return
    pytest.fail(f"expected {expected}, got {found}")


@pytest.mark.parametrize("story", [_quiet, _overlap])
@pytest.mark.slow  # half a minute
def test_with_all_guards_the_oracle_finds_nothing(make_job: MakeJob, story: Story) -> None:
    job, worker = _told(make_job, story)
    job.finish(worker)
    assert job.differences(silent=story is _quiet) == []


def _told(make_job: MakeJob, story: Story, flaw: str | None = None) -> tuple[Job, Worker]:
    """Run a scenario on a new job. If the machine is too slow, run it again with a longer silence."""
    for times in (1, 2, 4):
        job = make_job(silence=f"{SILENCE_S * times}s" if story is _quiet else "9999d")
        with suppress(TooSlow):
            return job, story(job, lambda job=job, **armed: job.start(flaw=flaw, **armed))
    pytest.fail(f"expected {story.__name__} to end in time with silences of {SILENCE_S * 4} s")
