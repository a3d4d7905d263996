"""Durations and sizes as people write them, and the two times that no clock shows."""

import re
from functools import cache

from tocsin.pipelines.runtime.declare.errors import ConfigError

NEVER = -(2**62)
"""A time before all others, ms since the epoch: of something that has not happened."""
FAR = 2**62
"""A time after all others, ms since the epoch: of something that will not happen."""
LONGEST = 2**53
"""A longer duration, ms, is refused: times that it is added to must stay below `FAR`."""

_UNITS = {
    "duration": {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000},
    "size": {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30},
}
_EXAMPLES = {"duration": "20ms, 5s, 15min, 2h, 30d", "size": "512KB, 64MB, 1GB"}


def milliseconds(text: str) -> int:
    """A duration such as `20ms`, `5s`, `15min`, `2h`, `30d`, in ms."""
    return _scaled(text, "duration")


def size(text: str) -> int:
    """A size such as `512KB`, `64MB`, in bytes (powers of 1024)."""
    return _scaled(text, "size")


def _scaled(text: str, kind: str) -> int:
    if (amount := _amount(str(text), kind)) is None:  # TOML may hold a bare number
        raise ConfigError(f"expected a {kind} such as {_EXAMPLES[kind]}, got {text!r}")
    return amount


@cache
def _amount(text: str, kind: str) -> int | None:
    match, units = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text), _UNITS[kind]
    amount = float(match[1]) * units[match[2]] if match and match[2] in units else None
    return None if amount is None or amount >= LONGEST else round(amount)
