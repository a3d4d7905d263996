"""Joining Ray: a cluster that runs, or one of this process's own on the loopback address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import ray_constants, services
from ray.util import list_named_actors

from pipelines.runtime.errors import Unavailable

NAMESPACE = "tocsin"


def connect(
    address: str, *, env: Mapping[str, str] | None = None, cpus: int | None = None, metrics_port: int = 0
) -> None:
    """Join a Ray cluster. Ray asks for its token unless RAY_AUTH_MODE says otherwise, and makes one for a local cluster.

    Args:
        address: "local" starts one that ends with this process and listens on 127.0.0.1 alone; "auto" finds one on this
            machine; else `host:port` or `ray://host:port`.
        env: environment of all actors.
        cpus: of a local cluster; None: all of this machine.
        metrics_port: where a local cluster serves metrics; 0: any that is free.

    Raises:
        Unavailable: no cluster answers.
    """
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    common["runtime_env"] = {"env_vars": dict(env or {})}
    if address == "local":
        _stay_on_loopback()
        common |= {
            "include_dashboard": False,
            "object_store_memory": 512 << 20,
            "_metrics_export_port": metrics_port or None,
        }
        ray.init(address="local", num_cpus=cpus, **common)
        return
    here = services.find_gcs_addresses()
    if address == "auto" and not os.environ.get("RAY_ADDRESS") and len(here) == 1:
        (address,) = here
    if address in here and address.startswith("127.0.0.1:"):  # one that "local" has started
        _stay_on_loopback()
    try:
        _check_answers(address)
        ray.init(address=address, **common)
    except (OSError, ValueError, RuntimeError) as reason:
        line = str(reason).splitlines()[0]
        raise Unavailable(
            f"Ray at {address}: expected a cluster, got: {line}; start one with `ray start --head`, or name it: ray.address"
        ) from reason


def actors() -> list[str]:
    """Names of Tocsin's living actors on this cluster."""
    return [a["name"] for a in list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE]


def _stay_on_loopback() -> None:
    # Ray ignores a loopback `_node_ip_address` and listens on all interfaces, unless it is told that it is no cluster:
    # its own processes read that from the environment, this one has read it already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
