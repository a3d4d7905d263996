"""Health over HTTP, served by the supervisor's process: live while its loop runs, ready while every shard runs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.engine.shard_config import ShardId
from tocsin.pipelines.runtime.telemetry.logs import without_password

log = logging.getLogger(__name__)
LIVE_S = 60.0
"""Longer than the 10 s for which adopting a worker that does not answer blocks the loop."""
SLOW_S = 30.0
COMMIT_S = 300.0
STATE_REASONS = {
    ShardState.STARTING: "it is recovering",
    ShardState.RESTARTING: "its worker ended; another one is starting",
    ShardState.MOVING: "it is moving to another worker",
    ShardState.STOPPING: "it is committing and stopping",
    ShardState.PAUSED: "the pipeline is paused",
}


def problems(shards: int, reported: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What keeps a deployment from being ready: shard, state and reason of each problem. Empty when it is ready.

    Args:
        shards: how many shards the deployment has.
        reported: the shards in the supervisor's status.
    """
    by_number = {shard["shard"]: shard for shard in reported}
    unreported = {"state": "unknown", "error": "no worker has reported it yet"}
    reasons = {n: _reason(by_number.get(n, unreported)) for n in range(shards)}
    return [
        {"shard": n, "state": by_number.get(n, unreported)["state"], "why": reason}
        for n, reason in reasons.items()
        if reason
    ]


def _reason(shard: Mapping[str, Any]) -> str:
    if shard["state"] != ShardState.RUNNING:
        return without_password(shard["error"]) or STATE_REASONS.get(shard["state"], "")
    facts = shard["facts"]
    if unread := shard.get("unread"):
        return f"partitions {', '.join(map(str, unread))} were added to {facts['topic']}; it will read them soon"
    if damaged := facts.get("damaged"):
        return next(iter(damaged.values()))
    if (step := facts.get("turn_s", 0)) > SLOW_S:
        return f"its step has taken {step:.0f} s"
    if (age := shard["uncommitted_s"]) > max(COMMIT_S, 3 * facts.get("commit_every_s", 0)):
        return f"it has committed nothing for {age:.0f} s"
    return ""


class CommitAges:
    """How long each shard has left records uncommitted. Measured outside the worker, because a worker may keep dying."""

    def __init__(self) -> None:
        self._since: dict[ShardId, tuple[Any, float]] = {}

    def age(self, shard: ShardId, facts: Mapping[str, Any]) -> float:
        """Seconds since the shard last committed or had nothing to commit. Call it regularly. A recovering shard keeps its age."""
        now = time.monotonic()
        committed, since = self._since.get(shard, (None, now))
        if facts and (facts["committed"] != committed or facts["committed"] == facts["read"]):
            committed, since = facts["committed"], now
        self._since[shard] = committed, since
        return round(now - since, 1)


class Health:
    """Answers `/livez`, `/readyz` and `/healthz` (both at once) with JSON, 200 or 503.

    Guarantee: nothing waits for it. If the port is in use, it logs one line and retries.

    Args:
        host: 127.0.0.1, or 0.0.0.0 if other machines may ask, as in Kubernetes.
        port: 0: no endpoint.
    """

    def __init__(self, pipeline: str, host: str, port: int) -> None:
        self._pipeline, self._address = pipeline, (host, port)
        self._status: Mapping[str, Any] = {"problems": problems(1, []), "shards": []}
        self._last_beat = time.monotonic()
        self._server: ThreadingTCPServer | None = None
        self._has_warned = False
        self._listen()

    @property
    def port(self) -> int:
        """The port it listens on; 0: none."""
        return self._server.server_address[1] if self._server else 0

    def beat(self, status: Mapping[str, Any]) -> None:
        """Record that the loop has completed a round, and keep the supervisor's status."""
        self._status, self._last_beat = status, time.monotonic()
        if not self._server:
            self._listen()

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status code and content of an endpoint."""
        age, status = time.monotonic() - self._last_beat, self._status
        is_live, all_running = age < LIVE_S, not status["problems"]
        delay = {} if is_live else {"why": f"the supervisor's loop has completed no round for {age:.0f} s"}
        liveness = {"live": is_live, **delay}
        readiness = {"ready": is_live and all_running, "problems": status["problems"]}
        states = {"shards": {shard["shard"]: shard["state"] for shard in status["shards"]}}
        report = {"/livez": liveness, "/readyz": readiness, "/healthz": {**liveness, **readiness, **states}}.get(path)
        if report is None:
            return 404, {"expected": "/livez, /readyz or /healthz"}
        return 200 if report.get("ready", is_live) else 503, {"pipeline": self._pipeline, **report}

    def close(self) -> None:
        """Release the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _listen(self) -> None:
        if not self._address[1]:
            return
        try:
            self._server = _Server(self._address, _handler(self.answer))
        except OSError as reason:
            if not self._has_warned:
                log.warning(
                    "health endpoint at %s:%d: expected a free port, got %s; retrying; free the port, or set health.port",
                    *self._address,
                    reason,
                )
            self._has_warned = True
        else:
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _handler(answer: Callable[[str], tuple[int, dict[str, Any]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "tocsin", ""
        timeout = 5  # s, for a request to come

        def do_GET(self) -> None:
            code, report = answer(self.path.partition("?")[0])
            content = json.dumps(report).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing: probes come every few seconds."""

    return Handler
