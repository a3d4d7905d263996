"""An undeclared pipeline is refused at once; no Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tocsin.pipelines.cli.app import app
from tocsin.pipelines.cli.deployment import shipped
from tocsin.pipelines.runtime.declare.errors import ConfigError


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_pipeline_that_nobody_declared_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = CliRunner().invoke(app, [command, "nope", "--shards", "2"]).exception
    assert isinstance(reason, ConfigError)
    assert str(reason).startswith(
        "pipeline nope: expected one of field, irradiance, occupancy, quality, rul, surprise, touch, got another name"
    )


def test_the_folders_of_shipped_weights_are_those_that_their_models_name() -> None:
    from tocsin.models.field.model import HALLS
    from tocsin.models.irradiance.model import SITES
    from tocsin.models.occupancy.model import OFFICES
    from tocsin.models.quality.model import PLANTS
    from tocsin.models.rul.model import FD001
    from tocsin.models.surprise.model import SHIPPED as DIVES
    from tocsin.models.touch.model import SHIPPED as TABLE

    names = ("rul", "occupancy", "surprise", "touch", "irradiance", "quality", "field")
    assert [shipped(f"{name}@champion") for name in names] == [FD001, OFFICES, DIVES, TABLE, SITES, PLANTS, HALLS]
    assert shipped("rul/3") is None and shipped("pumps@champion") is None
