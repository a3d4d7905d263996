"""The command `ui`: a web page with the pipelines, their alerts, assets, dead letters, models, and SQL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tocsin.pipelines.cli.invocation import Invocation
    from tocsin.pipelines.runtime.settings import Settings
    from tocsin.pipelines.ui.sources import Commands

PORT = 8082


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but a loopback address needs a login.")
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the token that a person logs in with.")
    ] = None,
    user_header: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Header in which a reverse proxy names the person, such as X-Forwarded-User."
        ),
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Address of the reverse proxy; repeatable. Without it, this machine's own."
        ),
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Let people acknowledge and silence alerts, and replay dead letters."),
    ] = False,
) -> None:
    """Serve a live web page: pipelines, alerts, assets, dead letters, models and SQL. Read-only unless asked."""
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    try:
        import nicegui  # noqa: F401
    except ImportError:
        raise ConfigError("tocsin ui: expected NiceGUI, got none; install it: pip install 'tocsin[ui]'") from None
    from tocsin.pipelines.ui.access import AccessPolicy
    from tocsin.pipelines.ui.app import serve
    from tocsin.pipelines.ui.sources import Sources

    settings = context.obj.settings()
    policy = AccessPolicy.of(host, token_file, user_header, proxy or ())
    sources = Sources.of(settings, _commands(context.obj, settings), allow_changes=allow_changes)
    place = f"[{host}]" if ":" in host else host
    with suppress(KeyboardInterrupt):  # that the server passes on once it has ended
        serve(sources, policy, port, started=lambda: note(f"Tocsin at http://{place}:{port}, until Ctrl-C"))


def _commands(invocation: Invocation, settings: Settings) -> Commands:
    """Other commands of `tocsin`, with this one's settings."""
    from tocsin.pipelines.cli.runs import active_runs
    from tocsin.pipelines.ui.sources import Commands

    config = ["--config", str(invocation.config)] if invocation.config else []
    sets = [word for each in invocation.sets for word in ("--set", each)]
    tocsin = [sys.executable, "-m", "tocsin", *config, *sets]
    is_local = settings.ray.address == "local" and not os.environ.get("RAY_ADDRESS")

    def status() -> Mapping[str, Sequence[str]]:
        """A command for each run of this folder, whose Rays are apart, or one for the whole cluster."""
        if not is_local:
            return {settings.ray.address: [*tocsin, "status", "--watch", "--json"]}
        runs = [run.pipeline for run in active_runs() if run.address]
        return {pipeline: [*tocsin, "status", pipeline, "--watch", "--json"] for pipeline in runs}

    def silence(pipeline: str, key: str, last: str) -> Sequence[str]:
        return [*tocsin, "silence", "--for", last, "--pipeline", pipeline, "--", key]

    return Commands(status, silence)
