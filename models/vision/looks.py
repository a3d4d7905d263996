"""Which clips of a recording are unlike the training data, for `tocsin evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tocsin.models.domain import foreign

FOREIGN = 0.5
"""Share of a recording's frames above which figures are doubtful."""


@dataclass(frozen=True)
class Looks:
    """Frames that are like the training data, those for which it is known, and what the others are like.

    A clip may be too short to know.
    """

    usual: int = 0
    known: int = 0
    unlike: str = ""

    @classmethod
    def of(cls, table: pl.DataFrame) -> Looks:
        """The frames of a clip, from the pipeline's columns `in_domain` and `unlike`."""
        verdicts, reasons = table["in_domain"].drop_nulls(), table["unlike"].drop_nulls()
        return cls(int(verdicts.sum()), len(verdicts), str(reasons[-1]) if len(reasons) else "")

    def __add__(self, other: Looks) -> Looks:
        return Looks(self.usual + other.usual, self.known + other.known, self.unlike or other.unlike)

    @property
    def share(self) -> float | None:
        """The share of the frames that are like the training data; None: not known."""
        return self.usual / self.known if self.known else None


def doubt(pipeline: str, clips: Mapping[str, Looks]) -> str:
    """Why the figures of clips say little; "": most of their frames are like the training data."""
    share = sum(clips.values(), Looks()).share
    named = ", ".join(f"{name}: {looks.unlike}" for name, looks in clips.items() if looks.unlike)
    shares = {} if share is None else {f"all ({named})": 1 - share}
    return foreign(
        pipeline, "frames", shares, "turn, clean or light the camera, train a model on such frames", most=FOREIGN
    )
