"""Parsing and formatting of times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def moment(text: str) -> int:
    """Parse a time, or a duration before now, into ms since the epoch.

    Raises:
        ConfigError: it is neither.
    """
    from tocsin.pipelines.runtime.declare.durations import milliseconds
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    try:
        return round((datetime.now(UTC) - timedelta(milliseconds=milliseconds(text))).timestamp() * 1000)
    except ConfigError:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(
                f"time {text}: expected a duration such as 2h or a time such as 2026-01-31T12:00:00Z; correct it"
            ) from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def at(ms: int) -> datetime:
    """Convert ms since the epoch into a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def written(ms: int) -> str:
    """Format ms since the epoch for people, in UTC."""
    return f"{at(ms):%Y-%m-%d %H:%M:%S} UTC"
