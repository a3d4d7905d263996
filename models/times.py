"""Times as people write them: in tables of recordings and of intervals."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

EXAMPLE = "a time such as 2026-01-31 12:00:00 or 2026-01-31T12:00:00+01:00"
_DATE, _CLOCK = r"(?<date>\d{4}-\d{1,2}-\d{1,2})", r"(?<clock>\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?)"
_ZONE = r"(?:(?<utc>[Zz]|UTC)|(?<sign>[+-])(?<hours>\d\d)(?::?(?<minutes>\d\d))?)"
_FORM = rf"^{_DATE}(?:[Tt ]{_CLOCK} ?{_ZONE}?)?$"
_CLOCKS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")


class Times(NamedTuple):
    """Times that were read from text.

    Attributes:
        utc: us since 1970 UTC, Int64; null where a text is no time. A time without an offset counts as UTC.
        offset: minutes from UTC, Int64; null where a text has none.
    """

    utc: pl.Series
    offset: pl.Series


def read(texts: pl.Series) -> Times:
    """Read dates, and dates with a clock and perhaps an offset from UTC: ISO 8601, with a space for its T if need be."""
    parts = texts.str.extract_groups(_FORM).struct.unnest()
    clock = parts["clock"].fill_null("00:00").str.replace(",", ".", literal=True)
    local = pl.select(
        pl.coalesce(
            pl.lit(parts["date"] + " " + clock).str.to_datetime(form, time_unit="us", strict=False) for form in _CLOCKS
        )
    ).to_series()
    hours, minutes = (parts[part].cast(pl.Int64).fill_null(0) for part in ("hours", "minutes"))
    west = (parts["sign"] == "-").fill_null(False).cast(pl.Int64)
    offset = (60 * hours + minutes) * (1 - 2 * west)
    valid = (hours <= 14) & (minutes <= 59)
    utc = local.dt.epoch("us") - 60_000_000 * offset
    return Times(utc.set(~valid, None), offset.set(parts["utc"].is_null() & parts["sign"].is_null(), None))
