"""Durations and sizes as people write them, and the two times that no clock shows."""

import re
from functools import cache

from tocsin.pipelines.runtime.declare.errors import ConfigError

NEVER = -(2**62)
"""A time before all others, ms since the epoch: of something that has not happened."""
FAR = 2**62
"""A time after all others, ms since the epoch: of something that will not happen."""

_DURATION, _SIZE = "a duration such as 20ms, 5s, 15min, 2h, 30d", "a size such as 512KB, 64MB, 1GB"
_UNITS = {
    _DURATION: {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000},
    _SIZE: {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30},
}


def milliseconds(text: str) -> int:
    """A duration such as `20ms`, `5s`, `15min`, `2h`, `30d`, in ms."""
    return _scaled(text, _DURATION)


def size(text: str) -> int:
    """A size such as `512KB`, `64MB`, in bytes (powers of 1024)."""
    return _scaled(text, _SIZE)


def _scaled(text: str, expected: str) -> int:
    if (amount := _amount(str(text), expected)) is None:  # TOML may hold a bare number
        raise ConfigError(f"expected {expected}, got {text!r}")
    return amount


@cache
def _amount(text: str, expected: str) -> int | None:
    match, units = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text), _UNITS[expected]
    return round(float(match[1]) * units[match[2]]) if match and match[2] in units else None
