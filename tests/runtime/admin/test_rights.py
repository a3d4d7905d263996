"""The rights that users of Kafka need, and the commands that grant them."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.support.tour import blocks
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.admin.rights import ROLES, Right, Subject, commands, rights
from tocsin.pipelines.runtime.settings import Settings

RUL = Subject("rul", "sensors.industrial", ("pager",))


def test_the_commands_grant_each_right_once() -> None:
    granted = rights("run", RUL)
    found = []
    for line in commands(granted, "User:plant", "broker:9093"):
        name, *arguments = shlex.split(line)
        assert name == "kafka-acls"
        given = [*pairwise(arguments)]
        assert {("--bootstrap-server", "broker:9093"), ("--allow-principal", "User:plant")} < {*given}
        (kind, resource) = next((k[2:], v) for k, v in given if k in ("--topic", "--group", "--transactional-id"))
        prefixed = ("--resource-pattern-type", "prefixed") in given
        found += [Right(v, kind, resource, prefixed) for k, v in given if k == "--operation"]
    assert sorted(found, key=repr) == sorted(granted, key=repr)


def test_who_only_subscribes_may_not_write() -> None:
    assert rights("subscribe", RUL) == [Right("Read", "topic", "alerts.rul")]


def test_a_sink_has_a_group_of_its_own() -> None:
    group = Right("Read", "group", "tocsin.sink.rul.pager")
    assert group in rights("run", RUL)
    assert group not in rights("run", Subject("rul", "sensors.industrial"))


def test_without_challengers_nothing_of_shadows_is_needed() -> None:
    assert not [right for right in rights("run", RUL) if "shadow" in right.name]


def test_without_the_table_of_alerts_nothing_of_it_is_needed() -> None:
    without = rights("run", Subject("rul", "sensors.industrial", table=False))
    assert not [right for right in without if right.name.startswith(("alerts.rul.", "alerts.rul/", "_tocsin.alerts"))]


def test_the_page_names_what_a_pipeline_needs() -> None:
    """The table of docs/security.md is what `rights` says of `rul`."""
    page = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| (topic|group|transactional id) \| `([^`]+)`( and what begins with it)? \| (.+) \|$", page, re.M
    )
    told = [
        (role, Right(operation, kind.replace(" ", "-"), name, bool(prefixed)))
        for role, kind, name, prefixed, operations in rows
        for operation in operations.split(", ")
    ]
    subject = Subject("rul", "sensors.industrial", shadow=True, labels=True)
    assert sorted(told, key=repr) == sorted(
        ((role, right) for role in ROLES for right in rights(role, subject)), key=repr
    )


def test_the_examples_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, settings), (_, typed) = blocks(ROOT / "docs" / "security.md")
    (tmp_path / "kafka").write_text("open sesame\n")
    monkeypatch.chdir(tmp_path)
    Path("tocsin.toml").write_text(settings.replace("/run/secrets", str(tmp_path)))
    assert Settings.load().kafka.client_options()["sasl_plain_password"] == "open sesame"
    for line in typed.splitlines():
        said = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        assert said.stdout.startswith("kafka-acls --bootstrap-server broker-1:9093,broker-2:9093 --add")


@pytest.mark.parametrize("role", ROLES)
def test_the_command_prints_what_its_role_needs(role: str) -> None:
    settings = ["--set", "kafka.bootstrap_servers=broker:9093", "--set", "kafka.sasl_plain_username=plant"]
    said = CliRunner().invoke(app, [*settings, "rights", "rul", "--role", role], catch_exceptions=False)
    assert said.stdout.splitlines() == commands(
        rights(role, Subject("rul", "sensors.industrial", shadow=True)), "User:plant", "broker:9093"
    )


def test_an_unknown_role_is_refused() -> None:
    said = CliRunner().invoke(app, ["rights", "rul", "--role", "write"])
    assert said.exit_code
    assert "--role: expected one of run, feed, subscribe, acknowledge, label, plan, replay, got write" in str(
        said.exception
    )
