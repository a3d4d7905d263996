"""The web server of the live page: its pages, who may open them, and how it starts and ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from nicegui import app, background_tasks, ui

from tocsin.pipelines.runtime import ConfigError
from tocsin.pipelines.ui.access import Access, AccessPolicy
from tocsin.pipelines.ui.pages.alerts import alerts
from tocsin.pipelines.ui.pages.asset import asset
from tocsin.pipelines.ui.pages.assets import assets
from tocsin.pipelines.ui.pages.dead_letters import dead_letters
from tocsin.pipelines.ui.pages.models import models
from tocsin.pipelines.ui.pages.overview import overview
from tocsin.pipelines.ui.pages.query import query
from tocsin.pipelines.ui.sources import Sources


def build(sources: Sources, policy: AccessPolicy) -> None:
    """Register the pages. Nothing listens yet."""
    app.add_middleware(Access, policy=policy)

    @ui.page("/")
    def _() -> None:
        overview(sources)

    @ui.page("/alerts")
    def _(id: str = "") -> None:
        alerts(sources, id)

    @ui.page("/assets")
    def _(pipeline: str = "") -> None:
        assets(sources, pipeline)

    @ui.page("/asset")
    def _(pipeline: str, key: str) -> None:
        asset(sources, pipeline, key)

    @ui.page("/dead-letters")
    def _() -> None:
        dead_letters(sources)

    @ui.page("/models")
    def _() -> None:
        models(sources)

    @ui.page("/query")
    def _() -> None:
        query(sources)


def serve(sources: Sources, policy: AccessPolicy, port: int, *, started: Callable[[], None] = lambda: None) -> None:
    """Serve the pages until SIGINT or SIGTERM.

    Args:
        started: is called once the server listens.

    Raises:
        ConfigError: it can't listen there.
    """
    _check_free(policy.host, port)

    async def announce() -> None:
        while not await _listens(policy.host, port):
            await asyncio.sleep(0.05)
        started()

    build(sources, policy)
    app.on_startup(sources.start)
    app.on_startup(lambda: background_tasks.create(announce()))  # the server listens only after these
    app.on_shutdown(sources.close)
    ui.run(
        host=policy.host,
        port=port,
        title="Tocsin",
        favicon="🔔",
        dark=None,
        language="en-US",
        show=False,
        reload=False,
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=15,
        show_welcome_message=False,
        proxy_headers=False,  # `Access` checks who the peer really is
        server_header=False,
    )


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as reason:
        why = os.strerror(reason.errno) if reason.errno else reason
        raise ConfigError(
            f"tocsin ui: expected to listen on {host}, port {port}, got: {why}; choose another --port or --host"
        ) from reason


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
