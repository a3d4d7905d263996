"""The sections of the settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    SecretStr,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.options import Duration
from tocsin.pipelines.runtime.lake.object_store import object_store
from tocsin.pipelines.runtime.lake.storage import FIT, Lake, check_name, local
from tocsin.pipelines.runtime.telemetry import logs, spans
from tocsin.pipelines.runtime.telemetry.logs import without_password
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions


def _lake(path: str) -> str:
    """Make a local path absolute, so that it means the same in every process; an address stays as it is."""
    try:
        if (folder := local(path)) is None:
            return path
        check_name(folder)
    except ConfigError as reason:
        raise PydanticCustomError(
            "lake", "Input should be {expected}", {"expected": f"{FIT}; not {Path(path).absolute()}"}
        ) from reason
    return str(folder)


def _absolute_sqlite(uri: str) -> str:
    return re.sub(r"^sqlite:///(?!/)(.+)", lambda m: f"sqlite:///{Path(m[1]).absolute()}", uri)


def _ray_address(address: str) -> str:
    if "://" in address and not address.startswith("ray://"):
        expected = "local, auto, host:port or ray://host:10001; only `tocsin deploy` takes a dashboard's address"
        raise PydanticCustomError("ray_address", "Input should be {expected}", {"expected": expected})
    return address


def _url(example: str) -> AfterValidator:
    def check(url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s@?#]+", url):
            expected = f"an address such as {example}, without a user and a password"
            raise PydanticCustomError("url", "Input should be {expected}", {"expected": expected})
        return url

    return AfterValidator(check)


def _content(path: Any) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, TypeError, ValueError) as reason:
        raise PydanticCustomError("secret_file", "Input should be a file that can be read") from reason


def section_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise PydanticCustomError("name", "Input should be a name of lowercase letters, digits, - and _")
    if name == "alerts":
        raise PydanticCustomError("name", "Input should be a name other than alerts: the table of alerts has that name")
    return name


SecretFile = Annotated[SecretStr, BeforeValidator(_content)]
"""Set as a file's path, kept as the file's content."""
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, validate_default=True)


class KafkaSettings(Section):
    """`[kafka]`: any option of kafka-python's clients, passed on unchanged. The common and the secret ones are listed here.

    Args:
        client: of the path that every reading and alert takes. Without it, librdkafka where it is installed and knows all the
            options here, else kafka-python. Everything else uses kafka-python.
        bootstrap_servers: one broker or several, `host:port`, separated by commas.
        security_protocol: with TLS (`SSL`), with a password (`SASL`), with both, or with neither.
        sasl_plain_password: the password for every SASL mechanism that has one; its user is `sasl_plain_username`.
        sasl_plain_password_file: a file with `sasl_plain_password`, such as a mounted secret.
        ssl_password: the password of the client's private key, if `ssl_keyfile` is encrypted.
        ssl_password_file: a file with `ssl_password`.
        proxy_url: the URL of a SOCKS5 proxy between the clients and the brokers.
        socks5_proxy: the old name of `proxy_url`.
    """

    model_config = ConfigDict(extra="allow")

    client: Literal["librdkafka", "kafka-python"] | None = None
    bootstrap_servers: str = "localhost:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_plain_password: SecretStr | None = None
    sasl_plain_password_file: SecretFile | None = None
    ssl_password: SecretStr | None = None
    ssl_password_file: SecretFile | None = None
    proxy_url: SecretStr | None = None
    socks5_proxy: SecretStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_to_kafka_python(cls, options: Any) -> Any:
        if not isinstance(options, Mapping):
            return options
        others = {name: value for name, value in options.items() if name not in cls.model_fields}
        return {**options, **client_config().model_validate(others).model_dump(exclude_unset=True)}

    def client_options(self) -> dict[str, Any]:
        """The options for kafka-python's clients, secrets in clear text. A password set directly wins over one in a file."""
        options = {n: v.get_secret_value() if isinstance(v, SecretStr) else v for n, v in self if v is not None}
        from_files = {n.removesuffix("_file"): options.pop(n) for n in list(options) if n.endswith("_file")}
        return from_files | options


