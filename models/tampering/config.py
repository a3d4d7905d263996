"""The configuration of a trained tampering model, stored as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.tampering.memory import MemoryConfig
from tocsin.models.tampering.network import NetworkConfig
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class TamperingConfig:
    """A model, its memory, and when it says that a camera is tampered with.

    Args:
        network: sizes.
        memory: spans.
        level: score, 0 to 1, from which on a frame counts as tampered with.
        warm: frames of a camera before the first verdict.
        lapse: seconds without a frame after which motion is measured anew.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    level: float = 0.5
    warm: int = 40
    lapse: float = 10.0

    @classmethod
    def load(cls, directory: Path) -> TamperingConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: the file has unknown settings.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        with config_of("a tampering model", directory):
            network: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in stored.pop("network", {}).items()
            }
            memory = MemoryConfig(**stored.pop("memory", {}))
            return cls(network=NetworkConfig(**network), memory=memory, **stored)
