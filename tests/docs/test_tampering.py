"""The page on tampering, followed as a reader would, in a folder with clips of simulated cameras."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.cli.test_tampering_cli import cameras
from tests.conftest import ROOT
from tests.support.tour import blocks
from tocsin.models.tampering.model import SHIPPED, load
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.tampering import RESULTS, TamperingOptions, pipeline

PAGE = ROOT / "docs" / "tampering.md"


def test_the_options_and_the_columns_of_the_page_are_the_pipelines() -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    given, config = tomllib.loads(text)["pipelines"]["tampering"], load().config
    assert given.pop("forget_after") == "30d"
    defaults = TamperingOptions().model_dump() | {"level": config.level, "warm": config.warm}
    assert {**defaults, **given} == defaults and given.keys() == defaults.keys() - {"name", "topic"}
    made = pipeline(given, Model(SHIPPED, "cameras", "cpu"))
    assert [rule.name for rule in made.rules] == ["tampered"] and made.topic in PAGE.read_text()
    assert all(f"`{name}`" in PAGE.read_text() for name in RESULTS.names if name not in ("camera", "sequence"))


def test_the_query_of_the_page_finds_the_intervals() -> None:
    ((_, query),) = [block for block in blocks(PAGE) if block[0] == "sql"]
    made = pipeline({}, Model(SHIPPED, "cameras", "cpu"))
    found = pl.SQLContext(tampering=pl.from_arrow(made.table.empty_table())).execute(query).collect()
    assert found.columns == ["key", "kind", "since", "until", "score"]


@pytest.mark.slow  # its short form is tests/cli/test_tampering_cli.py
def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras(tmp_path / "cameras")
    monkeypatch.chdir(tmp_path)
    commands = [line.split()[1:] for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    assert [command[0] for command in commands] == ["train", "evaluate", "evaluate"]
    said = []
    for command in commands:
        short = ["--steps", "10", "--series", "2"] if command[0] == "train" else ["--attacks", "1"]
        done = CliRunner().invoke(app, [*command, *short, "--json"], catch_exceptions=False)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    assert (said[0]["name"], said[0]["version"]) == ("tampering", "1")
    assert (said[1]["model"], said[2]["model"]) == ("shipped cameras", "tampering@champion")
    assert all(one["counted"]["clips"] == 2 and "hashes" in one["baselines"] for one in said[1:])
