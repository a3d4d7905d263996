"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def moment(text: str) -> int:
    """A time, or a duration before now, in ms since the epoch.

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
    """A moment, in UTC, of ms since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def written(ms: int) -> str:
    """A moment as people read it."""
    return f"{at(ms):%Y-%m-%d %H:%M:%S} UTC"
