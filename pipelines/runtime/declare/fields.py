"""What one field of a reading accepts, as parsed JSON."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import ConfigError

RFC3339 = (
    r"((?:1[7-9]|2[01])[0-9]{2}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]{1,9}))?(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
TIME = re.compile(RFC3339)
FIRST_MS = -8_520_336_000_000  # 1700-01-01; both `RFC3339` and int64 nanoseconds hold all times up to END_MS
END_MS = 7_258_118_400_000  # 2200-01-01
PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
TODAY_MS = range(946_684_800_000, 4_102_444_800_000)
"""2000 to 2099. If a number is a time in this range when read in another unit, it was probably meant in that unit."""
EXACT = 2**53
"""Below 2**53 a float is exactly the integer that was written; from here on it may be rounded."""
FLOAT32_LIMIT = 2.0**128 - 2.0**103
"""From here on, rounding to 32 bits gives infinity."""
FLOAT64_LIMIT = 2**1024 - 2**970
"""From here on, rounding to 64 bits gives infinity. An integer, since no float is so large."""


def field_reader(topic: str, f: pa.Field) -> tuple[Callable[[Any], Any], str]:
    """A function from parsed JSON to the field's value (None if it does not fit), and a description of what fits."""
    kind = f.type
    if kind in (pa.float32(), pa.float64()):
        low, high = (-FLOAT32_LIMIT, FLOAT32_LIMIT) if kind == pa.float32() else (-FLOAT64_LIMIT, FLOAT64_LIMIT)
        number = f"a number that fits {kind}"
        return lambda c: float(c) if type(c) in (int, float) and low < c < high else None, number
    if pa.types.is_integer(kind):
        values = integer_range(kind)
        low, high = values.start, values.stop
        number = f"an integer that fits {kind}"
        return lambda c: n if (n := whole(c)) is not None and low <= n < high else None, number
    if pa.types.is_timestamp(kind) and kind.unit in PER_MS and kind.tz == "UTC":
        time = "an RFC 3339 time with an offset, or milliseconds since 1970, from 1700 to 2199"
        return lambda c: instant(c, kind.unit), time
    if kind == pa.string():
        return lambda c: c if type(c) is str else None, "a string"
    if kind == pa.bool_():
        return lambda c: c if type(c) is bool else None, "true or false"
    raise ConfigError(
        f"{topic}: field {f.name} has type {kind}; use float, double, an integer, bool, string or "
        'timestamp("ms"|"us"|"ns", "UTC")'
    )


def integer_range(kind: pa.DataType) -> range:
    """The values of an integer type."""
    low = -(2 ** (kind.bit_width - 1)) if pa.types.is_signed_integer(kind) else 0
    return range(low, low + 2**kind.bit_width)


def plain_type(kind: pa.DataType) -> type | None:
    """The type of parsed JSON that fits a field as it is, if its value is in range; None: there is none."""
    checks = ((pa.types.is_floating, float), (pa.types.is_integer, int), (pa.types.is_string, str))
    return next((plain for fits, plain in checks if fits(kind)), bool if kind == pa.bool_() else None)


def whole(content: Any) -> int | None:
    """The content as an integer, even if it is written as a float such as `7.0`; None if it is not an integer."""
    if type(content) is float and content.is_integer() and abs(content) < EXACT:
        return int(content)
    return content if type(content) is int else None


def instant(content: Any, unit: str) -> int | None:
    """The content as a time in `unit` since 1970 UTC, rounded down; None if it is not a time."""
    if (number := whole(content)) is not None and FIRST_MS <= number < END_MS:
        return number * PER_MS[unit]
    if type(content) is str and (parts := TIME.fullmatch(content)):
        clock, fraction, offset = parts.groups()
        with suppress(ValueError):  # the pattern accepts days that do not exist
            seconds = int(datetime.fromisoformat(clock + offset).timestamp())
            if FIRST_MS <= seconds * 1000 < END_MS:  # the offset may move it out of the pattern's years
                return (seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))) * PER_MS[unit] // 1_000_000
    return None


def unit_meant(content: Any) -> str:
    """The unit that a number was probably meant in instead of milliseconds, such as "; seconds?"; "" if none is likely."""
    with suppress(TypeError, ValueError, OverflowError):
        for unit, ms in (("seconds", 1000), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
            if int(float(content) * ms) in TODAY_MS:
                return f"; {unit}?"
    return ""
