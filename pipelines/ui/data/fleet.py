"""All pipelines' health, lag and rates, as `tocsin status --watch --json` prints them, with a short history."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tocsin.pipelines.runtime.declare.names import shadow
from tocsin.pipelines.runtime.declare.truth import VERSION, figures

HISTORY = 180
"""Samples kept of each pipeline, one a second."""
STALE_S = 10.0
"""Age from which a status counts as old: its command answers each second."""
BACKOFF_S = (2.0, 5.0, 15.0, 30.0)
"""Wait before a status command that ended is started again. Each start costs seconds of CPU."""
WORST = ("refused", "restarting", "waiting", "starting", "stopping", "moving", "paused", "running")
"""States of shards, the one that needs a person most first."""

Command = Sequence[str]


@dataclass(frozen=True)
class Sample:
    """One look at a pipeline.

    Args:
        at: seconds, monotonic.
        lag: records not read yet; None: unknown.
        latency_ms: p99 age of rows when their alerts had been published; None: no rows.
    """

    at: float
    rows_per_s: float
    lag: int | None
    latency_ms: float | None


@dataclass(frozen=True)
class PipelineStatus:
    """A pipeline as last reported.

    Args:
        report: one object of `pipelines` of `tocsin status --json`; None: it does not run.
        age_s: seconds since the report.
        history: the last samples, oldest first; none if it does not run.
    """

    name: str
    report: Mapping[str, Any] | None
    age_s: float
    history: Sequence[Sample]

    @property
    def state(self) -> str:
        """The worst state of its shards; "paused", "not running" or "no answer" where that says more."""
        if self.report is None:
            return "not running"
        if self.age_s > STALE_S:
            return "no answer"
        states = {shard["state"] for shard in self.report["shards"]}
        if self.report["paused"]:
            return "paused"
        return next((state for state in WORST if state in states), "starting")

    @property
    def is_healthy(self) -> bool:
        """Whether all its shards run and no line asks for a person."""
        return self.state == "running" and bool(self.report and self.report["ready"])

    @property
    def notes(self) -> list[str]:
        """What a person should know: why it is not ready, errors of shards and sinks, damaged partitions."""
        report = self.report
        if report is None:
            return []
        shards = [*report["shards"], *report["landing"]]
        lines = [problem["why"] for problem in report["problems"]]
        lines += [line for shard in shards for line in (shard["error"], *shard["damaged"].values())]
        if (drift := report.get("drift")) and drift.get("drifted"):
            lines.append(f"its input has drifted from training in {', '.join(drift['drifted'])}")
        lines += [f"alert sink {sink['sink']}: {sink['error']}" for sink in report["sinks"] if sink["error"]]
        lines += [
            f"{shard['pipeline']}/{shard['shard']}: a replay gave other alerts than were published"
            for shard in shards
            if shard["digest_mismatches"]
        ]
        return list(dict.fromkeys(line for line in lines if line))

    @property
    def mutes(self) -> list[str]:
        """Assets that raise no alerts now, and until when."""
        silences = self.report["silences"] if self.report else {}
        return [f"{asset} is silenced until {until[:16].replace('T', ' ')}Z" for asset, until in silences.items()]

    @property
    def dead_letters(self) -> int:
        """Dead letters since the very first start."""
        return sum(shard["dead_letters"] for shard in self.report["shards"]) if self.report else 0

    @property
    def models(self) -> list[str]:
        """The versions that judge now."""
        return sorted({shard["model"] for shard in self.report["shards"] if shard["model"]}) if self.report else []

    @property
    def challengers(self) -> list[str]:
        """The versions that run in its shadow now."""
        landing = self.report["landing"] if self.report else []
        return sorted({shard["model"] for shard in landing if shard["pipeline"].startswith(shadow(self.name))})

    @property
    def scores(self) -> Mapping[str, str]:
        """Figures of each version by the labels that have arrived, in words."""
        found = self.report.get("scores", ()) if self.report else ()
        return {
            score[VERSION]: "  ".join(f"{name} {value:.4g}" for name, value in figures(score).items())
            for score in found
        }


class Fleet:
    """Watches all pipelines by status commands, one child process each: a hang or an end of Ray stays outside this process.

    Args:
        commands: returns, by name, the status commands that should run now; called each second. Each prints an object a second.
        names: pipelines to list even if they do not run.
    """

    def __init__(self, commands: Callable[[], Mapping[str, Command]], names: Collection[str] = ()) -> None:
        self._commands, self._names = commands, sorted(names)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._seen: dict[str, tuple[float, str, Mapping[str, Any]]] = {}
        self._histories: dict[str, deque[Sample]] = {}
        self._watchers: dict[str, _Watcher] = {}
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def close(self) -> None:
        """End all status commands."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for watcher in self._watchers.values():
            watcher.close()

    @property
    def problem(self) -> str:
        """Why nothing is known, in one line; "" if a status command answers."""
        with self._lock:
            watchers, is_known = list(self._watchers.values()), bool(self._seen)
        if not watchers:
            return "" if is_known else "no pipeline runs here"
        return next((w.problem for w in watchers if w.problem), "") if not any(w.answers for w in watchers) else ""

    def pipelines(self) -> list[PipelineStatus]:
        """Every pipeline by name: those that run, ran since the start, or are to be listed anyway."""
        now = time.monotonic()
        with self._lock:
            names = sorted({*self._names, *self._histories})
            found = []
            for name in names:
                at, _, report = self._seen.get(name, (0.0, "", None))
                history = tuple(self._histories.get(name, ())) if report else ()
                found.append(PipelineStatus(name, report, now - at, history))
            return found

    def record(self, source: str, line: bytes) -> None:
        """Take one line of a status command. A pipeline that the same command no longer reports has stopped."""
        reports, now = orjson.loads(line)["pipelines"], time.monotonic()
        with self._lock:
            self._seen = {n: seen for n, seen in self._seen.items() if seen[1] != source}
            for report in reports:
                name = report["pipeline"]
                self._seen[name] = (now, source, report)
                self._histories.setdefault(name, deque(maxlen=HISTORY)).append(_sample(report, now))

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # a file of a run that has just ended
                self._reconcile(self._commands())
            self._stop.wait(1)

    def _reconcile(self, wanted: Mapping[str, Command]) -> None:
        for source in self._watchers.keys() - wanted.keys():
            with self._lock:
                watcher = self._watchers.pop(source)
                self._seen = {n: seen for n, seen in self._seen.items() if seen[1] != source}
            watcher.close()
        for source, command in wanted.items():
            if source not in self._watchers:
                with self._lock:
                    self._watchers[source] = _Watcher(source, command, self.record)


