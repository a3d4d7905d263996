"""Connects to Ray: to a running cluster, or to a local one that this process starts on the loopback address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import services
from ray.util import list_named_actors

from tocsin.pipelines.runtime.control.local_ray import start, stay_on_loopback
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Unavailable

NAMESPACE = "tocsin"


def connect(
    address: str, *, env: Mapping[str, str] | None = None, cpus: int | None = None, metrics_port: int = 0
) -> None:
    """Join a Ray cluster. Ray requires its token unless RAY_AUTH_MODE says otherwise, and creates one for a local cluster.

    Args:
        address: "local" starts one that ends with this process and listens on 127.0.0.1 alone; "auto" finds one on this
            machine; else `host:port` or `ray://host:port`.
        env: environment of all actors.
        cpus: number of CPUs of a local cluster; None: all of this machine.
        metrics_port: where a local cluster serves metrics; 0: nowhere.

    Raises:
        Unavailable: no cluster answers.
    """
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        start(cpus=cpus, metrics_port=metrics_port, env=env, **common)
        return
    if address.startswith("ray://"):
        logging.getLogger("ray.util.client").setLevel(logging.CRITICAL)  # its errors are also raised
    if env:
        common["runtime_env"] = {"env_vars": dict(env)}
    local_addresses = services.find_gcs_addresses()
    if address == "auto" and not os.environ.get("RAY_ADDRESS") and len(local_addresses) == 1:
        (address,) = local_addresses
    if address in local_addresses and address.startswith("127.0.0.1:"):  # a cluster that "local" has started
        stay_on_loopback()
    try:
        _check_reachable(address)
        ray.init(address=address, **common)
    except (OSError, ValueError, RuntimeError) as reason:
        line = str(reason).splitlines()[0]
        raise Unavailable(
            f"Ray at {address}: expected a cluster, got: {line}; start one with `ray start --head`, or set ray.address"
        ) from reason


def actors() -> list[str]:
    """Names of Tocsin's living actors on this cluster."""
    return [a["name"] for a in list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE]


def find(pipeline: str) -> Any:
    """The running supervisor of a pipeline.

    Raises:
        ValueError: it does not run on this cluster.
    """
    return ray.get_actor(names.supervisor_actor(pipeline), namespace=NAMESPACE)


def _check_reachable(address: str) -> None:
    """Check that a TCP connection succeeds. Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
