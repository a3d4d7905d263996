"""The sections of the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
    PositiveInt,
    SecretStr,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tocsin.pipelines.runtime.declare.durations import milliseconds, size
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.lake.object_store import object_store
from tocsin.pipelines.runtime.lake.storage import FIT, Lake, check_name, local
from tocsin.pipelines.runtime.telemetry import logs
from tocsin.pipelines.runtime.telemetry.logs import without_password


def _lake(path: str) -> str:
    """A local path that means the same in every process, whatever folder that was started in; an address as it is."""
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


def _content(path: Any) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, TypeError, ValueError) as reason:
        raise PydanticCustomError("secret_file", "Input should be a file that can be read") from reason


def _checked(parse: Callable[[str], int], expected: str) -> AfterValidator:
    def check(text: str) -> str:
        try:
            parse(text)
        except ConfigError as reason:
            raise PydanticCustomError("unit", "Input should be {expected}", {"expected": expected}) from reason
        return text

    return AfterValidator(check)


def section_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise PydanticCustomError("name", "Input should be a name of small letters, digits, - and _")
    if name == "alerts":
        raise PydanticCustomError("name", "Input should be another name: alerts land in a table of that one")
    return name


SecretFile = Annotated[SecretStr, BeforeValidator(_content)]
"""Given as a file's path, kept as its content."""
Port = Annotated[int, Field(ge=0, le=65535)]
Duration = Annotated[str, _checked(milliseconds, "a duration such as 20ms, 5s, 15min, 2h, 30d")]
Size = Annotated[str, _checked(size, "a size such as 512KB, 64MB, 1GB")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class KafkaSettings(Section):
    """`[kafka]`: any option of kafka-python's clients, handed on untouched; here are the common and the secret ones.

    Args:
        bootstrap_servers: one broker or several, `host:port`, separated by commas.
        security_protocol: with TLS (`SSL`), with a password (`SASL`), with both, or with neither.
        sasl_plain_password: for every SASL mechanism that has one; its user is `sasl_plain_username`.
        sasl_plain_password_file: a file that holds it, such as a mounted secret.
        ssl_password: of the client's private key, where `ssl_keyfile` is encrypted.
        ssl_password_file: a file that holds it.
        proxy_url: of a SOCKS5 proxy on the way to the brokers.
        socks5_proxy: the same by its old name.
    """

    model_config = ConfigDict(extra="allow")

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
    def _known_to_kafka_python(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        others = {name: value for name, value in given.items() if name not in cls.model_fields}
        return {**given, **client_config().model_validate(others).model_dump(exclude_unset=True)}

    def client_options(self) -> dict[str, Any]:
        """What kafka-python's clients take, secrets in clear. A password given as such wins over one in a file."""
        given = {n: v.get_secret_value() if isinstance(v, SecretStr) else v for n, v in self if v is not None}
        from_files = {n.removesuffix("_file"): given.pop(n) for n in list(given) if n.endswith("_file")}
        return from_files | given


class LakeSettings(Section):
    """`[lake]`: a folder or an object store's address, and the store's options (keys and the like, kept secret).

    Args:
        path: a folder, or an address such as `s3://bucket/lake`; every machine has to reach the same. Spaces, umlauts and most
            other characters may be in a folder's name, but not `[ ] ^ |`, a backslash, or `%` before two hexadecimal digits.
        store: a kind of object store that comes from outside, `module:Class` or the name under which an installed package offers
            it; "": a folder, or a store that Arrow and Delta know.
        options: of the object store, by Delta's names; Arrow's client goes by the address and the environment.
        alerts: whether alerts land in the table `alerts`, too.
        compact: how often supervisors make their tables' small files into large ones; "0s": never.
        vacuum: the age from which files that no version needs are deleted then, 24h at least.
    """

    path: Annotated[str, AfterValidator(_lake)] = "lake"
    store: str = ""
    options: dict[str, SecretStr] = {}
    alerts: bool = True
    compact: Duration = "1h"
    vacuum: Duration = "24h"

    def open(self) -> Lake:
        """The lake itself."""
        options = {name: value.get_secret_value() for name, value in self.options.items()}
        if self.store:
            options = {**object_store(self.store).delta(self.path)[1], **options}
        return Lake(self.path, options, self.store)


class MlflowSettings(Section):
    """`[mlflow]`: where runs are tracked and models registered.

    Args:
        tracking_uri: a local database, or a server's address.
        experiment: in which runs are kept.
        enabled: whether to track at all; without it, models are folders.
    """

    tracking_uri: Annotated[str, Field(repr=False), AfterValidator(_absolute_sqlite)] = "sqlite:///mlflow.db"
    experiment: str = "tocsin"
    enabled: bool = True

    @field_serializer("tracking_uri")
    def _show(self, uri: str) -> str:
        return without_password(uri)


class RaySettings(Section):
    """`[ray]`: where workers run, and what each of them takes.

    Args:
        address: "local" starts Ray for the length of `run`, and other commands join that of their folder's run; "auto" joins the
            cluster on this machine; else `host:port`.
        num_cpus: of a worker, as Ray counts them.
        num_gpus: of a worker, as Ray counts them.
        metrics_port: where a local cluster serves metrics, on 127.0.0.1; 0: nowhere.
    """

    address: str = "local"
    num_cpus: NonNegativeFloat = 1
    num_gpus: NonNegativeFloat = 0
    metrics_port: Port = 0

    def resources(self) -> dict[str, float]:
        """What Ray sets aside for a worker."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


class LogSettings(Section):
    """`[logs]`: what workers and supervisors write to stderr, one line each; of libraries, warnings only.

    Args:
        format: JSON, one object a line, or text for people.
        level: the least severe lines that are written.
    """

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"

    def environment(self) -> dict[str, str]:
        """The variables that say so to a deployment's processes."""
        return {logs.FORMAT: self.format, logs.LEVEL: self.level}


class HealthSettings(Section):
    """`[health]`: the endpoint for /livez, /readyz and /healthz where a pipeline's supervisor runs.

    Args:
        host: where it listens; Kubernetes asks from outside the pod's loopback: "0.0.0.0".
        port: 0: no endpoint.
    """

    host: str = "127.0.0.1"
    port: Port = 0


class PipelineSettings(Section):
    """`[pipelines.<name>]`: how a pipeline is run; everything else is an option of its own.

    Args:
        factory: `module:function`; default `tocsin.pipelines.<name>:pipeline`.
        model: "pumps@champion", "pumps/3" or a folder; default `<name>@champion` with the default factory; "": none.
        shards: partition p belongs to shard p mod shards; another number than before moves the state at the next start.
        workers: processes that share the shards; with `max_workers` the least, and more of them while the backlog asks for it.
        rows: in a step, at most.
        wait: for more rows once a step has its first one, at most.
        every: a checkpoint, as long as there is something to commit; the first results after a start are committed at once.
        size: of results that wait to be committed, from which on a checkpoint is taken at once.
        forget_after: a key not seen for so long is forgotten.
        warmup: so much of the log rebuilds the state when a new version of the pipeline has no other way.
        max_skew: how far an event time may be ahead of Kafka's timestamp, as message.timestamp.after.max.ms has it for brokers.
        max_age: how far an event time may be behind Kafka's timestamp, as message.timestamp.before.max.ms; raise it for history
            that is more than 27 years old.
        overload: "block", or "latest" to skip readings older than `max_lag`.
        max_lag: by Kafka's timestamp; it matters with `overload` "latest" alone.
        device: "auto" takes a GPU where there is one.
        max_workers: the most workers; by default as many as `workers`.
        start: where the very first start begins in the topic; partitions that are added later are read from their beginning.
        sinks: names of `[sinks.<name>]` sections: where its alerts go beside their topic.
        on_gap: what a shard does that finds something lost: stop with one line, or record the gap and go on.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    factory: str = ""
    model: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shards: PositiveInt = 1
    workers: PositiveInt = 1
    max_workers: PositiveInt | None = None
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    sinks: tuple[str, ...] = ()
    rows: PositiveInt | None = None
    wait: Duration | None = None
    every: Duration | None = None
    size: Size | None = None
    forget_after: Duration | None = None
    warmup: Duration | None = None
    max_skew: Duration | None = None
    max_age: Duration | None = None
    overload: Literal["block", "latest"] | None = None
    max_lag: Duration | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What was set for the pipeline's factory, as plain JSON."""
        own = {"factory", "model", "device", "shards", "workers", "max_workers", "start", "on_gap", "sinks"}
        return self.model_dump(mode="json", exclude=own, exclude_none=True)


class SinkSettings(Section):
    """`[sinks.<name>]`: where alerts go beside their topic; everything else is an option of the sink's own, kept secret.

    An option `<name>_file` gives `<name>` as the content of a file, such as a mounted secret.

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
        """What the sink's class takes, secrets in clear."""
        given = dict(self.model_extra or {})
        files = {n.removesuffix("_file"): _content(given.pop(n)) for n in list(given) if n.endswith("_file")}
        return files | given


@cache
def client_config() -> type[BaseModel]:
    """The options of kafka-python's clients; numbers and switches are typed, for the environment has only text."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

    clients = (KafkaAdminClient, KafkaConsumer, KafkaProducer)
    fields: dict[str, Any] = {}
    for name, default in {n: d for client in clients for n, d in client.DEFAULT_CONFIG.items()}.items():
        number = isinstance(default, int | float) or name.endswith("_bytes")
        kind = bool if isinstance(default, bool) else int if number and name != "acks" else Any
        fields[name] = (kind, None)
    return create_model("ClientConfig", __config__=ConfigDict(extra="forbid"), **fields)
