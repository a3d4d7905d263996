"""The configuration of a trained alignment model, stored as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.alignment.network import NetworkConfig
from tocsin.models.alignment.watch import WatchConfig
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """A model and how it judges what it found.

    Args:
        network: sizes.
        height, width: of the frames, pixels; multiples of 8.
        trust: weights of the logistic function that gives the confidence: of the logarithm of the expected error, of the share of
            fine matches that agree, of the share of coarse ones, and the constant; from validation pairs.
        spread: by how much fits are off for each pixel that they expect, since neighbours err alike; from validation pairs.
        watch: how a move is found.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    height: int = 240
    width: int = 320
    trust: tuple[float, float, float, float] = (-1.0, 4.0, 4.0, -4.0)
    spread: float = 4.5
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        if self.height % 8 or self.width % 8:
            raise ValueError(f"expected frames of a multiple of 8 pixels, got {self.height} x {self.width}")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the frames."""
        return self.height, self.width

    @classmethod
    def load(cls, directory: Path) -> AlignmentConfig:
        """Read what a model's `save` wrote.

        Raises:
            ValueError: the file has unknown settings.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        with config_of("an alignment model", directory):
            network, watch = NetworkConfig(**stored.pop("network", {})), WatchConfig(**stored.pop("watch", {}))
            rest: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
            }
            return cls(network=network, watch=watch, **rest)
