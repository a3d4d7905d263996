"""Manifests fit the schemas of what reads them. The schemas come from packages or from a cluster; none is kept here."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.manifests import COMPOSE, documents, objects, pods

CUSTOM = {(kind, name): o for (kind, name), o in objects().items() if kind in ("RayCluster", "RayJob", "PodMonitor")}
BUILT_IN = {key: o for key, o in objects().items() if key not in CUSTOM}
TEMPLATES = {name: {"apiVersion": "v1", "kind": "PodTemplate", "template": pod} for name, pod in pods().items()}


def problems(schema: dict[str, Any], document: Any) -> list[str]:
    """What a schema finds wrong, each with its place."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture(scope="module")
def compose_schema() -> dict[str, Any]:
    if not (package := importlib.util.find_spec("check_jsonschema")):
        pytest.skip("needs the schema of compose-spec: pip install check-jsonschema")
    folder = Path(package.submodule_search_locations[0]) / "builtin_schemas" / "vendor"
    schema: dict[str, Any] = yaml.safe_load((folder / "compose-spec.json").read_text())
    return schema


@pytest.fixture(scope="module")
def kubernetes() -> Any:
    """The package with the schemas of Kubernetes' own objects."""
    return pytest.importorskip(
        "kubernetes_validate", reason="needs the schemas of Kubernetes: pip install kubernetes-validate"
    )


@pytest.fixture(scope="module")
def crds() -> dict[str, dict[str, Any]]:
    """The strict schemas of custom objects, by kind."""
    folder = os.environ.get("TOCSIN_CRDS")
    if not folder:
        pytest.skip(
            "needs KubeRay's and Prometheus' definitions: TOCSIN_CRDS=FOLDER with the YAML of `kubectl get crd -o yaml` in it"
        )
    found = [o for file in sorted(Path(folder).glob("*.y*ml")) for o in yaml.safe_load_all(file.read_text()) if o]
    listed = [o for document in found for o in document.get("items", [document])]
    return {o["spec"]["names"]["kind"]: o for o in listed if o["kind"] == "CustomResourceDefinition"}


def schema_of(definition: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The strict schema of a custom object's version."""
    group, version = document["apiVersion"].split("/")
    assert definition["spec"]["group"] == group
    (served,) = [v for v in definition["spec"]["versions"] if v["name"] == version and v["served"]]
    schema: dict[str, Any] = served["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return strictly(schema)


def strictly(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that also refuses unknown fields, which Kubernetes would drop without a word."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = dict(schema)
    for name in ("items", "additionalProperties"):
        if isinstance(found.get(name), dict):
            found[name] = strictly(found[name])
    if "properties" in found:
        found["properties"] = {name: strictly(part) for name, part in found["properties"].items()}
        if not found.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    return found


def test_compose_accepts_the_services(compose_schema: dict[str, Any]) -> None:
    (document,) = documents(COMPOSE)
    assert problems(compose_schema, document) == []
    document["services"]["tocsin"]["stop_grace_perod"] = "60s"
    assert problems(compose_schema, document)


@pytest.mark.parametrize("key", BUILT_IN, ids="/".join)
def test_kubernetes_accepts_its_own_objects(kubernetes: Any, key: tuple[str, str]) -> None:
    kubernetes.validate(BUILT_IN[key], kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_kubernetes_accepts_the_pods(kubernetes: Any, name: str) -> None:
    kubernetes.validate(TEMPLATES[name], kubernetes.latest_version(), strict=True)
    wrong = {**TEMPLATES[name], "template": {**TEMPLATES[name]["template"], "specs": {}}}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(wrong, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("key", CUSTOM, ids="/".join)
def test_kuberay_and_prometheus_accept_their_objects(crds: dict[str, dict[str, Any]], key: tuple[str, str]) -> None:
    if key[0] not in crds:
        pytest.skip(f"needs the definition of {key[0]} in TOCSIN_CRDS")
    schema = schema_of(crds[key[0]], CUSTOM[key])
    assert problems(schema, CUSTOM[key]) == []
    assert problems(schema, {**CUSTOM[key], "spec": {**CUSTOM[key]["spec"], "clusterSelectr": {}}})


def test_a_field_that_a_definition_does_not_have_is_found() -> None:
    port = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    spec = {"type": "object", "properties": {"port": port, "labels": {"type": "object", "additionalProperties": True}}}
    schema = strictly({"type": "object", "properties": {"spec": spec}})
    assert problems(schema, {"spec": {"port": "metrics", "labels": {"a": 1}}}) == []
    assert problems(schema, {"spec": {"prot": 8080}}) == [
        "spec: Additional properties are not allowed ('prot' was unexpected)"
    ]
    assert problems(schema, {"spec": {"port": 1.5}}) == ["spec.port: 1.5 is not of type 'integer', 'string'"]
