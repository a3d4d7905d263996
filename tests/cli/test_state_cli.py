"""`tocsin state`: the engine's state of each key, on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runtime.admin.test_inspection import Shard
from tocsin.pipelines.cli import cluster
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.control.desired_state import last_stored
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake

SETTINGS = """
[lake]
path = "{lake}"

[pipelines.pumps]
factory = "tests.runtime.admin.test_inspection:pipeline"
shards = 1
"""


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Arguments of `tocsin state forget`, with a lake that holds the state of pump `a`."""
    shard = Shard(Lake(str(tmp_path / "lake")))
    shard.read(*(("a", hour, 0.1) for hour in range(9)))
    shard.checkpoint()
    (tmp_path / "tocsin.toml").write_text(SETTINGS.format(lake=tmp_path / "lake"))
    return ["--config", str(tmp_path / "tocsin.toml"), "state", "forget", "pumps"]


def test_a_stopped_pipeline_is_told_to_forget_when_it_starts(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def nowhere(settings: Any) -> Iterator[None]:
        raise Unavailable("no Ray here")
        yield

    monkeypatch.setattr(cluster, "joined", nowhere)
    done = CliRunner().invoke(app, [*asked, "a"])
    assert done.exit_code == 0 and "it will forget a when it starts" in done.output
    kept = last_stored(Lake(str(tmp_path / "lake")), "pumps")
    assert kept and kept.plan.forgets.keys() == {"a"}


def test_a_running_pipelines_supervisor_is_told(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    @contextmanager
    def here(settings: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(cluster, "joined", here)
    monkeypatch.setattr(cluster, "supervisor", lambda name: name)
    monkeypatch.setattr(cluster, "send", lambda *order: told.append(order))
    done = CliRunner().invoke(app, [*asked, "a"])
    assert done.exit_code == 0 and told == [("pumps", "forget", "a")]


def test_a_key_that_is_not_there_is_refused_with_the_nearest(asked: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*asked, "b"])
    assert done.exit_code != 0
    assert last_stored(Lake(str(tmp_path / "lake")), "pumps") is None
