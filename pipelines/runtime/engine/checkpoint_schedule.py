"""When a shard's next checkpoint is due: by time, and earlier for rows that somebody waits for."""

from __future__ import annotations

import math
import time

SOON_S = 60.0
"""The longest interval that is shortened. A longer one is deliberate."""
BACKLOG_S = 1.0
"""A shard that is behind for so long has a backlog."""
CAUGHT_UP_S = 2.0
"""The least time from a checkpoint to one that is taken because a backlog has ended."""


class CheckpointSchedule:
    """Knows when the last checkpoint began, and whether the first rows of a start or the last ones of a backlog are to come.

    Attributes:
        last: when the last checkpoint began, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.last = -math.inf
        self._awaits_first_rows, self._awaits_last_rows = True, False
        self._behind_since = math.inf

    def note_read(self, *, pending: int, lag: int, batch: int) -> None:
        """Note what a step begins with. A backlog begins with a full batch, and ends when all of it has been read.

        Args:
            pending: rows that have been read.
            lag: records that have not.
            batch: the most rows of a step.
        """
        now = time.monotonic()
        if max(pending, lag) >= batch:
            self._behind_since = min(self._behind_since, now)
        elif not lag:
            self._behind_since = math.inf
        self._awaits_last_rows |= now - self._behind_since >= BACKLOG_S

    def is_due(self, every: float, *, has_rows: bool) -> bool:
        """Whether a checkpoint is due.

        Args:
            every: the interval in seconds.
            has_rows: whether there are rows to commit.
        """
        if has_rows and every <= SOON_S:
            if self._awaits_first_rows:
                return True
            if self._awaits_last_rows and self._behind_since == math.inf:
                every = min(every, CAUGHT_UP_S)
        return time.monotonic() >= self.last + every

    def begin(self, *, has_rows: bool) -> None:
        """Note that a checkpoint begins."""
        self.last = time.monotonic()
        self._awaits_first_rows = self._awaits_first_rows and not has_rows
        self._awaits_last_rows = self._awaits_last_rows and self._behind_since < math.inf