class _Watcher:
    """Keeps one status command running and hands on its lines."""

    def __init__(self, source: str, command: Command, record: Callable[[str, bytes], None]) -> None:
        self._source, self._command, self._record = source, command, record
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._answered_at, self.problem = 0.0, ""
        self._thread = threading.Thread(target=self._run, name=f"status {source}", daemon=True)
        self._thread.start()

    @property
    def answers(self) -> bool:
        """Whether it has answered lately."""
        return time.monotonic() - self._answered_at < STALE_S and self._answered_at > 0

    def close(self) -> None:
        """End the command."""
        self._stop.set()
        if (process := self._process) and process.poll() is None:
            process.terminate()
        self._thread.join(5)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            before = self._answered_at
            try:
                self._follow()
            except (OSError, ValueError, LookupError) as reason:
                self.problem = f"status of {self._source}: expected JSON, got {reason!r}"
            failures = 1 if self._answered_at > before else failures + 1
            self._stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])

    def _follow(self) -> None:
        pipe = subprocess.PIPE
        with subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            self._process = process
            threading.Thread(target=self._note_errors, args=(process,), daemon=True).start()
            try:
                for line in process.stdout or ():
                    if self._stop.is_set():
                        break
                    self._record(self._source, line)
                    self._answered_at, self.problem = time.monotonic(), ""
            finally:
                process.terminate()

    def _note_errors(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stderr or ():
            if text := line.decode("utf-8", "replace").strip().removeprefix("tocsin: "):
                self.problem = text[:500]


def _sample(report: Mapping[str, Any], now: float) -> Sample:
    shards = report["shards"]
    lags = [shard["lag"] for shard in shards if shard["lag"] is not None]
    latencies = [shard["latency_ms"]["p99"] for shard in shards if shard["latency_ms"]]
    return Sample(
        now,
        sum(shard["rows_per_s"] for shard in shards),
        sum(lags) if lags else None,
        max(latencies) if latencies else None,
    )
