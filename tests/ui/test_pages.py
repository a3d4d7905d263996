"""The pages' stories without a browser: NiceGUI's simulated user opens them, and sees and does what a person does."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the live page needs NiceGUI: pip install 'tocsin[ui]'")

from nicegui import app, ui
from nicegui.testing import User
from nicegui.testing.user_simulation import user_simulation

from tests.ui import scene
from tests.ui.served import Feed, Letters, publishing
from tocsin.pipelines.runtime.settings import Settings
from tocsin.pipelines.ui.access import AccessPolicy
from tocsin.pipelines.ui.app import build
from tocsin.pipelines.ui.data import actions
from tocsin.pipelines.ui.sources import Commands, Sources

Story = Callable[[User, Sources], Awaitable[None]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    scene.build_lake(folder, engines=30)
    return folder


@pytest.fixture
def tell(lake: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`tell(story, changes=False)` runs a story over the scene; a reverse proxy names the person zoe."""

    def run(story: Story, *, changes: bool = False) -> None:
        settings = Settings.load(None, {"lake.path": str(lake), "mlflow.enabled": False})
        sources = Sources.of(settings, Commands(dict, lambda *order: ["true"]), allow_changes=changes)
        sources = replace(sources, feed=Feed(), letters=Letters())  # type: ignore[arg-type]
        sources.actions._letters = sources.letters
        monkeypatch.setattr(actions, "publish", publishing(sources.board))

        async def simulated() -> None:
            async with user_simulation(root=lambda: None) as user:
                build(sources, AccessPolicy(user_header="x-forwarded-user"))
                user.http_client.headers["x-forwarded-user"] = "zoe"
                user.javascript_rules[re.compile("localStorage.getItem.*")] = lambda _: None
                await story(user, sources)

        loaded = dict(sys.modules)
        try:
            asyncio.run(simulated())
        finally:
            sys.modules |= loaded  # the simulation removes the pages' module and the packages that it is in
            sources.queries.close()

    return run


def _rows(user: User) -> list[dict[str, Any]]:
    (grid,) = user.find(ui.aggrid).elements
    return list(grid.options["rowData"])


async def _sees(user: User, what: Any) -> None:
    """Wait until a text or an element is there, for 20 s on a busy machine."""
    await user.should_see(what, retries=200)


async def _takes_text(user: User, marker: str) -> None:
    for _ in range(400):
        if all(isinstance(box, ui.textarea) and box.enabled for box in user.find(marker=marker).elements):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"expected {marker} to be enabled within 20 s")


async def _sees_rows(user: User) -> list[dict[str, Any]]:
    await _sees(user, ui.aggrid)
    for _ in range(400):
        if rows := _rows(user):
            return rows
        await asyncio.sleep(0.05)
    raise AssertionError("expected a grid with rows within 20 s")