class LakeSettings(Section):
    """`[lake]`: a folder or an object store's address, and the store's options (such as keys; kept secret).

    Args:
        path: a folder, or an address such as `s3://bucket/lake`. Every machine must reach the same lake. A folder's name may
            have spaces, umlauts and most other characters, but not `[ ] ^ |`, a backslash, or `%` before two hexadecimal digits.
        store: an object store from an extension: `module:Class`, or the name under which an installed package offers it. "": a
            folder, or a store that Arrow and Delta know.
        options: the object store's options, by Delta's names, such as `AWS_ENDPOINT_URL`. Those that are not set here are read
            from the environment.
        alerts: whether alerts are also written to the table `alerts`.
        compact: how often supervisors compact their tables' small files into large ones; "0s": never.
        vacuum: the age from which a compaction deletes files that no version needs; 24h at least.
    """

    path: Annotated[str, AfterValidator(_lake)] = "lake"
    store: str = ""
    options: dict[str, SecretStr] = {}
    alerts: bool = True
    compact: Duration = "1h"
    vacuum: Duration = "24h"

    def open(self) -> Lake:
        """The lake that these settings describe."""
        options = {name: value.get_secret_value() for name, value in self.options.items()}
        if self.store:
            options = {**object_store(self.store).delta(self.path)[1], **options}
        return Lake(self.path, options, self.store)


class MlflowSettings(Section):
    """`[mlflow]`: where runs are tracked and models registered.

    Args:
        tracking_uri: a local database, or a server's address.
        experiment: the experiment that runs are recorded in.
        enabled: whether to track runs; if not, models are folders.
        follow: how often a pipeline that follows an alias asks the registry for it.
    """

    tracking_uri: Annotated[str, Field(repr=False), AfterValidator(_absolute_sqlite)] = "sqlite:///mlflow.db"
    experiment: str = "tocsin"
    enabled: bool = True
    follow: Duration = "15s"

    @field_serializer("tracking_uri")
    def _show(self, uri: str) -> str:
        return without_password(uri)


class RaySettings(Section):
    """`[ray]`: where workers run, and the resources of each.

    Args:
        address: "local" starts Ray for the duration of `run`, and other commands join the Ray of their folder's run. "auto" joins
            the cluster on this machine. Otherwise `host:port`, or `ray://host:10001` from a machine outside the cluster.
        num_cpus: CPUs of a worker, as Ray counts them.
        num_gpus: GPUs of a worker, as Ray counts them.
        metrics_port: the port on 127.0.0.1 where a local cluster serves metrics; 0: none.
    """

    address: Annotated[str, AfterValidator(_ray_address)] = "local"
    num_cpus: NonNegativeFloat = 1
    num_gpus: NonNegativeFloat = 0
    metrics_port: Port = 0

    def resources(self) -> dict[str, float]:
        """The resources that Ray reserves for a worker."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


class LogSettings(Section):
    """`[logs]`: what workers and supervisors log to stderr, one line a message. Libraries log only warnings.

    Args:
        format: JSON, one object a line, or text for people.
        level: the lowest severity that is logged.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"

    def environment(self) -> dict[str, str]:
        """The environment variables that pass these settings to a deployment's processes."""
        return {logs.FORMAT: self.format, logs.LEVEL: self.level}


class HealthSettings(Section):
    """`[health]`: the endpoint for /livez, /readyz and /healthz where a pipeline's supervisor runs.

    Args:
        host: the address that it listens on. Kubernetes probes come from outside the pod's loopback: use "0.0.0.0".
        port: the port that it listens on; 0: no endpoint.
    """

    host: str = "127.0.0.1"
    port: Port = 0


