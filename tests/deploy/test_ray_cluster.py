"""ray_cluster.yaml is a configuration that `ray up` of the installed Ray accepts."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.conftest import ROOT

TEXT = (ROOT / "ray_cluster.yaml").read_text()
# Ray refuses these settings for existing machines, or sets them itself.
NOT_OURS = {"available_node_types", "head_node_type", "no_restart"}


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def test_ray_accepts_the_cluster_and_keeps_every_worker(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"]) == 2


@pytest.mark.parametrize(
    "broken", [{"setup_comands": []}, {"rsync_exclude": "target"}, {"auth": {"ssh_usr": "me"}}, {"cluster_name": 1}]
)
def test_ray_refuses_a_mistake_in_it(config: dict[str, Any], broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | broken))


def test_every_field_that_ray_knows_is_there_set_or_commented() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())["properties"]
    named = set(re.findall(r"^[# ]*(\w+):", TEXT, re.MULTILINE))
    known = {*schema, *schema["auth"]["properties"], *schema["docker"]["properties"]}
    assert known - NOT_OURS <= named


def test_what_it_copies_is_there(config: dict[str, Any]) -> None:
    ours = [local for local in config["file_mounts"].values() if not local.startswith("~")]
    assert [local for local in ours if not (ROOT / local).exists()] == []


@pytest.mark.parametrize("node", ["head", "worker"])
def test_ray_starts_with_options_it_has_and_with_token_authentication(config: dict[str, Any], node: str) -> None:
    command = config[f"{node}_start_ray_commands"][-1]
    environment, arguments = command.split(" ~/tocsin/.venv/bin/ray start ")
    assert "RAY_AUTH_MODE=token" in environment
    start.make_context("ray start", shlex.split(arguments))
