"""Times as the sources give them."""

from __future__ import annotations

from datetime import UTC, datetime


def at(ms: int) -> datetime:
    """Convert ms since the epoch into a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
