"""The web server of the live page: its pages, who may open them, and how it starts and ends."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import app, ui

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
    """
    build(sources, policy)
    app.on_startup(sources.start)
    app.on_startup(started)
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
