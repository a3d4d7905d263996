"""Settings: `tocsin.toml`, then the environment (`TOCSIN_*`), then flags; the later one wins."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError
from pydantic_settings.sources import PydanticBaseSettingsSource

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.options import expectation
from tocsin.pipelines.runtime.pipeline_section import PipelineSettings
from tocsin.pipelines.runtime.sections import (
    HealthSettings,
    KafkaSettings,
    LakeSettings,
    LogSettings,
    MlflowSettings,
    RaySettings,
    SchemaRegistrySettings,
    SinkSettings,
    TracesSettings,
    client_config,
    section_name,
)
from tocsin.pipelines.runtime.telemetry.logs import without_password

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.alert_sinks import SinkConfig

FILE = "tocsin.toml"
PREFIX = "TOCSIN_"


class Settings(BaseSettings):
    """All settings. `repr` and `model_dump` show no secrets."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    lake: LakeSettings = Field(default_factory=LakeSettings)
    mlflow: MlflowSettings = Field(default_factory=MlflowSettings)
    ray: RaySettings = Field(default_factory=RaySettings)
    logs: LogSettings = Field(default_factory=LogSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    schema_registry: SchemaRegistrySettings = Field(default_factory=SchemaRegistrySettings)
    traces: TracesSettings = Field(default_factory=TracesSettings)
    pipelines: dict[Annotated[str, AfterValidator(section_name)], PipelineSettings] = {}
    sinks: dict[Annotated[str, AfterValidator(section_name)], SinkSettings] = {}

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values that `load` has merged: only `load` knows which source a wrong value came from."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        secret_files: bool = True,
    ) -> Settings:
        """Read the settings.

        Args:
            path: the file; None: `$TOCSIN_CONFIG`, or `./tocsin.toml` if it is there.
            overrides: flags by dotted name (`kafka.bootstrap_servers`); None: the flag was not given.
            secret_files: whether the files that settings name by `*_file` are read; they may be on other machines only.

        Raises:
            ConfigError: a setting is wrong. The error names the first one, its source and the expected value.
        """
        file, content = _read(path)
        _check_names(os.environ)
        try:
            environment = EnvSettingsSource(cls)()
        except SettingsError as reason:
            raise ConfigError(
                f"environment variables {PREFIX}*: expected JSON for a whole section, got an {reason}; "
                f"set single keys, such as {PREFIX}KAFKA__BOOTSTRAP_SERVERS"
            ) from reason
        flags: dict[str, Any] = {}
        for name, value in (overrides or {}).items():
            if value is not None:
                flags = _merged(flags, _nested(name.split("."), value))
        merged = _merged(_merged(content, environment), flags)
        try:
            return cls(**(merged if secret_files else _without_files(merged)))
        except ValidationError as error:
            raise ConfigError(_line(error.errors()[0], file, environment, flags)) from None  # its text shows secrets

    def sinks_of(self, pipeline: str) -> list[SinkConfig]:
        """The sinks that a pipeline's alerts go to besides their topic.

        Raises:
            ConfigError: a sink has no section.
        """
        from tocsin.pipelines.runtime.control.alert_sinks import SinkConfig

        found = []
        for name in self.pipeline(pipeline).sinks:
            if name not in self.sinks:
                existing = ", ".join(self.sinks) or "none"
                raise ConfigError(
                    f"pipelines.{pipeline}.sinks: expected names of [sinks.<name>] sections ({existing}), got {name!r}; add one"
                )
            found.append(SinkConfig(name, self.sinks[name].sink, self.sinks[name].options))
        return found

    def format_options(self) -> dict[str, dict[str, Any]]:
        """The options of message formats by the section that holds them, secrets in clear text. Only sections that are set."""
        return {"schema_registry": self.schema_registry.client_options()} if self.schema_registry.url else {}

    def pipeline(self, name: str) -> PipelineSettings:
        """A pipeline's settings with defaults filled in. A pipeline without a section has only defaults."""
        section = self.pipelines.get(name, PipelineSettings())
        if section.factory:
            return section
        model = f"{name}@champion" if section.model is None else section.model
        return section.model_copy(update={"factory": f"tocsin.pipelines.{name}:pipeline", "model": model})


