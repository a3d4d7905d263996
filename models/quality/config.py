"""Settings of a quality model: its window, its memory, the sizes of its network, and the faults that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.quality.faults import Faults
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """A quality model's settings, stored as `config.json` beside its weights.

    Args:
        window: readings of a key that are judged together.
        memory: trusted readings of a key that they are compared with.
        width, heads: sizes of the network; `heads` divides `width`.
        level: quality below which a window is bad.
        faults: what was injected in training.

    Raises:
        ValueError: if a value is not possible.
    """

    window: int = 32
    memory: int = 64
    width: int = 32
    heads: int = 4
    level: float = 0.5
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        if self.window < 16 or self.window % 8:
            raise ValueError(f"window: expected a multiple of 8 from 16 on, got {self.window}")
        if self.memory < self.window:
            raise ValueError(f"memory: expected at least the window ({self.window}), got {self.memory}")
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(f"expected heads that divide width, got {self.heads} and {self.width}")
        if not 0 < self.level < 1:
            raise ValueError(f"level: expected a quality between 0 and 1, got {self.level:g}")

    @classmethod
    def load(cls, directory: Path) -> QualityConfig:
        """Read `config.json` in `directory`.

        Raises:
            ValueError: a setting is missing, unknown or not possible.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        with config_of("a quality model", directory):
            stored = values.pop("faults").items()
            sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored}
            return cls(**values, faults=Faults(**sizes))
