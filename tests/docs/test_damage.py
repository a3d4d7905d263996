"""The page on damage, followed as a reader would, in a folder with drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.test_damage_cli import pictures
from tests.conftest import ROOT
from tests.support.tour import blocks
from tocsin.models.damage import domain as module
from tocsin.pipelines.cli.app import app

PAGE = ROOT / "docs" / "damage.md"


@pytest.mark.slow  # its short form is tests/cli/test_damage_cli.py
def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "walls", 20)
    monkeypatch.setattr(module, "VALIDATION", 10)
    monkeypatch.chdir(tmp_path)
    commands = [line.split()[1:] for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [command[0] for command in commands] == ["train", "evaluate", "evaluate"]
    said = []
    for command in commands:
        short = ["--steps", "10", "--drawn", "4"] if command[0] == "train" else ["--force"]
        done = CliRunner().invoke(app, [*command, *short, "--json"], catch_exceptions=False)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    assert (said[0]["name"], said[0]["version"]) == ("damage", "1")
    assert (said[1]["model"], said[2]["model"]) == ("shipped walls", "damage@champion")
    assert all(one["counted"]["pictures"] == 20 and "dark lines" in one["baselines"] for one in said[1:])


def test_the_settings_of_the_page_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.models.damage.model import SHIPPED, load
    from tocsin.pipelines.damage import DamageOptions, pipeline
    from tocsin.pipelines.runtime.engine.plan import Model
    from tocsin.pipelines.runtime.settings import Settings

    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    given = dict(Settings.load().pipeline("damage").options)
    assert given.pop("forget_after") == "30d"
    config = load(SHIPPED, "cpu").config
    defaults = DamageOptions().model_dump() | {"level": config.level, "budget": config.budget}
    assert {**defaults, **given} == defaults and given.keys() == defaults.keys() - {"name", "topic"}
    made = pipeline(given, Model(SHIPPED, "walls", "cpu"))
    assert [rule.name for rule in made.rules] == ["damage", "growth", "out_of_domain"]
