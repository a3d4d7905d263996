"""Follow a page as a reader would: write its files and run its commands, in a separate folder."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.support.background import Background
from tests.support.forked import Tocsin

TYPED = ("sh", "python", "sql", "toml")
"""Kinds of blocks that a reader types; blocks that are only shown are `text`."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return a page's fenced blocks in order, each with its kind."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


BIN = Path(sys.executable).parent
"""The folder in which `tocsin` and the other commands that a reader types are installed."""


def environment(**variables: str) -> dict[str, str]:
    """Return the environment that a reader has after `source .venv/bin/activate`.

    It has no PYTHONPATH, with which a test would find modules that a reader's command does not. Only if another checkout is
    installed (several worktrees with one virtual environment) does PYTHONPATH select this one.
    """
    found = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # set by `make test`; a reader's make has no parent make
        found.pop(name, None)
    for name in [
        name for name in found if name.startswith(("PYTEST_", "NICEGUI_"))
    ]:  # NiceGUI takes them for a test of its own
        del found[name]
    installed = importlib.metadata.distribution("tocsin").read_text("direct_url.json") or "{}"
    if json.loads(installed).get("url") == ROOT.as_uri():
        found.pop("PYTHONPATH", None)
    else:
        found["PYTHONPATH"] = str(ROOT)
    return found


def make(*arguments: str) -> list[str]:
    """Return a `make` command that uses this virtual environment, even if its set-up is outdated."""
    venv = BIN.parent
    return ["make", f"--file={ROOT / 'Makefile'}", f"--old-file={venv / '.ready'}", f"VENV={venv}", *arguments]


class Tour:
    """A folder, and an environment in which `tocsin` runs from this checkout."""

    def __init__(self, folder: Path, bootstrap_servers: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = environment(TOCSIN_KAFKA__BOOTSTRAP_SERVERS=bootstrap_servers, TOCSIN_RAY__NUM_CPUS="0")
        self.running: Background | None = None

    def __call__(self, command: str) -> str:
        arguments = shlex.split(command)
        if arguments[0] == "tocsin":
            tocsin = Tocsin(arguments[1:], self.folder, self.environment)
            output, errors = tocsin.communicate(timeout=400)
            status = tocsin.returncode
        else:
            completed = subprocess.run(
                command, shell=True, cwd=self.folder, env=self.environment, text=True, capture_output=True, timeout=400
            )
            output, errors, status = completed.stdout, completed.stderr, completed.returncode
        assert status == 0, f"{command}\n{output}{errors}"
        return output

    def json(self, command: str) -> list[Any]:
        """Run a command with `--json`. Returns its lines, parsed."""
        return [json.loads(line) for line in self(f"{command} --json").splitlines()]

    def write(self, page: Path) -> dict[str, str]:
        """Write the files of a page, which have their names in their first lines. Returns the files by name."""
        files = {}
        for kind, text in blocks(page):
            if kind in ("python", "toml"):
                name = re.match(r"# (\S+\.\w+)\n", text)
                assert name, f"{page.name}: expected a file's name in the first line, got {text[:40]!r}"
                files[name[1]] = text
                (self.folder / name[1]).write_text(text)
        return files

    def run(self, command: str) -> None:
        """Start a command that a page runs in the background, and wait until its Ray is up."""
        typed = ["sh", "-c", f"exec {command}"]
        self.running = Background(typed, folder=self.folder, environment=self.environment)

    def shards(self, pipeline: str) -> list[dict[str, Any]]:
        """Return a pipeline's shards as `tocsin status` reports them."""
        (status,) = self.json(f"tocsin status {pipeline}")
        return status["pipelines"][0]["shards"]

    def until(self, condition: Callable[[list[dict[str, Any]]], bool], why: str, pipeline: str) -> list[dict[str, Any]]:
        """Wait until a pipeline's shards satisfy `condition`. Returns the shards."""
        give_up = time.monotonic() + 240
        while not condition(shards := self.shards(pipeline)):
            assert time.monotonic() < give_up, f"expected within 240 s: {why}; got {shards}"
            time.sleep(1)
        return shards

    def wait_committed(self, pipeline: str, records: int) -> None:
        """Wait until at least `records` records are committed."""

        def committed(shards: list[dict[str, Any]]) -> bool:
            return sum(sum(s["committed"].values()) for s in shards) >= records

        self.until(committed, f"{records} records to be committed", pipeline)

    def once(self, command: str, ready: Callable[[str], bool]) -> None:
        """Repeat a command until its output satisfies `ready`."""
        give_up = time.monotonic() + 120
        while not ready(output := self(command)):
            assert time.monotonic() < give_up, f"expected another answer of {command} within 120 s, got {output}"
            time.sleep(1)

    def kill(self) -> None:
        """Kill the background command as if the machine had died."""
        assert self.running
        self.running.kill()
        self.running = None

    def stop(self) -> None:
        if self.running:
            self.running.stop()
            self.running = None