class SchemaRegistrySettings(Section):
    """`[schema_registry]`: the registry that has the schemas of Avro and Protobuf messages, with Confluent's interface.

    Args:
        url: the registry's address; "": none, and no such message is read.
        username: the user, if the registry asks for a password.
        password: the user's password.
        password_file: a file with `password`, such as a mounted secret.
        token: a bearer token, instead of a user and a password.
        token_file: a file with `token`.
        ssl_cafile: a file with the certificates to trust, in PEM; without it, those of the system.
        timeout: how long a request may take.
    """

    url: Annotated[str, _url("https://registry:8081")] = ""
    username: str = ""
    password: SecretStr | None = None
    password_file: SecretFile | None = None
    token: SecretStr | None = None
    token_file: SecretFile | None = None
    ssl_cafile: SecretFile | None = None
    timeout: Duration = "5s"

    def client_options(self) -> dict[str, Any]:
        """The options of `SchemaRegistry`, secrets in clear text. A secret set directly wins over one in a file."""
        secrets = {
            "password": self.password or self.password_file,
            "token": self.token or self.token_file,
            "certificates": self.ssl_cafile,
        }
        return {
            "url": self.url,
            "username": self.username,
            **{name: secret.get_secret_value() for name, secret in secrets.items() if secret},
            "timeout_s": milliseconds(self.timeout) / 1000,
        }


class TracesSettings(Section):
    """`[traces]`: where spans are sent, for alerts and dead letters of records that came with a sampled `traceparent`.

    Args:
        endpoint: the address of an OpenTelemetry collector that takes OTLP by HTTP; "": that in `OTEL_EXPORTER_OTLP_ENDPOINT`,
            if there is one and `tocsin[traces]` is installed.
        headers: of each request, such as a key; kept secret.
    """

    endpoint: Annotated[str, _url("http://127.0.0.1:4318")] = ""
    headers: dict[str, SecretStr] = {}

    def span_options(self) -> SpanOptions | None:
        """Where spans are sent, secrets in clear text; None: nowhere.

        Raises:
            ConfigError: there is an endpoint, but the package that sends spans is not installed.
        """
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        if not self.endpoint:
            found = spans.from_environment(os.environ)
            return replace(found, headers={**found.headers, **headers}) if found and spans.installed() else None
        if not spans.installed():
            raise ConfigError(
                f"traces.endpoint: expected the package {spans.PACKAGE}, got none; pip install 'tocsin[traces]', or remove "
                "the setting"
            )
        return SpanOptions(spans.full(self.endpoint), headers)


class SinkSettings(Section):
    """`[sinks.<name>]`: an alert sink besides the alert topic. Any other setting is an option of the sink and is kept secret.

    An option `<name>_file` sets `<name>` to the content of a file, such as a mounted secret.

    Args:
        sink: `module:Class`, or the name under which an installed package offers it.
    """

    model_config = ConfigDict(extra="allow")

    sink: str

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "sink", self.sink

    @model_serializer
    def _show(self) -> dict[str, str]:
        return {"sink": self.sink} | dict.fromkeys(self.model_extra or {}, "**********")

    @property
    def options(self) -> dict[str, Any]:
        """The options for the sink's class, secrets in clear text."""
        options = dict(self.model_extra or {})
        files = {n.removesuffix("_file"): _content(options.pop(n)) for n in list(options) if n.endswith("_file")}
        return files | options


@cache
def client_config() -> type[BaseModel]:
    """The options of kafka-python's clients. Numbers and booleans are typed, since the environment has only text."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

    clients = (KafkaAdminClient, KafkaConsumer, KafkaProducer)
    fields: dict[str, Any] = {}
    for name, default in {n: d for client in clients for n, d in client.DEFAULT_CONFIG.items()}.items():
        number = isinstance(default, int | float) or name.endswith("_bytes")
        kind = bool if isinstance(default, bool) else int if number and name != "acks" else Any
        fields[name] = (kind, None)
    return create_model("ClientConfig", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