def test_the_overview_shows_pipelines_and_what_is_raised(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        bad = scene.shard("touch", state="refused", error="expected the right to do this")
        reports = [scene.report("rul"), scene.report("touch", bad, ready=False)]
        sources.fleet.record("test", json.dumps({"pipelines": reports}).encode())
        sources.board.add(scene.alert("42"), 0)
        await user.open("/")
        await _sees(user, "✓ running")
        await _sees(user, "! refused")
        await _sees(user, "expected the right to do this")
        await _sees(user, "▲ 1 alert now")
        await _sees(user, "rul 42")
        sources.board.add(scene.alert("42", transition="cleared", after_s=9), 0)
        await _sees(user, "No alert is raised.")
        sources.fleet.record("test", json.dumps({"pipelines": reports[1:]}).encode())
        await _sees(user, "○ not running")
        await user.should_not_see("✓ running")

    tell(story)


def test_a_read_only_page_offers_no_change(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        sources.board.add(raised := scene.alert("42"), 0)
        await user.open(f"/alerts?id={raised.id}")
        assert [row["key"] for row in await _sees_rows(user)] == ["42"]
        await _sees(user, "critical of 42 (rul)")
        await _sees(user, "This page is read-only.")
        await user.should_not_see("Silence")

    tell(story)


def test_a_person_acknowledges_with_the_name_that_the_proxy_gives(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        sources.board.add(raised := scene.alert("42"), 0)
        await user.open(f"/alerts?id={raised.id}")
        user.find("Acknowledge").click()
        await _sees(user, "Your name")
        user.find("Reason").type("pump ordered")
        user.find(marker="confirm").click()
        await _sees(user, "acknowledged by zoe")
        state = sources.board.get(raised.id)
        assert (
            state
            and state.acknowledged
            and (state.acknowledged.by, state.acknowledged.reason) == ("zoe", "pump ordered")
        )

    tell(story, changes=True)


def test_assets_are_listed_and_one_has_its_curves(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        await user.open("/assets?pipeline=rul")
        rows = {row["id"]: row for row in await _sees_rows(user)}
        assert len(rows) == 30
        assert rows["7"]["rul"] == round(12.3 + 2 * math.sin(399), 2), "four digits, also of a float32"
        await _sees(user, "30 assets")
        await user.open("/asset?pipeline=rul&key=7")
        await _sees(user, "400 rows until 2026-01-31 12:00:00Z, judged by rul/2")
        kinds = {chart.options["series"][0]["type"] for chart in user.find(ui.echart).elements}
        assert kinds == {"line", "heatmap"}
        await user.open("/asset?pipeline=surprise&key=rov")
        await _sees(user, "Last kept frames")
        await user.open("/asset?pipeline=rul&key=nobody")
        await _sees(user, "There is no row of nobody yet.")

    tell(story)


@pytest.mark.parametrize(
    ("path", "read"), [("/assets?pipeline=rul", "latest"), ("/asset?pipeline=rul&key=7", "history")]
)
def test_a_page_says_while_the_lake_is_away_and_goes_on(
    tell: Callable[..., None], path: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("asset", "assets"):
        monkeypatch.setattr(f"tocsin.pipelines.ui.pages.{module}.EVERY_S", 0.05)
    failures: list[Exception] = []

    async def story(user: User, sources: Sources) -> None:
        app.on_exception(failures.append)
        there = getattr(sources.assets, read)
        await user.open(path)
        await _sees(user, "30 assets" if read == "latest" else "400 rows")

        def away(*_: Any) -> None:
            raise OSError("the drive is not mounted")

        monkeypatch.setattr(sources.assets, read, away)
        await _sees(user, "OSError: the drive is not mounted")
        monkeypatch.setattr(sources.assets, read, lambda *_: None)  # as when a person leaves meanwhile
        await asyncio.sleep(0.3)
        monkeypatch.setattr(sources.assets, read, there)
        await asyncio.sleep(0.3)
        await user.should_not_see("not mounted")

    tell(story)
    assert failures == []


def test_dead_letters_are_listed_with_their_reason(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        await user.open("/dead-letters")
        rows = await _sees_rows(user)
        assert [(row["record"], row["error"]) for row in rows] == [
            ("sensors.industrial[3]@7", "BadValue"),
            ("sensors.industrial[3]@9", "TooLate"),
        ]

    tell(story)


def test_a_query_answers_with_a_chart_and_a_wrong_one_with_a_line(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        await user.open("/query")
        await _takes_text(user, "sql")
        user.find(marker="sql").clear().type("SELECT cycle, rul FROM rul WHERE key = '7'")
        user.find(marker="run").click()
        await _sees(user, "400 rows")
        assert len(_rows(user)) == 400
        await _sees(user, ui.echart)
        user.find(marker="sql").clear().type("SELECT * FROM read_csv('/etc/passwd')")
        user.find(marker="run").click()
        await _sees(user, "which reads files")

    tell(story)


def test_models_without_mlflow_say_so(tell: Callable[..., None]) -> None:
    async def story(user: User, sources: Sources) -> None:
        await user.open("/models")
        await _sees(user, "MLflow is off in the settings")

    tell(story)