def _read(path: Path | str | None) -> tuple[Path, dict[str, Any]]:
    requested = path or os.environ.get(f"{PREFIX}CONFIG")
    file = Path(requested or FILE)
    if not requested and not file.exists():
        return file, {}
    try:
        return file, tomllib.loads(file.read_text())
    except (OSError, ValueError) as reason:
        detail = reason.strerror if isinstance(reason, OSError) else reason
        raise ConfigError(
            f"settings in {file}: expected a TOML file, got: {detail}; correct it or name another file"
        ) from reason


def _check_names(environment: Mapping[str, str]) -> None:
    """Refuse names that pydantic-settings would ignore. Other `TOCSIN_*` names are allowed: Kubernetes makes some itself."""
    corrected = {
        _variable(s, n).replace("__", "_"): _variable(s, n) for s in Settings.model_fields for n in _names((s,))
    }
    for name in environment:
        upper = name.upper()
        section, nested, _ = upper.removeprefix(PREFIX).lower().partition("__")
        if upper.startswith(PREFIX) and nested and section not in Settings.model_fields:
            known = ", ".join(f"{PREFIX}{s.upper()}__*" for s in Settings.model_fields)
            raise ConfigError(f"environment variable {name}: expected one of {known}, got another name; rename it")
        if upper in corrected and not nested:
            raise ConfigError(f"environment variable {name}: expected two underscores; rename it to {corrected[upper]}")


def _variable(*loc: object) -> str:
    return PREFIX + "__".join(map(str, loc)).upper()


def _names(section: tuple[str, ...]) -> list[str]:
    """The names of a section's settings."""
    if not section:
        return [*Settings.model_fields]
    field: FieldInfo = Settings.model_fields[section[0]]
    known = getattr(field.annotation, "model_fields", {})
    return [*known, *(client_config().model_fields if section == ("kafka",) else ())]


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        n: _merged(base[n], override[n])
        for n in override
        if isinstance(base.get(n), dict) and isinstance(override[n], dict)
    }
    return {**base, **override, **nested}


def _without_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that name a file."""
    return {
        name: _without_files(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if not name.endswith(("_file", "_cafile"))
    }


def _has(source: Any, loc: tuple[str, ...]) -> bool:
    return not loc or (isinstance(source, dict) and loc[0] in source and _has(source[loc[0]], loc[1:]))


def _line(error: ErrorDetails, file: Path, environment: dict[str, Any], flags: dict[str, Any]) -> str:
    loc = tuple(str(part) for part in error["loc"] if part != "[key]")
    if _has(flags, loc):
        where = "on the command line"
    elif _has(environment, loc):
        where = f"in environment variable {_variable(*loc)}"
    else:
        where = f"in {file}"
    if error["type"] == "extra_forbidden":
        known = _names(loc[:-1])
        nearest = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0)[0]
        return f"{'.'.join(loc)} {where}: expected a setting that exists, got {loc[-1]!r}; the nearest is {nearest!r}"
    expected = expectation(error)
    return f"{'.'.join(loc)} {where}: expected {expected}, got {_shown(loc, error['input'])}; correct it there"


def _shown(loc: tuple[str, ...], value: Any) -> str:
    if isinstance(value, str | int | float) and not _is_secret(loc):
        return without_password(repr(value))
    return f"a value of type {type(value).__name__}"


def holds_secret(loc: tuple[str, ...], value: Any) -> bool:
    """Whether a setting, or one below it, is a secret. The path of a file that holds one is not."""
    if isinstance(value, Mapping):
        return any(holds_secret((*loc, name), below) for name, below in value.items())
    return _is_secret(loc) or without_password(str(value)) != str(value)


def _is_secret(loc: tuple[str, ...]) -> bool:
    return not loc[-1].endswith("_file") and (
        loc[:2] in (("lake", "options"), ("traces", "headers"))
        or (loc[0] == "sinks" and loc[-1] != "sink")
        or "password" in loc[-1]
        or "token" in loc[-1]
        or loc[-1] in ("proxy_url", "socks5_proxy")
    )
