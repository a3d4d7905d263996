"""The fleet: statuses of commands, their history, and what is said when they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.waits import until
from tests.ui.scene import report, shard
from tocsin.pipelines.ui.data import fleet as module
from tocsin.pipelines.ui.data.fleet import Fleet, PipelineStatus


def command(code: str) -> list[str]:
    """A status command that runs this code with `say(*reports)`, which prints a line."""
    say = "import json, sys, time\ndef say(*r):\n    print(json.dumps({'pipelines': r}), flush=True)\n"
    return [sys.executable, "-S", "-c", say + code]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.1,))


@pytest.fixture
def opened() -> Iterator[list[Fleet]]:
    fleets: list[Fleet] = []
    yield fleets
    for fleet in fleets:
        fleet.close()


def _only(fleet: Fleet) -> PipelineStatus:
    (status,) = fleet.pipelines()
    return status


def test_it_shows_what_the_command_prints(opened: list[Fleet]) -> None:
    reports = json.dumps(report("rul", shard("rul"), shard("rul", 1, lag=None, rows_per_s=500.0, latency_ms={})))
    fleet = Fleet(lambda: {"rul": command(f"say(json.loads({reports!r})); time.sleep(60)")}, ["touch"])
    opened.append(fleet)
    assert fleet.problem == "no pipeline runs here"
    fleet.start()
    until(lambda: any(s.report for s in fleet.pipelines()), "a status", 30)
    rul, touch = fleet.pipelines()
    assert (rul.state, rul.is_healthy, touch.state) == ("running", True, "not running")
    assert [(s.rows_per_s, s.lag, s.latency_ms) for s in rul.history] == [(2000.0, 12, 21.0)]
    assert fleet.problem == ""


def test_a_command_that_ends_says_why_and_is_started_again(opened: list[Fleet]) -> None:
    code = "print('tocsin: Ray at auto: expected a cluster, got none', file=sys.stderr); sys.exit(1)"
    fleet = Fleet(lambda: {"auto": command(code)})
    opened.append(fleet)
    fleet.start()
    until(lambda: fleet.problem == "Ray at auto: expected a cluster, got none", "the reason", 30)


def test_a_run_that_ends_is_listed_as_not_running(opened: list[Fleet]) -> None:
    reports = json.dumps(report("rul"))
    wanted = {"rul": command(f"say(json.loads({reports!r})); time.sleep(60)")}
    fleet = Fleet(lambda: wanted)
    opened.append(fleet)
    fleet.start()
    until(fleet.pipelines, "a status", 30)
    wanted.clear()
    until(lambda: _only(fleet).state == "not running", "the run to leave", 30)
    assert _only(fleet).history == () and fleet.problem == "no pipeline runs here"


@pytest.mark.parametrize(
    ("changes", "state", "healthy"),
    [
        ({"paused": True}, "paused", False),
        ({"shards": [shard("rul", state="waiting"), shard("rul", 1)], "ready": False}, "waiting", False),
        ({"shards": [shard("rul", state="refused"), shard("rul", 1, state="waiting")]}, "refused", False),
        ({"shards": []}, "starting", False),
    ],
)
def test_the_worst_state_counts(changes: dict[str, object], state: str, healthy: bool) -> None:
    fleet = Fleet(dict)
    fleet.record("auto", json.dumps({"pipelines": [report("rul") | changes]}).encode())
    assert (_only(fleet).state, _only(fleet).is_healthy) == (state, healthy)


def test_an_old_status_is_no_answer() -> None:
    assert PipelineStatus("rul", report("rul"), 11.0, ()).state == "no answer"


def test_silenced_assets_are_named() -> None:
    found = report("rul", silences={"7": "2026-01-31T14:00:00+00:00"})
    assert PipelineStatus("rul", found, 0.0, ()).mutes == ["7 is silenced until 2026-01-31 14:00Z"]


def test_notes_ask_for_a_person() -> None:
    bad = shard("rul", error="disk full", damaged={"3": "rul[3] is damaged"}, digest_mismatches=1)
    found = report("rul", bad, problems=[{"why": "disk full"}, {"why": ""}], sinks=[{"sink": "desk", "error": "away"}])
    assert PipelineStatus("rul", found, 0.0, ()).notes == [
        "disk full",
        "rul[3] is damaged",
        "alert sink desk: away",
        "rul/0: a replay gave other alerts than were published",
    ]


def test_it_tells_of_challengers_of_live_scores_and_of_drift() -> None:
    scores = [{"model_version": "rul/2", "rows": 900, "rmse": 9.5, "f1": None}, {"model_version": "rul/3", "rmse": 9.1}]
    drift = {"indices": [], "index": 0.6, "level": 0.3, "drifted": ["s4", "s11"]}
    landing = [shard("rul.shadow-3", model="rul/3"), shard("alerts.rul", model="")]
    status = PipelineStatus("rul", report("rul", landing=landing, scores=scores, drift=drift), 0, ())
    assert (status.models, status.challengers) == (["rul/2"], ["rul/3"])
    assert status.scores == {"rul/2": "rows 900  rmse 9.5", "rul/3": "rmse 9.1"}
    assert status.notes == ["its input has drifted from training in s4, s11"]
    assert PipelineStatus("rul", None, 0, ()).challengers == []
