"""MLflow: one run per deployment, resumed after a restart; a dead server delays nothing; a missing model is a one-line error."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tocsin.pipelines.runtime.declare.errors import ModelError, Unavailable
from tocsin.pipelines.runtime.telemetry import mlflow as tracking
from tocsin.pipelines.runtime.telemetry.mlflow import POINTS, Tracking, counts, metrics, resolve_model
from tocsin.pipelines.runtime.telemetry.stats import Window

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE_S = 120  # MLflow's first answer takes 10 to 20 s: it is imported and creates its tables


def window(rows: int = 100, *, seconds: float = 1.0, behind: float = 5, p: float = 10) -> Window:
    counts = {"rows": rows, "steps": 2, "alerts": 1, "dead_letters": 3, "checkpoints": 1}
    return Window(seconds, counts, {"p50": p, "p95": 2 * p, "p99": 3 * p}, rows / 200, {"behind": behind, "keys": 7})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database for the tests of this file."""
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def client(store: str) -> MlflowClient:
    return tracking._client(store)


@pytest.fixture
def dead() -> str:
    """An address at which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def runs(client: MlflowClient, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def test_a_deployment_has_one_run_which_a_restart_goes_on_with(store: str, client: MlflowClient) -> None:
    first = Tracking(tracking_uri=store, experiment="one", every="0s")
    first.start("rul", {"shards": 2, "model_version": "1"}, {"by": "me"})
    first.log({0: window(100), 1: window(300)})
    assert first.close(PATIENCE_S)

    again = Tracking(tracking_uri=store, experiment="one", every="0s")
    again.start("rul", {"shards": 2, "model_version": "2", "device": "cpu"})
    again.log({0: window(50), 1: window(50)})
    again.end("FINISHED")
    assert again.close(PATIENCE_S)

    (run,) = runs(client, "one")
    assert (run.info.run_id, run.info.run_name, run.info.status) == (again.run_id, "rul", "FINISHED")
    assert run.data.params == {"shards": "2", "model_version": "1", "device": "cpu"}
    assert run.data.tags.items() >= {"tocsin.deployment": "rul", "by": "me", "model_version": "2"}.items()
    seen = client.get_metric_history(run.info.run_id, "throughput_rows_per_s")
    assert [m.value for m in seen] == [400, 100]
    rows = [m.value for m in client.get_metric_history(run.info.run_id, "rows")]
    assert rows == [400, 500]  # totals, across the restart
    assert (run.data.metrics["rows"], run.data.metrics["alerts"], run.data.metrics["dead_letters"]) == (500, 4, 12)
    assert all(0 <= m.step <= (time.time() * 1000 - run.info.start_time) / 1000 for m in seen)
    assert {"lag_records", "latency_ms_p99", "batch_occupancy", "alerts", "dead_letters"} <= run.data.metrics.keys()


def test_a_run_that_was_ended_is_not_gone_on_with(store: str, client: MlflowClient) -> None:
    for _ in range(2):
        track = Tracking(tracking_uri=store, experiment="ended")
        track.start("rul", {})
        track.end("KILLED")
        assert track.close(PATIENCE_S)
    assert [run.info.status for run in runs(client, "ended")] == ["KILLED", "KILLED"]


def test_two_deployments_have_a_run_each(store: str, client: MlflowClient) -> None:
    for deployment in ("rul", "pumps"):
        track = Tracking(tracking_uri=store, experiment="two")
        track.start(deployment, {})
        assert track.close(PATIENCE_S)
    assert {run.data.tags["tocsin.deployment"] for run in runs(client, "two")} == {"rul", "pumps"}


def test_points_are_as_far_apart_as_wanted_and_none_is_lost(store: str, client: MlflowClient) -> None:
    track = Tracking(tracking_uri=store, experiment="apart", every="5s")
    track.start("rul", {})
    for rows in range(24):
        track.log({0: window(rows, seconds=0.5)})
    assert track.close(PATIENCE_S)
    seen = client.get_metric_history(track.run_id, "rows")
    assert {m.value for m in seen} == {sum(range(10)), sum(range(20)), sum(range(24))}


def test_figures_are_in_the_next_point_once_and_in_a_last_one_without_windows(store: str, client: MlflowClient) -> None:
    track = Tracking(tracking_uri=store, experiment="figures", every="0s")
    track.start("rul", {})
    track.note({"live/rul/7/rmse": 9.5, "drift/T (°C)": 0.1})
    track.log({0: window(100)})
    track.log({0: window(200)})
    track.note({"live/rul/7/rmse": 9.4})
    assert track.close(PATIENCE_S)
    history = client.get_metric_history(track.run_id, "live/rul/7/rmse")  # two in one millisecond come in any order
    assert sorted(m.value for m in history) == [9.4, 9.5]
    assert client.get_metric_history(track.run_id, "drift/T __C_")[0].value == pytest.approx(0.1)
    rates = client.get_metric_history(track.run_id, "throughput_rows_per_s")
    assert sorted(m.value for m in rates) == [100, 200]  # the last point has no window


def test_a_server_that_is_down_holds_nobody_up(dead: str, caplog: pytest.LogCaptureFixture) -> None:
    track = Tracking(tracking_uri=dead, every="0s")
    started = time.monotonic()
    track.start("rul", {"shards": 1})
    for _ in range(POINTS + 10):
        track.log({0: window()})
    track.end()
    assert time.monotonic() - started < 1
    wait_for(lambda: "expected an answer" in caplog.text)
    started = time.monotonic()
    assert not track.close(10)
    assert time.monotonic() - started < 5
    assert track.dropped == 10
    (said,) = [r.getMessage() for r in caplog.records if r.name == tracking.__name__]
    assert said.startswith(f"MLflow at {dead}: expected an answer, got API request to {dead}/")
    assert said.endswith("; streams continue, metrics are queued (the last 1000 are kept)")


def test_a_log_that_was_never_started_can_be_closed(store: str) -> None:
    assert Tracking(tracking_uri=store).close()


def test_a_server_that_never_answers_holds_nobody_up() -> None:
    asked = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            time.sleep(3)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        track = Tracking(tracking_uri=f"http://127.0.0.1:{server.server_port}", every="0s")
        track.start("rul", {})
        assert asked.wait(PATIENCE_S)
        started = time.monotonic()
        track.log({0: window()})
        assert time.monotonic() - started < 0.5
        assert not track.close(0.5)
        assert time.monotonic() - started < 2
        server.shutdown()
    track.close(PATIENCE_S)


def test_metrics_wait_while_the_store_is_broken_and_then_arrive(
    store: str, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    track = Tracking(tracking_uri=store, experiment="broken", every="0s")
    track.start("rul", {})
    track.log({0: window(1)})
    wait_for_rows(client, track, 1)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("ALTER TABLE metrics RENAME TO away")
        track.log({0: window(2)})
        wait_for(lambda: f"MLflow at {store}: expected an answer, got" in caplog.text)
        track.log({0: window(3)})
        other.execute("ALTER TABLE away RENAME TO metrics")
    wait_for_rows(client, track, 3)
    assert track.close(PATIENCE_S)
    assert [m.value for m in client.get_metric_history(track.run_id, "rows")] == [1, 3, 6]
    assert caplog.text.count("expected an answer, got") == 1
    assert caplog.text.count("MLflow answers again; 0 points were dropped in total") == 1
    assert not [r for r in caplog.records if r.name.startswith(("mlflow", "alembic"))]


def wait_for(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def wait_for_rows(client: MlflowClient, track: Tracking, points: int) -> None:
    wait_for(lambda: bool(track.run_id) and len(client.get_metric_history(track.run_id, "rows")) == points)


def test_shards_and_windows_are_summed_up() -> None:
    idle = Window(1.0, {"steps": 0}, {}, 0.0, {"behind": 2, "keys": 7})
    given = {0: [window(100, behind=50, p=10), window(300, behind=5, p=20)], 1: [idle]}
    assert counts(given) == {"rows": 400, "steps": 4, "alerts": 2, "dead_letters": 6, "checkpoints": 2}
    assert metrics(given) == {
        "keys": 14,
        "lag_records": 7,
        "throughput_rows_per_s": 200,
        "alerts_per_s": 1,
        "dead_letters_per_s": 3,
        "batch_occupancy": 1.0,
        "latency_ms_p50": 17.5,
        "latency_ms_p95": 40,
        "latency_ms_p99": 60,
    }


def test_an_idle_window_has_no_latency() -> None:
    idle = {0: [Window(1.0, {}, {}, 0.0, {})]}
    assert counts(idle) == {"rows": 0, "alerts": 0, "dead_letters": 0, "checkpoints": 0}
    assert metrics(idle) == {"lag_records": 0, "throughput_rows_per_s": 0, "alerts_per_s": 0, "dead_letters_per_s": 0}


@pytest.fixture(scope="module")
def registered(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a model of versions 1 and 2, logged as training logs it. Version 2 is the champion."""
    client = tracking._client(store)
    folder = tmp_path_factory.mktemp("artifacts")
    experiment = client.create_experiment("training", f"file://{folder}")
    client.create_registered_model("bell")
    for version in (b"1", b"2"):
        run = client.create_run(experiment)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(version)
            client.log_artifact(run.info.run_id, str(folder / name), "model")
        client.create_model_version("bell", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("bell", "champion", "2")
    return store


@pytest.mark.parametrize(("model", "version"), [("bell@champion", "2"), ("bell/1", "1")])
def test_a_registered_model_is_found_by_alias_and_by_version(registered: str, model: str, version: str) -> None:
    name, found, folder = resolve_model(registered, model)
    assert (name, found) == ("bell", version)
    assert {f.name: f.read_text() for f in folder.iterdir()} == {"config.json": version, "model.safetensors": version}


@pytest.mark.parametrize(
    ("model", "there"),
    [
        ("bell@best", "versions 1, 2 and aliases @champion"),
        ("bell/3", "versions 1, 2 and aliases @champion"),
        ("gong@champion", "no model of that name"),
    ],
)
def test_a_model_that_is_missing_is_one_line(registered: str, model: str, there: str) -> None:
    with pytest.raises(ModelError) as said:
        resolve_model(registered, model)
    assert str(said.value) == (
        f"model {model} in MLflow at {registered}: expected it to be registered, got {there}; "
        "train it with `tocsin train`, or register it"
    )


def test_a_registry_that_is_down_is_one_line(dead: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as said:
        resolve_model(dead, "bell@champion")
    assert time.monotonic() - started < 30  # MLflow by itself gives up after 4 minutes
    assert str(said.value).startswith(f"model bell@champion in MLflow at {dead}: expected an answer, got API request")
    assert str(said.value).endswith("; check that it is running")
    assert "\n" not in str(said.value)


def test_a_folder_is_a_model_whose_version_is_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "pumps"
    folder.mkdir()
    with pytest.raises(ModelError) as said:
        resolve_model("sqlite:///unused.db", str(folder))
    assert str(said.value) == (
        f"model {folder}: expected name@alias, name/version or a folder with *.safetensors, got none in {folder}; "
        "name a folder that training wrote"
    )
    (folder / "model.safetensors").write_bytes(b"1")
    (folder / "._model.safetensors").write_bytes(b"0")  # macOS writes it on foreign disks
    name, version, found = resolve_model("sqlite:///unused.db", str(folder))
    assert (name, found, len(version)) == ("pumps", folder, 12)
    (folder / "._model.safetensors").unlink()
    assert resolve_model("sqlite:///unused.db", str(folder))[1] == version
    (folder / "model.safetensors").write_bytes(b"2")
    assert resolve_model("sqlite:///unused.db", str(folder))[1] != version
