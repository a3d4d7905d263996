"""Connects to Ray: to a running cluster, or to a local one that this process starts on the loopback address."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import services
from ray.exceptions import AuthenticationError
from ray.util import list_named_actors

from tocsin.pipelines.runtime.control.local_ray import start, stay_on_loopback
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Refused, Unavailable

NAMESPACE = "tocsin"
PROBE_S = 5.0


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
        Refused: the cluster requires another token.
        Unavailable: no cluster answers.
    """
    worker: Any = ray._private.worker
    worker.print_to_stdstream = _print_message
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
    except AuthenticationError:
        raise refused_token(address) from None
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


def refused_token(address: str) -> Refused:
    """The error that a cluster requires its token, and this process has none or another one."""
    raylet: Any = ray._raylet
    if raylet.get_authentication_mode() != raylet.AuthenticationMode.TOKEN:
        got = "none, since RAY_AUTH_MODE is not `token`; unset it"
    elif raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        got = "another one; replace it"
    else:
        got = "none; put it there"
    return Refused(
        f"Ray at {address}: expected the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token, got {got}: "
        "`ray get-auth-token` prints it on the cluster's head"
    )


def _check_reachable(address: str) -> None:
    """Check that a TCP connection succeeds and that the token is accepted. Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    socket.create_connection((host, int(port)), timeout=5).close()
    import grpc

    method = "RayletDriver/KVGet" if address.startswith("ray://") else "NodeInfoGcsService/CheckAlive"
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(b"", metadata=_token(), timeout=PROBE_S)
        except grpc.RpcError as reason:  # of all others `ray.init` says more
            if reason.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise refused_token(address) from None


def _print_message(message: Mapping[str, Any], **_: Any) -> None:
    """Print a message from Ray, such as that a node died. Ray itself prints it to stdout, among a command's JSON."""
    print("Ray:", *" ".join(message["lines"]).split(), file=sys.stderr)


def _token() -> list[tuple[str, str]]:
    """The token as metadata of a gRPC call; nothing without one."""
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    return list(loader.get_token_for_http_header().items()) if loader.has_token() else []
