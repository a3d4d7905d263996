"""An undeclared pipeline is refused at once; no Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.shipped import PIPELINES, refusal, weights
from tocsin.pipelines.cli import runs
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.cli.deployment import known_pipelines, shipped
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.settings import Settings


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_pipeline_that_nobody_declared_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = CliRunner().invoke(app, [command, "nope", "--shards", "2"]).exception
    assert isinstance(reason, ConfigError)
    assert str(reason).startswith(refusal("nope"))
    assert runs.active_runs() == []


def test_the_folders_of_shipped_weights_are_those_that_their_models_name() -> None:
    assert [*PIPELINES] == sorted(known_pipelines(Settings()))
    for name in PIPELINES:
        assert shipped(f"{name}@champion") == weights(name)
    assert shipped("rul/3") is None and shipped("pumps@champion") is None
