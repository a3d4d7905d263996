"""When an interval of tampering begins and ends, for the pipeline and for figures alike."""

from __future__ import annotations

from dataclasses import dataclass

EASE, HOLD = 0.5, 5
"""Defaults of `Interval`."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval begins at `level`. Once it has `hold` frames it raises an alert, and from then on it ends below `ease * level`.

    Before that, one frame below `level` ends it: a score that jumps to the level for a frame must not be held by the lower end.
    """

    level: float
    ease: float = EASE
    hold: int = HOLD

    def length(self, before: int, score: float) -> int:
        """Frames of the interval with this one, given those before it; 0: it belongs to none, as a NaN does."""
        least = self.level * (self.ease if before >= self.hold else 1)
        return before + 1 if score >= least else 0
