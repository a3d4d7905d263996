"""deploy/compose.yaml: its services fit each other, Tocsin takes what it gives it, and nothing in it is secret or public."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.manifests import COMPOSE, SECRET, commands, parsed, services, settings
from tocsin.pipelines.rul import RulOptions
from tocsin.pipelines.runtime.control import draining
from tocsin.pipelines.runtime.declare.errors import ConfigError

SERVICES = services()
TOML = ROOT / "deploy" / "compose.toml"
SET = tomllib.loads(TOML.read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("tocsin:")}


def environment(service: str) -> dict[str, Any]:
    found: dict[str, Any] = SERVICES[service].get("environment", {})
    return found


def mounts(service: str) -> list[list[str]]:
    """Source, target and options of each volume."""
    return [volume.split(":") for volume in SERVICES[service].get("volumes", [])]


def seconds(text: str) -> float:
    (number, unit) = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return float(number) * {"s": 1, "m": 60}[unit]


def test_every_image_has_a_version_and_ours_the_projects() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert {name: image for name, image in images.items() if not re.search(r":v?\d+\.\d+", image)} == {}
    ours = {image.split(":")[1] for image in images.values() if image.startswith("tocsin")}
    assert ours == {PROJECT["version"]}
    assert images["kafka"] == images["topics"]
    (kafka,) = re.findall(r"kafka_2.13</artifactId>\s*<version>(.+?)<", (ROOT / "deploy/kafka/pom.xml").read_text())
    assert images["kafka"] == f"apache/kafka:{kafka}"


def test_what_is_built_is_built_from_files_of_this_repository() -> None:
    built = {name: service["build"] for name, service in SERVICES.items() if "build" in service}
    assert built.keys() == OURS | {"mlflow"}
    for name, build in built.items():
        context = COMPOSE.parent / build["context"]
        file = context / build.get("dockerfile", "Dockerfile")
        assert context.resolve() == ROOT and file.is_file(), name
        known = set(re.findall(r"^ARG (\w+)", file.read_text(), re.MULTILINE))
        assert set(build.get("args", {})) <= known, name


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_has_more_rights_than_it_needs(service: str) -> None:
    found = SERVICES[service]
    assert found["cap_drop"] == ["ALL"] and "cap_add" not in found and "privileged" not in found
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["read_only"] or found["image"].startswith("apache/kafka")
    assert found["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert float(found["deploy"]["resources"]["limits"]["cpus"]) <= 2, "Docker refuses more CPUs than the machine has"


def test_every_secret_comes_from_the_environment_and_has_no_default() -> None:
    secret = {(s, n): str(value) for s in SERVICES for n, value in environment(s).items() if SECRET.search(n)}
    assert len(secret) >= 6
    literal = {key for key, value in secret.items() if not re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)}
    assert literal == set()
    assert not re.search(r"://[^/\s]+:[^/\s]+@", COMPOSE.read_text()), "a password in an address"


def test_the_example_names_every_variable_and_sets_none() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    example = (COMPOSE.parent / ".env.example").read_text()
    assert dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)) == dict.fromkeys(asked, "")
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_port_is_published_on_loopback_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) >= 5
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)] == []
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_every_file_that_is_mounted_exists_and_can_not_be_changed() -> None:
    files = [mount for s in SERVICES for mount in mounts(s) if mount[0].startswith(".")]
    assert len(files) >= 5
    assert [source for source, *_ in files if not (COMPOSE.parent / source).exists()] == []
    assert [mount for mount in files if mount[2:] != ["ro"]] == []


def test_every_volume_is_declared_and_used() -> None:
    named = {mount[0] for s in SERVICES for mount in mounts(s) if not mount[0].startswith(".")}
    assert named == set(yaml.safe_load(COMPOSE.read_text())["volumes"])


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_waits_for_can_happen(service: str) -> None:
    for name, awaited in SERVICES[service].get("depends_on", {}).items():
        other = SERVICES[name]
        if awaited["condition"] == "service_healthy":
            assert "test" in other.get("healthcheck", {}) or other["image"].startswith("tocsin-mlflow")
        elif awaited["condition"] == "service_completed_successfully":
            assert other["restart"] == "no"
        else:
            assert awaited == {"condition": "service_started", "restart": True}


@pytest.mark.parametrize("service", sorted(OURS))
def test_tocsin_knows_each_command_and_accepts_each_setting(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if service != "page":
        assert parsed(SERVICES[service]["command"])["pipeline"] == "rul"
    configured = environment(service).get("TOCSIN_CONFIG")
    mounted = {target: COMPOSE.parent / source for source, target, *_ in mounts(service)}
    assert configured is None or mounted[configured] == TOML
    found = settings(monkeypatch, mounted[configured] if configured else None, environment(service))
    assert found.kafka.bootstrap_servers == "kafka:9092"
    assert not found.pipeline("rul").options, "an option that only the pipeline would check"


def test_a_setting_that_does_not_exist_would_be_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(TOML.read_text().replace("metrics_port", "metrics_prot"))
    with pytest.raises(ConfigError, match="metrics_prot"):
        settings(monkeypatch, tmp_path / "tocsin.toml", {})
    with pytest.raises(ConfigError, match="TOCSIN_HELTH__PORT"):
        settings(monkeypatch, TOML, {"TOCSIN_HELTH__PORT": 1})


def test_the_pipeline_reads_the_topic_that_is_made_with_a_partition_for_each_shard() -> None:
    command = SERVICES["topics"]["command"]
    topic, partitions = (command[command.index(name) + 1] for name in ("--topic", "--partitions"))
    assert topic == RulOptions.model_fields["topic"].default
    assert int(partitions) >= SET["pipelines"]["rul"]["shards"] >= SET["pipelines"]["rul"]["max_workers"]
    assert int(SERVICES["tocsin"]["deploy"]["resources"]["limits"]["cpus"]) >= SET["pipelines"]["rul"]["max_workers"]


def test_clients_reach_the_broker_where_it_says_that_it_is() -> None:
    broker = environment("kafka")
    listening = dict(re.findall(r"(\w+)://\w*:(\d+)", broker["KAFKA_LISTENERS"]))
    advertised = dict(re.findall(r"(\w+)://([\w.]+:\d+)", broker["KAFKA_ADVERTISED_LISTENERS"]))
    assert advertised == {"PLAINTEXT": "kafka:9092", "HOST": "localhost:29092"}
    assert {name: address.split(":")[1] for name, address in advertised.items()} == {
        name: port for name, port in listening.items() if name != "CONTROLLER"
    }
    command = SERVICES["topics"]["command"]
    clients = {command[command.index("--bootstrap-server") + 1], SET["kafka"]["bootstrap_servers"]}
    assert clients == {advertised["PLAINTEXT"]}
    assert SERVICES["kafka"]["ports"] == [f"127.0.0.1:{listening['HOST']}:{listening['HOST']}"]
    assert SERVICES["kafka"]["healthcheck"]["test"][-1].endswith(f"/{listening['PLAINTEXT']}")
    assert mounts("kafka") == [["kafka", broker["KAFKA_LOG_DIRS"]]]


def test_the_broker_has_the_settings_of_the_one_that_the_tests_use() -> None:
    text = (ROOT / "deploy/kafka/server.properties").read_text()
    tested = dict(re.findall(r"^([a-z.]+)=(.*)$", text, re.MULTILINE))
    here = {n.removeprefix("KAFKA_").lower().replace("_", "."): str(v) for n, v in environment("kafka").items()}
    # The tests' broker has a listener with TLS, keeps records of any age, and is killed on purpose.
    own = {
        "listener.security.protocol.map",
        "log.retention.ms",
        "broker.session.timeout.ms",
        "broker.heartbeat.interval.ms",
    }
    assert own <= tested.keys()
    assert {name: value for name, value in tested.items() if name not in own and here.get(name) != value} == {}


def test_metrics_and_health_are_where_they_are_asked_for() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/compose.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]}
    (listens,) = [a.split(":")[1] for a in SERVICES["prometheus"]["command"] if "listen-address" in a]
    health = environment("tocsin")["TOCSIN_HEALTH__PORT"]
    assert targets == {"tocsin": [f"127.0.0.1:{SET['ray']['metrics_port']}"], "prometheus": [f"127.0.0.1:{listens}"]}
    assert SERVICES["prometheus"]["network_mode"] == "service:tocsin"
    assert f"127.0.0.1:{health}/readyz" in SERVICES["tocsin"]["healthcheck"]["test"][-1]
    assert f"127.0.0.1:{listens}/" in SERVICES["prometheus"]["healthcheck"]["test"][-1]
    page = page_command()["port"]
    assert len({SET["ray"]["metrics_port"], int(listens), health, page}) == 4, "they share one network"
    assert SERVICES["tocsin"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in (health, page, listens)]
    rules = (ROOT / "deploy/prometheus" / scraped["rule_files"][0]).name
    assert f"/etc/prometheus/{rules}" in [mount[1] for mount in mounts("prometheus")]


def page_command() -> dict[str, Any]:
    """The options of `tocsin ui`."""
    (script,) = SERVICES["page"]["command"]
    ((name, *_),) = found = commands(script)
    assert name == "ui"
    return parsed(*found)


def test_the_page_finds_the_run_and_asks_for_its_token(tmp_path: Path) -> None:
    page = SERVICES["page"]
    assert (page["network_mode"], page["pid"]) == ("service:tocsin", "service:tocsin")
    uid = re.search(r"USER (\d+):", (ROOT / "Dockerfile").read_text())
    assert uid
    ray = ["ray", f"/tmp/tocsin-{uid[1]}"]
    assert ray in mounts("page") and ray in mounts("tocsin"), "where a local Ray keeps its sockets"
    assert f"uid={uid[1]}," in yaml.safe_load(COMPOSE.read_text())["volumes"]["ray"]["driver_opts"]["o"]
    (home,) = [mount for mount in mounts("tocsin") if mount[0] == "tocsin"]
    assert [*home, "ro"] in mounts("page")
    given = page_command()
    assert (given["host"], given["allow_changes"]) == ("0.0.0.0", False)
    assert f"127.0.0.1:{given['port']}/login" in page["healthcheck"]["test"][-1]
    (script,) = page["command"]
    token = tmp_path / "token"
    written = (
        script.replace("$$", "$").replace(str(given["token_file"]), str(token)).replace("exec tocsin", "exec true")
    )
    subprocess.run([*page["entrypoint"], written], env={"PAGE_TOKEN": "a$b 'c' %s"}, check=True)
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("a$b 'c' %s", 0o600)


def test_grafana_reads_prometheus_and_the_folder_of_dashboards() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/tocsin.yaml").read_text())["providers"]
    (variable,) = re.findall(r"^\$\{(\w+)\}$", source["url"])
    address = urlsplit(environment("grafana")[variable])
    assert SERVICES["prometheus"]["network_mode"] == f"service:{address.hostname}"
    assert f"--web.listen-address=0.0.0.0:{address.port}" in SERVICES["prometheus"]["command"]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in mounts("grafana")


def test_mlflow_is_reached_by_a_name_that_it_accepts_and_reaches_its_stores() -> None:
    server = environment("mlflow")
    address = urlsplit(SET["mlflow"]["tracking_uri"])
    database, store = urlsplit(server["MLFLOW_BACKEND_STORE_URI"]), urlsplit(server["AWS_ENDPOINT_URL"])
    assert address.netloc in server["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert address.port == server["MLFLOW_PORT"] and SERVICES["mlflow"]["ports"] == [
        f"127.0.0.1:{address.port}:{address.port}"
    ]
    assert {address.hostname, database.hostname, store.hostname} <= SERVICES.keys()
    assert (database.username, database.path[1:]) == tuple(
        environment("postgres")[f"POSTGRES_{n}"] for n in ("USER", "DB")
    )
    assert server["PGPASSWORD"] == environment("postgres")["POSTGRES_PASSWORD"]
    assert {environment(s)["AWS_SECRET_ACCESS_KEY"] for s in ("s3", "bucket", "mlflow")} == {
        server["AWS_SECRET_ACCESS_KEY"]
    }
    assert f"127.0.0.1:{store.port}/" in SERVICES["s3"]["healthcheck"]["test"][-1]
    bucket = urlsplit(server["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
    assert f"create-bucket --bucket {bucket}" in SERVICES["bucket"]["command"][0]
    assert environment("bucket")["AWS_ENDPOINT_URL"] == server["MLFLOW_S3_ENDPOINT_URL"]


def test_mlflow_reads_every_variable_that_is_set_for_it() -> None:
    package = Path(importlib.util.find_spec("mlflow").submodule_search_locations[0])
    files = ("environment_variables.py", "cli/__init__.py", "utils/cli_args.py")
    known = "".join((package / file).read_text() for file in files)
    ours = {name for name in environment("mlflow") if name.startswith("MLFLOW")}
    assert len(ours) >= 5
    assert [name for name in ours if f'"{name}"' not in known] == []


def test_a_stop_leaves_the_pipeline_the_time_that_it_may_take_to_drain() -> None:
    (halt,) = re.findall(r"halt\(pipeline, timeout=(\d+)\)", (ROOT / "pipelines/cli/run.py").read_text())
    assert seconds(SERVICES["tocsin"]["stop_grace_period"]) == int(halt) + draining.GRACE_S


def test_the_page_names_the_ports_that_are_published_and_files_that_exist() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    named = re.findall(r"^\| `(?:http://)?localhost:(\d+)", page, re.MULTILINE)
    published = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(named) == sorted(published)
    files = set(re.findall(r"(?<![\w/])(deploy/[\w./-]*\w)", page))
    files -= {"deploy/.env", "deploy/kuberay/secrets.env", "deploy/kuberay/page.token"}  # a person makes them
    assert {"deploy/compose.yaml", "deploy/compose.toml", "deploy/kuberay"} <= files
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


def test_the_page_adds_up_the_limits_of_memory() -> None:
    limits = [s["deploy"]["resources"]["limits"]["memory"] for s in SERVICES.values() if s["restart"] != "no"]
    total = sum(int(limit[:-1]) / {"G": 1, "M": 1024}[limit[-1]] for limit in limits)
    assert f"limits add up to {total:.0f} GB" in (ROOT / "docs" / "deployment.md").read_text()
