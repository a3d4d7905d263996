"""Settings of an imputer: its columns, its window and the sizes of its network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tocsin.models import files

CONFIG_FILE, WEIGHTS_FILE = "imputer.json", "imputer.safetensors"
"""Both lie beside the files of the model that the imputer belongs to."""


@dataclass(frozen=True, kw_only=True)
class ImputerConfig:
    """An imputer's settings, stored as `imputer.json`.

    Args:
        columns: the sensors, in the order of the grid.
        times: steps of the grid that it sees.
        stride: rows from one step to the next.
        patch: steps of one patch of the attention; divides `times`.
        regimes: number of operating regimes, each with its own mean and deviation of each sensor.
        channels, heads, layers: sizes of the network; `heads` divides `channels`.

    Raises:
        ValueError: if the values contradict each other.
    """

    columns: tuple[str, ...]
    times: int = 30
    stride: int = 1
    patch: int = 10
    regimes: int = 1
    channels: int = 16
    heads: int = 4
    layers: int = 1

    def __post_init__(self) -> None:
        if not self.columns or min(self.times, self.stride, self.patch, self.regimes, self.heads) < 1:
            raise ValueError(f"expected a column and sizes of at least 1, got {self}")
        if self.times % self.patch or self.channels % self.heads:
            raise ValueError(
                f"expected a patch that divides times and heads that divide channels, got {self.patch} and {self.times}, "
                f"{self.heads} and {self.channels}"
            )

    @property
    def rows(self) -> int:
        """Rows of the stream from the first step to the last."""
        return (self.times - 1) * self.stride + 1

    @classmethod
    def load(cls, directory: Path) -> ImputerConfig:
        """Read `imputer.json` in `directory`.

        Raises:
            FileNotFoundError
            ValueError: a setting is missing, unknown or contradicts another.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        try:
            return cls(**{**values, "columns": tuple(values["columns"])})
        except (KeyError, TypeError) as reason:
            raise ValueError(f"{directory / CONFIG_FILE}: {reason}; train the imputer again") from None
