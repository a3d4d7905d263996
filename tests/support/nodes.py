"""Ray clusters of several nodes on this machine: each node has its own raylet, its own folder, and processes that can be killed."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.ports import free_port
from tests.support.tour import environment

PROGRAM = Path(__file__).with_name("ray_node.py")


class Node:
    """A node; the constructor waits until it is up. The options are those of Ray's `RayParams`."""

    def __init__(self, folder: Path, variables: Mapping[str, str], **options: object) -> None:
        folder.mkdir()
        command = [sys.executable, str(PROGRAM), json.dumps({"temp_dir": str(folder), **options})]
        with (folder / "stderr").open("w") as said:
            self._process = subprocess.Popen(
                command, cwd=folder, env=dict(variables), stdout=subprocess.PIPE, stderr=said, text=True
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, (folder / "stderr").read_text()
        started = json.loads(line)
        self.address, self.dashboard = started["address"], started["dashboard"]

    def hosts(self, pid: int) -> bool:
        """Whether a process runs on this node."""
        with suppress(psutil.NoSuchProcess):
            return self._process.pid in [parent.pid for parent in psutil.Process(pid).parents()]
        return False

    def kill(self) -> None:
        """SIGKILL all processes of the node at once, as if the machine had lost its power."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            processes = [own, *own.children(recursive=True)]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=30)
        self._process.wait()


class Nodes:
    """A cluster that requires a token. Its head runs no workers. It ends with the `with` block.

    Args:
        variables: of the environment of its nodes, such as settings.
    """

    def __init__(self, **variables: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short, since it is part of a socket's path
        self._variables = environment(**variables) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": (token := secrets.token_hex(32)),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # one client in 20 would find no server
        }
        self.nodes: list[Node] = []
        self.token = token

    def __enter__(self) -> Nodes:
        self.head = self._start(
            num_cpus=0,
            gcs_server_port=free_port(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=free_port(),
            ray_client_server_port=(client := free_port()),
        )
        self.client = f"ray://127.0.0.1:{client}"
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def access(self) -> dict[str, str]:
        """The environment of a command that has the token."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def get(self, path: str) -> str:
        """What the dashboard answers to someone with the token."""
        request = urllib.request.Request(self.head.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request) as answer:
            return answer.read().decode()

    def add(self, cpus: int) -> Node:
        """Add a node for workers."""
        return self._start(num_cpus=cpus, gcs_address=self.head.address)

    def of(self, pid: int) -> Node | None:
        """The node that a process runs on."""
        return next((node for node in self.nodes if node.hosts(pid)), None)

    def lose(self, node: Node) -> None:
        """Kill a node."""
        self.nodes.remove(node)
        node.kill()

    def _start(self, **options: object) -> Node:
        self.nodes.append(
            node := Node(self._folder / str(len(list(self._folder.iterdir()))), self._variables, **options)
        )
        return node
