"""deploy/kuberay: the objects fit each other, Tocsin takes what they give it, and none holds a secret."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.manifests import KUBERAY, SECRET, commands, documents, locked, objects, parsed, pods, settings, texts
from tocsin.pipelines.cli.deployment import known_pipelines
from tocsin.pipelines.runtime.control import draining
from tocsin.pipelines.runtime.settings import Settings

OBJECTS, PODS = objects(), pods()
CLUSTER = OBJECTS["RayCluster", "tocsin"]
JOBS = {name: o["spec"] for (kind, name), o in OBJECTS.items() if kind == "RayJob"}
(BASE,) = documents(KUBERAY / "kustomization.yaml")
PAGE = OBJECTS["Deployment", "page"]["spec"]
RAY = [name for name in PODS if name not in ("compaction", "page")]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in PODS.items():
        for container in pod["spec"]["containers"]:
            yield name, container


def scripts() -> Iterator[str]:
    """Every text that a shell may run."""
    for job in JOBS.values():
        yield job["entrypoint"]
    for _, container in containers():
        yield from texts([container.get("command", []), container.get("args", []), container.get("lifecycle", {})])


def test_there_is_one_job_for_each_pipeline_and_all_run_on_the_one_cluster() -> None:
    assert JOBS.keys() == known_pipelines(Settings())
    selectors = {name: job["clusterSelector"] for name, job in JOBS.items()}
    assert selectors == {name: {"ray.io/cluster": CLUSTER["metadata"]["name"]} for name in JOBS}


def test_kustomize_uses_every_file_and_finds_every_file() -> None:
    used = {*BASE["resources"], "kustomization.yaml"}
    assert used == {file.name for file in KUBERAY.glob("*.yaml")}
    assert [file for g in BASE["configMapGenerator"] for file in g["files"] if not (KUBERAY / file).is_file()] == []


def test_tocsin_knows_every_command() -> None:
    found = [arguments for script in scripts() for arguments in commands(script)]
    assert {arguments[0] for arguments in found} >= {"run", "stop", "status", "compact"}
    (page,) = PODS["page"]["spec"]["containers"]
    for arguments in [*found, page["args"]]:
        parsed(arguments)


@pytest.mark.parametrize(
    "mistake", [["run"], ["run", "rul", "--worker", "2"], ["start", "rul"], ["compact", "rul", "24h"]]
)
def test_a_mistaken_command_would_be_found(mistake: list[str]) -> None:
    (found,) = commands(f"until tocsin {' '.join(mistake)} > /dev/null; do sleep 1; done")
    assert found == mistake
    with pytest.raises(Exception, match=r"Missing|No such|unexpected"):
        parsed(found)


def test_each_job_runs_its_own_pipeline_and_stops_the_one_that_a_dead_run_left() -> None:
    for name, job in JOBS.items():
        found = commands(job["entrypoint"])
        assert [(arguments[0], parsed(arguments)["pipeline"]) for arguments in found] == [("run", name), ("stop", name)]


def test_jobs_differ_in_the_pipelines_name_alone() -> None:
    specs = [{**job, "entrypoint": job["entrypoint"].replace(name, "NAME")} for name, job in JOBS.items()]
    assert [spec for spec in specs if spec != specs[0]] == []


def test_kuberay_submits_a_job_again_and_ray_leaves_it_time_to_commit() -> None:
    (halt,) = re.findall(r"halt\(pipeline, timeout=(\d+)\)", (ROOT / "pipelines/cli/run.py").read_text())
    for job in JOBS.values():
        assert job["submissionMode"] == "HTTPMode"
        variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
        assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > int(halt) + draining.GRACE_S


def test_ray_knows_how_to_wait_for_a_job_that_it_stops() -> None:
    package = Path(importlib.util.find_spec("ray").submodule_search_locations[0])
    supervisor = (package / "dashboard/modules/job/job_supervisor.py").read_text()
    assert '"RAY_JOB_STOP_WAIT_TIME_S"' in supervisor and 'get("RAY_JOB_STOP_SIGNAL", "SIGTERM")' in supervisor


def test_the_head_stops_every_pipeline_before_it_ends() -> None:
    (head,) = PODS["head"]["spec"]["containers"]
    script = head["lifecycle"]["preStop"]["exec"]["command"][-1]
    (names,) = re.findall(r"for pipeline in (.+?); do", script)
    assert set(names.split()) == JOBS.keys()
    (stop,) = commands(script)
    assert stop[:2] == ["stop", "$pipeline"]
    assert parsed(stop)["timeout"] + draining.GRACE_S < PODS["head"]["spec"]["terminationGracePeriodSeconds"]


def test_workers_wait_for_the_head_within_their_grace() -> None:
    for name in RAY:
        (container,) = PODS[name]["spec"]["containers"]
        script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        waits = [int(s) for s in re.findall(r"date \+%s\) \+ (\d+)", script)]
        assert script.rstrip().endswith("ray stop")
        assert all(s < PODS[name]["spec"]["terminationGracePeriodSeconds"] for s in waits) and (waits or name == "head")


def test_ray_in_the_image_is_the_one_that_kuberay_is_told_of_and_asks_for_a_token() -> None:
    assert CLUSTER["spec"]["rayVersion"] == locked("ray")
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}


def test_every_container_has_our_image_in_one_version() -> None:
    (override,) = BASE["images"]
    assert {container["image"] for _, container in containers()} == {f"{override['name']}:{override['newTag']}"}
    assert f'version = "{override["newTag"]}"' in (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"image: \S+:latest", "".join(file.read_text() for file in KUBERAY.glob("*.yaml")))


@pytest.mark.parametrize("name", PODS)
def test_no_pod_has_rights_that_the_namespace_refuses(name: str) -> None:
    assert OBJECTS["Namespace", "tocsin"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {
        "type": "RuntimeDefault"
    }
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} == container["resources"].keys()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_mounts_what_it_declares_and_refers_to_what_is_generated(name: str) -> None:
    spec = PODS[name]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    generated = {kind: {g["name"]: g for g in BASE[f"{kind}Generator"]} for kind in ("configMap", "secret")}
    assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} == generated["configMap"].keys()
    assert {v["secret"]["secretName"] for v in volumes.values() if "secret" in v} <= generated["secret"].keys()
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        (variables_of,) = [source["secretRef"]["name"] for source in container["envFrom"]]
        assert "envs" in generated["secret"][variables_of]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/tocsin"} <= set(mounted.values()), "the root file system is read-only"
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert variables["TOCSIN_CONFIG"] == f"{mounted['settings']}/{BASE['configMapGenerator'][0]['files'][0]}"
        assert len(variables) == 1 or name == "page"
    assert BASE["generatorOptions"]["disableNameSuffixHash"], "else the names in the RayCluster would not be found"


def test_tocsin_accepts_the_settings_and_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    example = (KUBERAY / "secrets.env.example").read_text()
    offered = re.findall(r"^(?:# )?(\w+)=$", example, re.MULTILINE)
    assert any(name.startswith("TOCSIN_KAFKA__") for name in offered)
    found = settings(monkeypatch, KUBERAY / "tocsin.toml", dict.fromkeys(offered, "x"))
    assert found.ray.address == "auto" and found.lake.path.startswith("s3://")
    assert found.pipelines.keys() == JOBS.keys()
    assert {name: p.options for name, p in found.pipelines.items() if p.options} == {}
    assert found.health.port == 0, "supervisors of several pipelines may share a node, and so can't share a port"


def test_every_setting_that_is_commented_out_exists_and_has_the_default_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (KUBERAY / "tocsin.toml").read_text()
    file = tmp_path / "tocsin.toml"
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    uncommented = settings(monkeypatch, file, {})
    as_it_is = settings(monkeypatch, KUBERAY / "tocsin.toml", {})
    assert (uncommented.lake, uncommented.mlflow, uncommented.ray) == (as_it_is.lake, as_it_is.mlflow, as_it_is.ray)
    assert uncommented.kafka.security_protocol == as_it_is.kafka.security_protocol
    (before, after) = (s.pipelines["rul"] for s in (as_it_is, uncommented))
    assert (after.workers, after.shards) == (before.workers, before.shards)
    assert after.max_workers == before.workers


def test_no_secret_is_in_the_repository() -> None:
    assert [key for key in OBJECTS if key[0] == "Secret"] == []
    (file,) = [name for g in BASE["secretGenerator"] for name in g.get("envs", ())]
    (token,) = [name.split("=")[1] for g in BASE["secretGenerator"] for name in g.get("files", ())]
    ignored = [(ROOT / name).read_text().splitlines() for name in (".gitignore", ".dockerignore")]
    for secret in (file, token):
        assert f"deploy/kuberay/{secret}" in ignored[0] and f"**/{secret}" in ignored[1]
    example = (KUBERAY / f"{file}.example").read_text()
    assert re.findall(r"^\w+=.+$", example, re.MULTILINE) == []
    for name, container in containers():
        assert [v["name"] for v in container["env"] if SECRET.search(v["name"]) and "value" in v] == [], name


def test_the_compaction_names_the_table_of_each_pipeline_and_that_of_alerts() -> None:
    (container,) = PODS["compaction"]["spec"]["containers"]
    (tables,) = re.findall(r"for table in (.+?); do", container["args"][0])
    assert set(tables.split()) == JOBS.keys() | {"alerts"}


def test_prometheus_and_the_network_policy_find_the_nodes_and_their_ports() -> None:
    label = {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    monitor, policy = OBJECTS["PodMonitor", "ray"]["spec"], OBJECTS["NetworkPolicy", "ray"]["spec"]
    assert monitor["selector"]["matchLabels"] == policy["podSelector"]["matchLabels"] == label
    (endpoint,) = monitor["podMetricsEndpoints"]
    named = [{p["name"]: p["containerPort"] for p in PODS[name]["spec"]["containers"][0]["ports"]} for name in RAY]
    assert {ports[endpoint["port"]] for ports in named} == {8080}
    let_in = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", [])}
    assert let_in == {8080, named[0]["dashboard"], named[0]["client"]}
    inside = {"podSelector": {"matchLabels": label}}
    assert {"from": [inside]} in policy["ingress"] and {"to": [inside]} in policy["egress"]


def test_the_policy_lets_pipelines_reach_what_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, KUBERAY / "tocsin.toml", {})
    needed = {
        int(re.findall(r":(\d+)$", address)[0])
        for address in (found.kafka.bootstrap_servers, found.mlflow.tracking_uri)
    }
    for name, more in (("ray", set()), ("page", {client_port()})):
        rules = OBJECTS["NetworkPolicy", name]["spec"]["egress"]
        assert needed | {53, 443} | more == {port["port"] for rule in rules for port in rule.get("ports", [])}


def client_port() -> int:
    (head,) = PODS["head"]["spec"]["containers"]
    (port,) = [port["containerPort"] for port in head["ports"] if port["name"] == "client"]
    assert isinstance(port, int)
    return port


def test_the_page_asks_the_head_with_the_token_that_kuberay_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = PODS["page"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    name = CLUSTER["metadata"]["name"]
    values = {name: variable["value"] for name, variable in variables.items() if "value" in variable}
    found = settings(monkeypatch, KUBERAY / "tocsin.toml", values)
    assert found.ray.address == f"ray://{name}-head-svc:{client_port()}"
    assert values["RAY_AUTH_MODE"] == CLUSTER["spec"]["authOptions"]["mode"]
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": name, "key": "auth_token"}}


def test_no_secret_has_the_name_under_which_kuberay_makes_its_own() -> None:
    assert CLUSTER["metadata"]["name"] not in {g["name"] for g in BASE["secretGenerator"]}


def test_the_page_is_reached_where_it_listens_and_asks_for_its_token() -> None:
    (container,) = PODS["page"]["spec"]["containers"]
    given, (port,) = parsed(container["args"]), container["ports"]
    assert (given["host"], given["port"], given["allow_changes"]) == ("0.0.0.0", port["containerPort"], False)
    (served,) = OBJECTS["Service", "page"]["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port["containerPort"], port["name"])
    labels = PODS["page"]["metadata"]["labels"]
    policy = OBJECTS["NetworkPolicy", "page"]["spec"]
    selectors = [PAGE["selector"]["matchLabels"], OBJECTS["Service", "page"]["spec"]["selector"]]
    for selector in [*selectors, policy["podSelector"]["matchLabels"]]:
        assert selector and selector.items() <= labels.items()
    assert not any(
        selectors[0].items() <= pod["metadata"].get("labels", {}).items() for n, pod in PODS.items() if n in RAY
    )
    assert [p["port"] for rule in policy["ingress"] for p in rule["ports"]] == [port["containerPort"]]
    (mount,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "token"]
    (token,) = [name.split("=")[0] for g in BASE["secretGenerator"] for name in g.get("files", ())]
    assert given["token_file"] == Path(mount) / token
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/login", "port": port["name"]}
    (let_in,) = [
        r
        for r in OBJECTS["NetworkPolicy", "ray"]["spec"]["ingress"]
        if r.get("ports", [{}])[0].get("port") == client_port()
    ]
    assert let_in["from"] == [{"podSelector": {"matchLabels": selectors[0]}}]


def test_kustomize_renders_the_base_with_its_names_and_the_namespace(tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl, whose `kubectl kustomize` asks no cluster")
    folder = shutil.copytree(KUBERAY, tmp_path / "kuberay")
    shutil.copy(folder / "secrets.env.example", folder / "secrets.env")
    (folder / "page.token").write_text("correct horse battery")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    rendered = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(done.stdout)}
    assert rendered.keys() == OBJECTS.keys() | {("ConfigMap", "tocsin"), ("Secret", "environment"), ("Secret", "page")}
    assert {o["metadata"].get("namespace") for key, o in rendered.items() if key[0] != "Namespace"} == {"tocsin"}
    assert rendered["ConfigMap", "tocsin"]["data"]["tocsin.toml"] == (KUBERAY / "tocsin.toml").read_text()
    assert rendered["RayCluster", "tocsin"]["spec"] == CLUSTER["spec"]
