"""`tocsin contracts` describes the pipelines that come with Tocsin; AsyncAPI's own parser reads the document."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.asyncapi import parsed
from tests.support.shipped import PIPELINES, refusal
from tocsin.pipelines.cli.app import app

TOPICS = [shipped.topic for shipped in PIPELINES.values()]
LABELLED = [name for name, shipped in PIPELINES.items() if shipped.labelled]
IN_CONTEXT = [name for name, shipped in PIPELINES.items() if shipped.in_context]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all pipelines that come with Tocsin, from a folder without settings."""
    folder = tmp_path_factory.mktemp("contracts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOCSIN_KAFKA__SASL_PLAIN_PASSWORD", "geheim")
        done = CliRunner().invoke(app, ["contracts", "--out", "made"])
        assert done.exit_code == 0, done.exception
    assert [*folder.iterdir()] == [folder / "made"]
    assert sorted(done.stdout.split()) == sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()
    )
    return folder / "made"


def test_every_topic_of_every_pipeline_is_there(written: Path) -> None:
    made = yaml.safe_load((written / "asyncapi.yaml").read_text())
    labels = [*(f"labels.{name}" for name in LABELLED), *(f"context.{name}" for name in IN_CONTEXT)]
    expected = {*TOPICS, *labels, *(f"{t}.dlq" for t in (*TOPICS, *labels)), *(f"alerts.{n}" for n in PIPELINES)}
    assert {channel["address"] for channel in made["channels"].values()} == expected
    assert made["servers"]["kafka-1"]["host"] == "localhost:9092"
    schemas = {file.name for file in (written / "schemas").iterdir()}
    assert schemas == {
        *(f"{topic}.schema.json" for topic in (*TOPICS, *labels) if topic.startswith(("sensors", "labels", "context"))),
        *(f"{topic}.headers.schema.json" for topic in TOPICS if topic.startswith("video")),
    }
    assert not any("geheim" in file.read_text() for file in written.rglob("*") if file.is_file())


def test_asyncapis_parser_accepts_it(written: Path, request: pytest.FixtureRequest) -> None:
    faults, channels = parsed(written / "asyncapi.yaml", request.config.cache.mkdir("asyncapi"))
    assert faults == []
    assert len(channels) == 2 * len(TOPICS) + 2 * len(LABELLED + IN_CONTEXT) + len(PIPELINES)


def test_one_pipeline_from_the_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tocsin.toml").write_text('[pipelines.job]\nfactory = "tests.crash.job:pipeline"\ntopic = "in"\n')
    done = CliRunner().invoke(app, ["contracts", "job"])
    assert done.exit_code == 0, done.exception
    made = yaml.safe_load((tmp_path / "contracts" / "asyncapi.yaml").read_text())
    assert [*made["channels"]] == ["in", "alerts.job", "in.dlq"]
    assert done.stdout.split() == ["contracts/asyncapi.yaml", "contracts/schemas/in.schema.json"]
    assert {file.name for file in tmp_path.iterdir()} == {"tocsin.toml", "contracts"}


def test_an_unknown_pipeline_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["contracts", "nope"])
    assert str(done.exception).startswith(refusal("nope"))
    assert not [*tmp_path.iterdir()]
