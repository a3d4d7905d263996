"""Input drift: whether a stream's readings are distributed as those that its model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DRIFT, DRIFT_SEVERITY = "drift", "warning"
"""The rule and the severity of the alert that is raised for a pipeline whose input has drifted."""


class DriftReference(Protocol):
    """The distribution of a model's training readings, by group (such as an operating regime) and column."""

    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Sequence[str]: ...

    def index(self, seen: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far the stream's readings have drifted, `[groups, columns]`; NaN for groups with too few readings.

        Args:
            seen: the sum of what `Census` has counted, `[groups, ...]`.
        """
        ...

    def level(self, assets: int) -> float | None:
        """The index from which the readings of so many assets have drifted; None: too few assets to tell."""
        ...
