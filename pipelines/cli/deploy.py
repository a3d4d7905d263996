"""The command `deploy`: start a pipeline on a Ray cluster elsewhere, with a copy of a folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.pipelines.cli.run import Json, Model, Name, OnGap, Shards, Start, Workers

if TYPE_CHECKING:
    from tocsin.pipelines.cli.invocation import Invocation
    from tocsin.pipelines.runtime.control.jobs import Jobs

OWN = ("/.tocsin/", "/lake/", "/mlruns/", "/mlflow.db*")
"""What Tocsin itself writes into a folder. It is not sent."""


def deploy(
    context: typer.Context,
    pipeline: Name,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="Address of the cluster's dashboard, such as http://head:8265.",
        ),
    ],
    working_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to send: settings, your own .py files and models.")
    ] = Path(),
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files of the folder to leave out, as in .gitignore. Repeatable."),
    ] = None,
    model: Model = None,
    shards: Shards = None,
    workers: Workers = None,
    start: Start = None,
    on_gap: OnGap = None,
    json: Json = False,
) -> None:
    """Start a pipeline on a Ray cluster elsewhere, with a copy of this folder. Returns when its shards run.

    This is `tocsin up` as a Ray job. Settings in TOCSIN_* variables are sent, too, except secrets: the cluster's nodes need those.
    """
    from tocsin.pipelines.cli.cluster import JOIN_S, within
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.cli.deployment import check_known, check_lasting
    from tocsin.pipelines.runtime.control.jobs import Jobs

    flags = {"model": model, "shards": shards, "workers": workers, "start": start, "on_gap": on_gap}
    invocation, folder = _moved(context.obj, working_dir.resolve())
    settings = invocation.settings({f"pipelines.{pipeline}.{n}": v for n, v in flags.items()}, secret_files=False)
    check_known(settings, pipeline)
    check_lasting(settings, folder)
    command = _command(invocation, pipeline, {**flags, "json": json or None})
    variables, secrets = _variables(os.environ)
    if secrets:
        note(f"{', '.join(secrets)}: not sent, since Ray shows a job's variables; set it where the cluster's nodes run")
    with within(JOIN_S, f"Ray at {address}"):
        jobs = Jobs(address)
    job = jobs.submit(command, name=pipeline, folder=folder, excludes=[*OWN, *(exclude or ())], variables=variables)
    note(f"{pipeline}: job {job} at {address}; Ctrl-C ends this command, but not the job")
    _follow(jobs, job, pipeline, json=json)


def _moved(invocation: Invocation, folder: Path) -> tuple[Invocation, Path]:
    """Go to the folder, where relative paths mean what they mean to the job, and name its settings file.

    Raises:
        ConfigError: there is no such folder, or the settings file is not in it.
    """
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.settings import FILE, PREFIX

    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder}: expected a folder, got none; name another one")
    named = invocation.config or os.environ.get(f"{PREFIX}CONFIG")
    file = Path(named).resolve() if named else folder / FILE
    if named and not file.is_relative_to(folder):
        raise ConfigError(
            f"settings in {file}: expected a file in {folder}, of which the job gets a copy, got one elsewhere; move it there"
        )
    os.chdir(folder)
    found = named or file.exists()
    return replace(invocation, config=file.relative_to(folder) if found else None), folder


def _command(invocation: Invocation, pipeline: str, flags: Mapping[str, Any]) -> str:
    """The job's command, for a shell.

    Raises:
        ConfigError: it would hold a secret, which Ray shows.
    """
    from tocsin.pipelines.cli.invocation import pair
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.settings import holds_secret

    words = ["tocsin", *(["--config", str(invocation.config)] if invocation.config else [])]
    for text in invocation.sets:
        name, value = pair(text)
        if holds_secret(tuple(name.split(".")), value):
            raise ConfigError(
                f"--set {name}: expected a setting that may be shown, got a secret, and Ray shows a job's command; set it in the "
                "environment of the cluster's nodes"
            )
        words += ["--set", text]
    words += ["--set", "ray.address=auto", "up", pipeline]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _variables(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The variables that set something, and the names of those that hold a secret."""
    import orjson

    from tocsin.pipelines.runtime.settings import PREFIX, Settings, holds_secret

    variables, secrets = dict[str, str](), list[str]()
    for name, value in sorted(environment.items()):
        prefix, loc = name[: len(PREFIX)].upper(), tuple(name[len(PREFIX) :].lower().split("__"))
        if prefix == PREFIX and loc[0] in Settings.model_fields:
            try:
                parsed = orjson.loads(value)  # a whole section
            except orjson.JSONDecodeError:
                parsed = value
            if holds_secret(loc, parsed):
                secrets.append(name)
            else:
                variables[name] = value
    return variables, secrets


def _follow(jobs: Jobs, job: str, pipeline: str, *, json: bool) -> None:
    """Print a job's log until it ends.

    Raises:
        TocsinError: it has failed.
    """
    from tocsin.pipelines.cli.console import ERROR, note, out, plain, say_json, working
    from tocsin.pipelines.runtime.declare.errors import TocsinError

    error = ""
    with working(f"{pipeline}: the job starts"):
        for line in jobs.log(job):
            if line.startswith(ERROR):
                error = line.removeprefix(ERROR)
            elif not json:
                out.print(plain(line.expandtabs()), soft_wrap=True)
            elif report := _report(line):
                say_json({"job": job, **report})
            else:
                note(line.expandtabs())
    if failure := jobs.failure(job):
        raise TocsinError(error or f"job {job}: expected it to start {pipeline}, got {failure}")


def _report(line: str) -> dict[str, Any]:
    """The report that `up --json` prints; empty for another line."""
    import orjson

    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
