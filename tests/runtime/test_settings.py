"""Settings: which source wins, what kafka-python gets, what is never shown, and one line for each mistake."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.settings import Settings, holds_secret
from tocsin.pipelines.runtime.telemetry import spans
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all `TOCSIN_*` and `OTEL_*` variables, and work in an empty folder."""
    for name in [n for n in os.environ if n.startswith(("TOCSIN_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "tocsin.toml"
        path.write_text(text)
        return path

    return write


def wrong(flag: str, value: Any) -> str:
    """Return the error of a wrong value of one flag."""
    with pytest.raises(ConfigError) as said:
        Settings.load(overrides={flag: value})
    return str(said.value)


def test_without_any_source_there_are_defaults(tmp_path: Path) -> None:
    settings = Settings.load()
    assert settings.kafka.client_options() == {"bootstrap_servers": "localhost:9092", "security_protocol": "PLAINTEXT"}
    assert settings.lake.open().root == str(tmp_path / "lake")
    assert settings.mlflow.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert (settings.ray.address, settings.ray.num_gpus) == ("local", 0)


def test_environment_wins_over_the_file_and_flags_over_both(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    toml("""
        [kafka]
        bootstrap_servers = "file:1"
        client_id = "file"
        [ray]
        address = "file"
        num_gpus = 2
    """)
    monkeypatch.setenv("TOCSIN_KAFKA__BOOTSTRAP_SERVERS", "environment:1")
    monkeypatch.setenv("TOCSIN_RAY__ADDRESS", "environment")
    settings = Settings.load(overrides={"kafka.bootstrap_servers": "flag:1", "ray.num_cpus": None})
    assert settings.kafka.client_options()["bootstrap_servers"] == "flag:1"
    assert settings.kafka.client_options()["client_id"] == "file"
    assert (settings.ray.address, settings.ray.num_gpus, settings.ray.num_cpus) == ("environment", 2, 1)


def test_the_file_is_found_by_flag_then_by_environment(tmp_path: Path, toml: Write, monkeypatch) -> None:
    toml('lake.path = "/here"')
    named, asked = tmp_path / "named.toml", tmp_path / "asked.toml"
    named.write_text('lake.path = "/named"')
    asked.write_text('lake.path = "/asked"')
    assert Settings.load().lake.path == "/here"
    monkeypatch.setenv("TOCSIN_CONFIG", str(named))
    assert Settings.load().lake.path == "/named"
    assert Settings.load(asked).lake.path == "/asked"


def test_tls_and_sasl_reach_kafka_python_untouched(toml: Write, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "password").write_text("from a file\n")
    toml("""
        [kafka]
        bootstrap_servers = "a:9093,b:9093"
        security_protocol = "SASL_SSL"
        ssl_cafile = "/etc/ca.pem"
        ssl_password_file = "password"
        sasl_mechanism = "SCRAM-SHA-512"
        sasl_plain_username = "tocsin"
    """)
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PLAIN_PASSWORD", "12345")
    monkeypatch.setenv("TOCSIN_KAFKA__SSL_CHECK_HOSTNAME", "false")
    monkeypatch.setenv("TOCSIN_KAFKA__REQUEST_TIMEOUT_MS", "5000")
    assert Settings.load().kafka.client_options() == {
        "bootstrap_servers": "a:9093,b:9093",
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/etc/ca.pem",
        "ssl_check_hostname": False,
        "ssl_password": "from a file",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "tocsin",
        "sasl_plain_password": "12345",
        "request_timeout_ms": 5000,
    }


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hush-file")
    settings = Settings.load(
        overrides={
            "kafka.sasl_plain_password": "hush-sasl",
            "kafka.ssl_password_file": "password",
            "kafka.proxy_url": "http://me:hush-proxy@proxy",
            "lake.options": {"aws_secret_access_key": "hush-lake"},
            "mlflow.tracking_uri": "postgresql://me:hush-mlflow@host/db",
        }
    )
    for shown in (str(settings), repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hush" not in shown
    assert "postgresql://me:***@host/db" in settings.model_dump_json()
    assert settings.mlflow.tracking_uri == "postgresql://me:hush-mlflow@host/db"
    assert settings.lake.open().options == {"aws_secret_access_key": "hush-lake"}
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_pipeline_has_common_settings_and_options_of_its_own(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    toml("""
        [pipelines.rul]
        shards = 4
        topic = "sensors.hall"
        every = "2s"
        [pipelines.pumps]
        factory = "tocsin.pipelines.rul:pipeline"
        model = "models/pumps"
    """)
    monkeypatch.setenv("TOCSIN_PIPELINES__RUL__WARNING", "50")
    settings = Settings.load(overrides={"pipelines.rul.rows": 64})
    rul = settings.pipeline("rul")
    assert (rul.factory, rul.model, rul.shards) == ("tocsin.pipelines.rul:pipeline", "rul@champion", 4)
    assert rul.options == {"topic": "sensors.hall", "every": "2s", "warning": 50, "rows": 64}
    assert (settings.pipeline("pumps").factory, settings.pipeline("pumps").model) == (
        "tocsin.pipelines.rul:pipeline",
        "models/pumps",
    )
    touch = settings.pipeline("touch")
    assert (touch.factory, touch.model, touch.options) == ("tocsin.pipelines.touch:pipeline", "touch@champion", {})


def test_logs_are_json_and_reach_a_deployments_processes_by_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().logs.environment() == {"TOCSIN_LOGS__FORMAT": "json", "TOCSIN_LOGS__LEVEL": "info"}
    monkeypatch.setenv("TOCSIN_LOGS__FORMAT", "text")
    assert Settings.load().logs.environment()["TOCSIN_LOGS__FORMAT"] == "text"


def test_there_is_no_health_endpoint_unless_it_is_asked_for() -> None:
    assert (Settings.load().health.host, Settings.load().health.port) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("kafka.security_protocol", "TLS", "expected 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL', got 'TLS'"),
        ("kafka.request_timeout_ms", 1.5, "expected a valid integer, got 1.5"),
        ("kafka.sasl_plain_password", 12345, "expected a valid string, got a value of type int"),
        ("kafka.ssl_password_file", "/no/such", "expected a file that can be read, got '/no/such'"),
        ("lake", "here", "expected a table of settings, got 'here'"),
        ("lake.options", "hush", "expected a table of settings, got a value of type str"),
        ("mlflow.enabled", "perhaps", "expected a valid boolean, got 'perhaps'"),
        ("ray.num_cpus", -1, "expected greater than or equal to 0, got -1"),
        ("logs.format", "xml", "expected 'json' or 'text', got 'xml'"),
        ("health.port", 70000, "expected less than or equal to 65535, got 70000"),
        ("pipelines.Big", {}, "expected a name of lowercase letters, digits, - and _, got 'Big'"),
        ("pipelines.rul.shards", 0, "expected greater than 0, got 0"),
        ("pipelines.rul.on_gap", "jump", "expected 'stop' or 'skip', got 'jump'"),
        ("pipelines.rul.every", "5", "expected a duration such as 20ms, 5s, 15min, 2h, 30d, got '5'"),
        ("pipelines.rul.size", "64M", "expected a size such as 512KB, 64MB, 1GB, got '64M'"),
    ],
)
def test_a_wrong_value_is_one_line(flag: str, value: Any, said: str) -> None:
    assert wrong(flag, value) == f"{flag} on the command line: {said}; correct it there"


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("kafka.bootstrap_server", "bootstrap_servers"),
        ("kafka.ssl_cafil", "ssl_cafile"),
        ("lake.paht", "path"),
        ("lak", "lake"),
    ],
)
def test_an_unknown_setting_names_the_nearest(flag: str, nearest: str) -> None:
    name = flag.rpartition(".")[2]
    assert (
        wrong(flag, "x")
        == f"{flag} on the command line: expected a setting that exists, got {name!r}; the nearest is {nearest!r}"
    )


def test_a_wrong_value_names_its_source(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml("[pipelines.rul]\nshards = 0")
    with pytest.raises(ConfigError) as said:
        Settings.load(path)
    assert str(said.value) == f"pipelines.rul.shards in {path}: expected greater than 0, got 0; correct it there"
    monkeypatch.setenv("TOCSIN_PIPELINES__RUL__SHARDS", "many")
    with pytest.raises(ConfigError) as said:
        Settings.load(path)
    assert str(said.value) == (
        "pipelines.rul.shards in environment variable TOCSIN_PIPELINES__RUL__SHARDS: "
        "expected a valid integer, got 'many'; correct it there"
    )


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        (
            "TOCSIN_KAFKA_BOOTSTRAP_SERVERS",
            "expected two underscores; rename it to TOCSIN_KAFKA__BOOTSTRAP_SERVERS",
        ),
        (
            "TOCSIN_KAFA__CLIENT_ID",
            "expected one of TOCSIN_KAFKA__*, TOCSIN_LAKE__*, TOCSIN_MLFLOW__*, TOCSIN_RAY__*, TOCSIN_LOGS__*, "
            "TOCSIN_HEALTH__*, TOCSIN_SCHEMA_REGISTRY__*, TOCSIN_TRACES__*, TOCSIN_PIPELINES__*, "
            "TOCSIN_SINKS__*, got another name; rename it",
        ),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError) as refused:
        Settings.load()
    assert str(refused.value) == f"environment variable {variable}: {said}"


def test_variables_that_kubernetes_makes_for_a_service_are_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("TOCSIN_KAFKA_SERVICE_HOST", "10.0.0.1")
    assert Settings.load().kafka.bootstrap_servers == "localhost:9092"


def test_a_section_in_one_variable_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_KAFKA", '{"bootstrap_servers": "a:1"}')
    assert Settings.load().kafka.bootstrap_servers == "a:1"
    monkeypatch.setenv("TOCSIN_KAFKA", "a:1")
    with pytest.raises(ConfigError) as said:
        Settings.load()
    assert str(said.value) == (
        "environment variables TOCSIN_*: expected JSON for a whole section, got an error parsing value for field "
        '"kafka" from source "EnvSettingsSource"; set single keys, such as TOCSIN_KAFKA__BOOTSTRAP_SERVERS'
    )


def test_a_file_that_is_missing_or_no_toml_is_one_line(toml: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as said:
        Settings.load(tmp_path / "none.toml")
    assert str(said.value) == (
        f"settings in {tmp_path}/none.toml: expected a TOML file, got: No such file or directory; "
        "correct it or name another file"
    )
    path = toml("kafka = ")
    with pytest.raises(ConfigError) as said:
        Settings.load()
    assert str(said.value) == (
        f"settings in {path.name}: expected a TOML file, got: Invalid value (at end of document); "
        "correct it or name another file"
    )


def test_the_schema_registry_has_an_address_a_login_and_certificates(
    toml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load().format_options() == {}
    (tmp_path / "token").write_text("hush-token\n")
    (tmp_path / "ca.pem").write_text("hush-PEM\n")
    toml("""
        [schema_registry]
        url = "https://registry:8081"
        username = "ada"
        token_file = "token"
        ssl_cafile = "ca.pem"
        timeout = "2s"
    """)
    monkeypatch.setenv("TOCSIN_SCHEMA_REGISTRY__PASSWORD", "hush-password")
    settings = Settings.load()
    assert settings.format_options() == {
        "schema_registry": {
            "url": "https://registry:8081",
            "username": "ada",
            "password": "hush-password",
            "token": "hush-token",
            "certificates": "hush-PEM",
            "timeout_s": 2.0,
        }
    }
    assert "hush" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        (
            "schema_registry.url",
            "registry:8081",
            "an address such as https://registry:8081, without a user and a password",
        ),
        (
            "schema_registry.url",
            "https://ada:hush@registry",
            "without a user and a password, got 'https://ada:***@registry'",
        ),
        ("schema_registry.token", 12345, "expected a valid string, got a value of type int"),
        ("schema_registry.password_file", "/no/such", "expected a file that can be read, got '/no/such'"),
        ("schema_registry.timeout", "soon", "a duration such as 20ms"),
    ],
)
def test_a_wrong_setting_of_the_schema_registry_is_one_line_without_secrets(flag: str, value: Any, said: str) -> None:
    line = wrong(flag, value)
    assert said in line and "hush" not in line and "12345" not in line


def test_spans_go_to_the_collector_that_is_set_or_to_that_of_the_environment(
    toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load().traces.span_options() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=hush")
    assert Settings.load().traces.span_options() == SpanOptions("http://otel:4318/v1/traces", {"key": "hush"})
    toml("""
        [traces]
        endpoint = "https://collector/"
        headers = { Authorization = "Bearer hush" }
    """)
    settings = Settings.load()
    options = settings.traces.span_options()
    assert options == SpanOptions("https://collector/v1/traces", {"Authorization": "Bearer hush"})
    assert "hush" not in repr(settings) + str(settings.model_dump()) + repr(options)
    assert "an address such as http://127.0.0.1:4318" in wrong("traces.endpoint", "collector:4318")


def test_without_the_package_an_endpoint_that_is_set_is_an_error_and_that_of_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spans, "installed", lambda: False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318")
    assert Settings.load().traces.span_options() is None
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[traces\]'"):
        Settings.load(overrides={"traces.endpoint": "http://otel:4318"}).traces.span_options()


def test_the_content_type_of_messages_without_one_is_a_setting_of_every_pipeline() -> None:
    assert Settings.load(overrides={"pipelines.x.content_type": "application/avro"}).pipeline("x").options == {
        "content_type": "application/avro"
    }


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("kafka.sasl_plain_password", "hush", True),
        ("kafka.sasl_plain_password_file", "/run/secrets/kafka", False),
        ("kafka.bootstrap_servers", "broker:9092", False),
        ("kafka", {"bootstrap_servers": "broker:9092"}, False),
        ("kafka", {"ssl_password": "hush"}, True),
        ("lake.options", {"aws_secret_access_key": "hush"}, True),
        ("lake.options.aws_region", "eu", True),  # all options of a store are kept secret
        ("schema_registry.token", "hush", True),
        ("sinks.pager.url", "https://pager", True),
        ("sinks.pager.sink", "pager:Pager", False),
        ("mlflow.tracking_uri", "http://ada:hush@mlflow", True),
        ("mlflow.tracking_uri", "http://mlflow", False),
        ("pipelines.rul", {"shards": 2}, False),
    ],
)
def test_what_holds_a_secret_is_known_by_its_name_or_its_password(name: str, value: Any, secret: bool) -> None:
    assert holds_secret(tuple(name.split(".")), value) is secret


def test_each_setting_that_is_kept_as_a_secret_is_known_as_one() -> None:
    sections = [(name, section) for name, section in Settings() if isinstance(section, BaseModel)]
    fields = [(s, n, field) for s, section in sections for n, field in type(section).model_fields.items()]
    kept = [(s, n) for s, n, field in fields if "SecretStr" in str(field.annotation) and "file" not in n]
    assert {("lake", "options"), ("traces", "headers"), ("kafka", "sasl_plain_password")} <= {*kept}
    assert [loc for loc in kept if not holds_secret(loc, "hush")] == []


def test_files_with_secrets_need_not_be_on_a_machine_that_only_sends_the_settings(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(
        """
        kafka.sasl_plain_password_file = "/no/such"
        schema_registry = { url = "https://registry", token_file = "/no/such", ssl_cafile = "/no/such" }
        """
    )
    settings = Settings.load(tmp_path / "tocsin.toml", secret_files=False)
    assert settings.schema_registry.url == "https://registry"
    with pytest.raises(ConfigError, match="expected a file that can be read"):
        Settings.load(tmp_path / "tocsin.toml")
