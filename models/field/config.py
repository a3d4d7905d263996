"""Settings of a field model: the kind of network, its sizes, and what was chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.field.hall import KINDS
from tocsin.models.field.network import NETWORKS, NetworkSize
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """A field model's settings, stored as `config.json` beside its weights.

    Args:
        network: of `tocsin.models.field.network.NETWORKS`.
        size: of the network.
        widen: by kind of field, what its spread is multiplied by so that 90 % of the truth are within 1.645 of it.
        power: by kind of field, of inverse-distance weighting, chosen on validation; of the baseline alone.

    Raises:
        ValueError: if a value is not possible.
    """

    network: str = "geometric"
    size: NetworkSize = field(default_factory=NetworkSize)
    widen: tuple[float, ...] = (1.0,) * len(KINDS)
    power: tuple[float, ...] = (3.0,) * len(KINDS)

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network: expected one of {', '.join(NETWORKS)}, got {self.network}")
        for name in ("widen", "power"):
            values = getattr(self, name)
            if len(values) != len(KINDS) or not all(value > 0 for value in values):
                raise ValueError(f"{name}: expected {len(KINDS)} numbers above 0, got {[*values]}")

    @classmethod
    def load(cls, directory: Path) -> FieldConfig:
        """Read `config.json` in `directory`.

        Raises:
            ValueError: a setting is missing, unknown or not possible.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        with config_of("a field model", directory):
            size = NetworkSize(**values.pop("size"))
            values |= {name: tuple(values[name]) for name in ("widen", "power")}
            return cls(**values, size=size)
