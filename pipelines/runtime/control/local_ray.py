"""A local Ray on this machine: it runs what actors need, and nothing that only a cluster of many machines needs."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import node, ray_constants, services

from tocsin.pipelines.runtime.declare.errors import Unavailable

log = logging.getLogger(__name__)
SESSIONS = Path("/tmp") / f"tocsin-{os.getuid()}"
"""Where Ray keeps the sockets and logs of its sessions, apart from those of `ray start`. The path is short because the path of a
socket has at most 107 characters."""
KEPT_SESSIONS = 2
"""Number of ended sessions whose logs are kept."""
START_S, TRIES = 120.0, 3
IDLE = 3
"""Number of Python processes that start with Ray and may stay idle: for a worker, its reader and the supervisor."""
STORE_BYTES = 512 << 20
NO_PORT = -1
"""The port that Ray writes for a service that does not run."""
STAND_IN = "sh -c 'while kill -0 $PPID 2>/dev/null; do sleep 2; done'"
"""Replaces the raylet's two agents, and like them ends with the raylet. A raylet does not start without agents, and the real ones
cost 2 s of CPU at its start."""


def start(
    *, cpus: int | None = None, metrics_port: int = 0, env: Mapping[str, str] | None = None, **options: Any
) -> None:
    """Start Ray; it listens on 127.0.0.1 alone and ends with this process, or with `ray.shutdown()`.

    It runs no dashboard, autoscaler, log monitor or runtime environments. It has a metrics endpoint only if it is given a port.

    Args:
        cpus: None: all of this machine.
        metrics_port: 0: no metrics endpoint.
        env: environment of all its processes, in addition to this process's own.
        options: further options of `ray.init`.

    Raises:
        Unavailable: Ray did not start in time in three attempts.
    """
    stay_on_loopback()
    SESSIONS.mkdir(mode=0o700, exist_ok=True)
    threading.Thread(target=clear, name="sessions", daemon=True).start()
    config = {
        "prestart_worker_first_driver": False,  # the driver continues at once
        "num_workers_soft_limit": IDLE + (cpus or os.cpu_count() or 1),  # idle ones above this end after a second
        "worker_niceness": 0,  # with the default of 15 a busy broker would starve a shard
        "worker_register_timeout_seconds": round(2 * START_S),
        "enable_metrics_collection": bool(metrics_port),
    }
    for attempt in range(1, TRIES + 1):
        try:
            with _minimal_ray(metrics_port), _environment({"RAY_USAGE_STATS_ENABLED": "0", **(env or {})}):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    _temp_dir=str(SESSIONS),
                    _metrics_export_port=metrics_port or None,
                    _system_config=config,
                    **options,
                )
            return
        except Exception as reason:  # Ray raises bare exceptions
            ray.shutdown()
            if attempt == TRIES:
                raise Unavailable(
                    f"Ray on this machine: expected it to start, got {' '.join(str(reason).split())} in {TRIES} attempts; see "
                    f"{SESSIONS}/session_latest/logs, and check free memory and disk space"
                ) from reason
            log.warning("Ray on this machine did not start, retrying: %s", reason)


def stay_on_loopback() -> None:
    """Have Ray listen on, and join from, 127.0.0.1."""
    # Ray ignores a loopback `_node_ip_address` and listens on all interfaces unless clusters are disabled. Ray's own
    # processes read that from the environment. This process has read it already, so the constant is set too.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def clear() -> None:
    """Delete the folders of ended sessions except the newest `KEPT_SESSIONS`. A session's name ends with the pid of its starter."""
    ended = [
        s
        for s in SESSIONS.glob("session_*_*")
        if (pid := s.name.rpartition("_")[2]).isdigit() and not _is_running(int(pid))
    ]
    for session in sorted(ended)[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class _Node(node.Node):
    """The processes of a local Ray: its store, the raylet, and Python workers."""

    metrics = False

    def __init__(self, ray_params: Any, *arguments: Any, **options: Any) -> None:
        # Ray's default is one port for all Ray instances of a machine. Another process may hold it.
        ray_params.dashboard_agent_listen_port = 0
        try:
            super().__init__(ray_params, *arguments, **options)
        except BaseException:
            self.kill_all_processes(check_alive=False)  # `ray.shutdown` ends only a node that has started
            raise

    def start_monitor(self) -> None:
        """No autoscaler."""

    def start_log_monitor(self) -> None:
        """Logs stay in files."""

    def start_api_server(self, **_: Any) -> None:
        """No dashboard."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        """Start the raylet without waiting for services that do not run."""
        _raylet: Any = ray._raylet
        unused = [_raylet.RUNTIME_ENV_AGENT_PORT_NAME]
        if not self.metrics:
            unused += [
                _raylet.METRICS_AGENT_PORT_NAME,
                _raylet.METRICS_EXPORT_PORT_NAME,
                _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
            ]
        for name in unused:
            _raylet.persist_port(self._session_dir, self._node_id, name, NO_PORT)
        super().start_raylet(*arguments, **options)

    def start_ray_processes(self) -> None:
        """Start Ray's processes and wait until the node is known. Ray itself gives up after 30 s, too early on a busy machine."""
        super().start_ray_processes()
        (raylet,) = self.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
        deadline = time.monotonic() + START_S
        while True:
            try:
                services.get_node(self.gcs_address, self._node_id)
                return
            except RuntimeError as reason:
                if (status := raylet.process.poll()) is not None:
                    raise RuntimeError(f"its raylet ended with status {status}") from reason
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no raylet within {START_S:.0f} s") from reason
                time.sleep(0.05)


@contextmanager
def _minimal_ray(metrics_port: int) -> Iterator[None]:
    """Inside this context `ray.init` starts a `_Node`."""
    flags = {
        "--num_prestart_python_workers": str(IDLE),
        "--maximum_startup_concurrency": str(max(IDLE, os.cpu_count() or 1)),
        "--runtime_env_agent_command": STAND_IN,
    }
    if not metrics_port:
        flags["--dashboard_agent_command"] = STAND_IN
    original_node, original_start = node.Node, services.start_ray_process

    def start_process(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_RAYLET:
            command = [flag for flag in command if flag.partition("=")[0] not in flags]
            command += [f"{name}={value}" for name, value in flags.items()]
        return original_start(command, process_type, **options)

    _Node.metrics = bool(metrics_port)
    node.Node, services.start_ray_process = _Node, start_process
    try:
        yield
    finally:
        node.Node, services.start_ray_process = original_node, original_start


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Add variables to this process's environment inside the context. Processes that start meanwhile keep them."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
