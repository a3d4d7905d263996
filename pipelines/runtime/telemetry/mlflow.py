"""MLflow: logs a deployment's run without blocking the streams, and loads models from the registry."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tocsin.models.tracking_store import CHALLENGER as CHALLENGER
from tocsin.models.tracking_store import connect
from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import ModelError, Unavailable
from tocsin.pipelines.runtime.telemetry.logs import without_password
from tocsin.pipelines.runtime.telemetry.stats import Window

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)
DEPLOYMENT = "tocsin.deployment"
POINTS = 1000
"""Points kept while MLflow does not answer; 83 minutes at one every 5 s."""
BACKOFF_S = (1.0, 60.0)
LONGEST = 6000
"""Characters that MLflow allows in a parameter."""
MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # with MLflow's default, an unreachable server takes 4 minutes to fail
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
RATES = {"throughput_rows_per_s": "rows", "alerts_per_s": "alerts", "dead_letters_per_s": "dead_letters"}
"""Metric -> the count that it gives per second."""


class Point(NamedTuple):
    """Metrics at one moment, ms since the epoch. Counts are totals since this process began."""

    at: int
    counts: dict[str, int]
    values: dict[str, float]


class Tracking:
    """One run a deployment: parameters, and a point of every metric each `every`.

    Counts such as `rows` and `alerts` are totals since the run began, restarts included; rates end in `_per_s`.

    Guarantee: no call waits for MLflow. While it is down, points are kept (past 1000 the oldest are dropped) and sent
    when it answers again. The next process of the same deployment continues a run that was not ended.

    Args:
        tracking_uri: of an MLflow server or database.
        experiment: created if missing.
        every: interval between points; with "0s" each `log` makes one.
    """

    def __init__(self, *, tracking_uri: str, experiment: str = "tocsin", every: str = "5s") -> None:
        self._uri, self._experiment, self._every_s = tracking_uri, experiment, milliseconds(every) / 1000
        self.run_id: str | None = None
        """Known once MLflow has answered."""
        self.dropped = 0
        """Points dropped because too many were kept while MLflow did not answer."""
        self._wake = threading.Condition()
        self._windows: dict[int, list[Window]] = {}
        self._figures: dict[str, float] = {}
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._totals = Counter[str]()
        self._earlier: dict[str, float] | None = None
        """The run's counts from before this process; known once MLflow has answered."""
        self._status = ""
        self._closing = False
        self._run: Run | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self, deployment: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Begin the deployment's run, or continue the one that is still running.

        Args:
            params: MLflow never changes one. A value that differs from an earlier start becomes a tag of the same name.
        """
        self._deployment, self._params, self._tags = deployment, params, dict(tags or {})
        self._started = round(time.time() * 1000)
        self._thread.start()

    def log(self, windows: Mapping[int, Window]) -> None:
        """Add what shards have counted since the last call, by shard."""
        with self._wake:
            for shard, window in windows.items():
                self._windows.setdefault(shard, []).append(window)
            if any(sum(w.seconds for w in shard_windows) >= self._every_s for shard_windows in self._windows.values()):
                self._point()

    def note(self, figures: Mapping[str, float]) -> None:
        """Add figures to the next point, such as live scores. Characters that MLflow does not allow in a name become `_`."""
        with self._wake:
            self._figures |= {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in figures.items()}

    def end(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED, once everything is sent."""
        with self._wake:
            self._point()
            self._status = status
            self._wake.notify()

    def close(self, timeout: float = 10) -> bool:
        """Send what is left within `timeout` s. Returns whether all was sent. A run that was not ended can be resumed."""
        with self._wake:
            self._point()
            self._closing = True
            self._wake.notify()
        if self._thread.ident is None:  # it was never started
            return not self._points
        self._thread.join(timeout)
        return not (self._thread.is_alive() or self._waiting())

    def _point(self) -> None:
        if self._windows or self._figures:
            self.dropped += len(self._points) == POINTS
            self._totals.update(counts(self._windows))
            values = (metrics(self._windows) if self._windows else {}) | self._figures
            self._points.append(Point(round(time.time() * 1000), dict(self._totals), values))
            self._windows, self._figures = {}, {}
            self._wake.notify()

    def _waiting(self) -> bool:
        return self._run is None or bool(self._points) or bool(self._status)

    def _work(self) -> None:
        pause = 0.0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing, pause)
                self._wake.wait_for(lambda: self._closing or self._waiting())
                if not self._waiting():
                    return
            try:
                self._send()
            except Exception as reason:  # a failure of MLflow or its store must not stop the streams
                if not pause:
                    log.warning(
                        "MLflow at %s: expected an answer, got %s; streams continue, metrics are queued "
                        "(the last %d are kept)",
                        without_password(self._uri),
                        _first_line(reason),
                        POINTS,
                    )
                if self._closing:
                    return
                self._run = None  # the run may have been deleted: find it again
                shortest, longest = BACKOFF_S
                pause = min(max(pause * 2, shortest), longest)
            else:
                if pause:
                    log.warning("MLflow answers again; %d points were dropped in total", self.dropped)
                pause = 0.0

    def _send(self) -> None:
        client = _client(self._uri)
        run = self._run = self._run or self._open(client)
        self.run_id = run.info.run_id
        if self._earlier is None:
            self._earlier = dict(run.data.metrics)
        while point := self._next():
            try:
                client.log_batch(run.info.run_id, metrics=_entities(point, self._earlier, run.info.start_time))
            except Exception:
                with self._wake:
                    if len(self._points) < POINTS:
                        self._points.appendleft(point)
                    else:
                        self.dropped += 1
                raise
        if self._status:
            client.set_terminated(run.info.run_id, self._status)
            self._status = ""

    def _next(self) -> Point | None:
        with self._wake:
            return self._points.popleft() if self._points else None

    def _open(self, client: MlflowClient) -> Run:
        """The deployment's active run, or a new one, with this start's parameters and tags."""
        from mlflow.entities import Param, RunTag

        found = client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._experiment)
        query = f"tags.`{DEPLOYMENT}` = '{self._deployment}' and attributes.status = 'RUNNING'"
        running = client.search_runs([experiment], query, max_results=1)
        name, run_tags = self._deployment, {DEPLOYMENT: self._deployment}
        run = running[0] if running else client.create_run(experiment, self._started, run_tags, name)
        params, logged = {name: str(value)[:LONGEST] for name, value in self._params.items()}, run.data.params
        tags = self._tags | {name: value for name, value in params.items() if logged.get(name, value) != value}
        client.log_batch(
            run.info.run_id,
            params=[Param(name, value) for name, value in params.items() if name not in logged],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        return run


def counts(windows: Mapping[int, Sequence[Window]]) -> Counter[str]:
    """The sums of the counts in windows of shards."""
    found = Counter({"rows": 0, "alerts": 0, "dead_letters": 0, "checkpoints": 0})
    for shard_windows in windows.values():
        for window in shard_windows:
            found.update(window.counts)
    return found


def metrics(windows: Mapping[int, Sequence[Window]]) -> dict[str, float]:
    """One point of every metric that is not a count.

    Args:
        windows: of each shard, in order.

    Returns:
        Rates and lag are sums over shards. Occupancy is over all steps. The p50 of latency is the mean of the windows' p50,
        weighted by rows. Its p95 and p99 are the worst window's, which is an upper bound.
    """
    every = [w for shard_windows in windows.values() for w in shard_windows]
    gauges = Counter[str]()
    for shard_windows in windows.values():
        gauges.update(shard_windows[-1].gauges)
    point: dict[str, float] = dict(gauges)
    point["lag_records"] = point.pop("behind", 0)
    for name, counter in RATES.items():
        point[name] = sum(
            sum(w.counts.get(counter, 0) for w in shard_windows) / max(sum(w.seconds for w in shard_windows), 1e-9)
            for shard_windows in windows.values()
        )
    if steps := sum(w.counts.get("steps", 0) for w in every):
        point["batch_occupancy"] = sum(w.fill * w.counts.get("steps", 0) for w in every) / steps
    # A window may end between a row's latency and its count.
    if measured := [w for w in every if w.latency_ms and w.counts.get("rows")]:
        rows = sum(w.counts["rows"] for w in measured)
        point["latency_ms_p50"] = sum(w.latency_ms["p50"] * w.counts["rows"] for w in measured) / rows
        point |= {f"latency_ms_{p}": max(w.latency_ms[p] for w in measured) for p in ("p95", "p99")}
    return point


def resolve_model(tracking_uri: str, model: str) -> tuple[str, str, Path]:
    """Find a model's files.

    Args:
        model: "pumps@champion" (an alias), "pumps/3" (a version), or a folder (write "./pumps/3" if it looks like a version).

    Returns:
        Name, version and a local folder. A folder's version is a hash of its weights.

    Raises:
        ModelError: there is no such model.
        Unavailable: the registry does not answer.
    """
    match = re.fullmatch(r"([^/@.]+)(?:@([^/@]+)|/(\d+))", model)
    if not match:
        return _folder(model)
    name, alias, version = match.groups()
    where = f"model {model} in MLflow at {without_password(tracking_uri)}"
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        client = _client(tracking_uri)
        version = version or str(client.get_model_version_by_alias(name, alias).version)
        files = client.get_model_version_download_uri(name, version)
    except Exception as reason:  # MLflow passes on its database's
        if getattr(reason, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise Unavailable(
                f"{where}: expected an answer, got {_first_line(reason)}; check that it is running"
            ) from reason
        registered = _registered(client, name)
        raise ModelError(
            f"{where}: expected it to be registered, got {registered}; train it with `tocsin train`, or register it"
        ) from reason
    try:
        return name, version, Path(download_artifacts(artifact_uri=files, tracking_uri=tracking_uri))
    except (MlflowException, OSError) as reason:
        detail = f"expected version {version}'s files, got {_first_line(reason)}"
        raise ModelError(f"{where}: {detail}; train or register it again") from reason


def version_of(tracking_uri: str, name: str, alias: str) -> str:
    """The version of a registered model that has an alias; "" if none has.

    Raises:
        Unavailable: the registry does not answer.
    """
    try:
        found = _client(tracking_uri).get_registered_model(name).aliases
    except Exception as reason:  # MLflow passes on its database's
        if getattr(reason, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return ""
        raise Unavailable(
            f"model {name} in MLflow at {without_password(tracking_uri)}: expected an answer, got {_first_line(reason)}; check "
            "that it is running"
        ) from reason
    return str(found.get(alias, ""))


def answers(tracking_uri: str) -> None:
    """Check that MLflow's registry answers.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        _client(tracking_uri).search_registered_models(max_results=1)
    except Exception as reason:  # any failure of MLflow or its store
        raise Unavailable(
            f"MLflow at {without_password(tracking_uri)}: expected an answer, got {_first_line(reason)}; is it running, and "
            "is mlflow.tracking_uri right?"
        ) from reason


def _folder(model: str) -> tuple[str, str, Path]:
    folder = Path(model).absolute()
    weights = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
    if not weights:
        raise ModelError(
            f"model {model}: expected name@alias, name/version or a folder with *.safetensors, got none in {folder}; "
            "name a folder that training wrote"
        )
    return folder.name, hashlib.sha256(b"".join(w.read_bytes() for w in weights)).hexdigest()[:12], folder


def _registered(client: MlflowClient, name: str) -> str:
    versions = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
    if not versions:
        return "no model of that name"
    aliases = sorted(f"@{alias}" for alias in client.get_registered_model(name).aliases)
    return f"versions {', '.join(map(str, versions))} and aliases {', '.join(aliases) or 'none'}"


def _client(uri: str) -> MlflowClient:
    """A client that does not log, because failures are raised too and we log them once, and does not retry for minutes."""
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)
    return connect(uri, logging.CRITICAL)


def _entities(point: Point, earlier: Mapping[str, float], started: int) -> list[Any]:
    """A point as MLflow metrics. Their step is the run's age in s, which keeps rising after a restart."""
    from mlflow.entities import Metric

    totals = {name: count + earlier.get(name, 0) for name, count in point.counts.items()}
    values = sorted((totals | point.values).items())
    return [Metric(name, value, point.at, (point.at - started) // 1000) for name, value in values]


def _first_line(reason: Exception) -> str:
    return without_password((str(reason).splitlines() or [type(reason).__name__])[0])
