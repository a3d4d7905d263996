"""The options before the command's name: the settings file and single settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.settings import Settings


@dataclass(frozen=True)
class Invocation:
    """One call of `tocsin`.

    Args:
        config: settings file; None: the default.
        sets: `name=value`, by dotted name.
    """

    config: Path | None = None
    sets: Sequence[str] = field(default_factory=tuple)

    def settings(self, flags: Mapping[str, Any] | None = None, *, secret_files: bool = True) -> Settings:
        """Load the settings. Later sources win: file, environment, `--set`, then `flags`. Flags that are None are ignored.

        Args:
            secret_files: see `Settings.load`.
        """
        from tocsin.pipelines.runtime.settings import Settings

        overrides = {n: v for n, v in (flags or {}).items() if v is not None}
        return Settings.load(self.config, {**dict(map(pair, self.sets)), **overrides}, secret_files=secret_files)


def pair(text: str) -> tuple[str, Any]:
    """The name and the value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--set {text}: expected NAME=VALUE, got no `=`; such as --set lake.path=/data/lake")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value  # text need not be quoted
