"""Loads extensions: `module:name`, or the name of an entry point of an installed package."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from tocsin.pipelines.runtime.declare.errors import ConfigError


def extension(name: str, *, group: str, where: str) -> Any:
    """Load the object that a setting names.

    Args:
        name: `module:name`, or the name of an entry point.
        group: the group of entry points, such as `tocsin.alert_sinks`.
        where: the setting, for error messages.

    Raises:
        ConfigError: there is no such object, or its module fails to import.
    """
    if ":" not in name:
        found = entry_points(group=group)
        if name not in found.names:
            available = ", ".join(sorted(found.names)) or "none"
            raise ConfigError(f"{where}: expected module:name or an entry point of {group} ({available}), got {name!r}")
        return found[name].load()
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError, NameError) as reason:
        raise ConfigError(f"{where}: expected an importable module:name, got {name!r}: {reason}") from reason
