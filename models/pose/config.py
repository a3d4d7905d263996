"""The configuration of a trained pose model, stored as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.pose.network import NetworkConfig
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """A model, its frames, and when a track begins anew.

    Args:
        network: sizes.
        height, width: of the frames, pixels.
        focal: of a camera whose lens is not known, in frame widths.
        lapse: seconds without a frame after which a new track begins.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    height: int = 120
    width: int = 160
    focal: float = 0.8
    lapse: float = 2.0

    @classmethod
    def load(cls, directory: Path) -> PoseConfig:
        """Read `config.json` in `directory`.

        Raises:
            ValueError: a setting is missing or unknown.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        with config_of("a pose model", directory):
            sizes: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in values.pop("network").items()
            }
            return cls(**values, network=NetworkConfig(**sizes))
