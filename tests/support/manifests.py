"""The files that deploy Tocsin: their documents, the commands in them, and the settings that they give to Tocsin."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.conftest import ROOT
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.settings import PREFIX, Settings

COMPOSE = ROOT / "deploy" / "compose.yaml"
KUBERAY = ROOT / "deploy" / "kuberay"
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


def documents(file: Path) -> list[dict[str, Any]]:
    """The documents in a YAML file."""
    return list(yaml.safe_load_all(file.read_text()))


def services() -> dict[str, dict[str, Any]]:
    """The services in deploy/compose.yaml, by name."""
    found: dict[str, dict[str, Any]] = documents(COMPOSE)[0]["services"]
    return found


def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """The Kubernetes objects in deploy/kuberay, by kind and name."""
    found = [o for file in sorted(KUBERAY.glob("*.yaml")) if file.name != "kustomization.yaml" for o in documents(file)]
    return {(o["kind"], o["metadata"]["name"]): o for o in found}


def pods() -> dict[str, dict[str, Any]]:
    """The pod templates in deploy/kuberay, by the name of what they are for."""
    cluster, job = objects()["RayCluster", "tocsin"]["spec"], objects()["CronJob", "compaction"]["spec"]
    workers = {f"{group['groupName']} workers": group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        "head": cluster["headGroupSpec"]["template"],
        **workers,
        "compaction": job["jobTemplate"]["spec"]["template"],
        "page": objects()["Deployment", "page"]["spec"]["template"],
    }


def texts(value: Any) -> Iterator[str]:
    """All texts in a document, except its keys."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def commands(script: str) -> list[list[str]]:
    """The arguments of each `tocsin` in a shell script."""
    found: list[list[str]] = []
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        current: list[str] | None = None
        for word in lexer:
            if current is not None and set(word) & set("();<>|&"):
                current = None
            elif current is not None:
                current.append(word)
            elif word == "tocsin":
                found.append(current := [])
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Parse the arguments of `tocsin` as the command does. Returns the subcommand's parameters.

    Raises:
        typer's UsageError: there is no such command or option, or an argument is missing.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("tocsin", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    found: dict[str, Any] = context.params
    return found


def settings(monkeypatch: pytest.MonkeyPatch, file: Path | None, environment: Mapping[str, Any]) -> Settings:
    """The settings that Tocsin has with a file and an environment; None: no file. A name or value that it refuses is an error."""
    monkeypatch.chdir(ROOT / "tests")  # which has no tocsin.toml
    for name, value in environment.items():
        if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG":
            monkeypatch.setenv(name, str(value))
    return Settings.load(file)


def locked(package: str) -> str:
    """A package's version in requirements.lock."""
    (version,) = re.findall(rf"^{re.escape(package)}==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return version
