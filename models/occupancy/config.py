"""Settings of an occupancy model: inputs, window, scaling, threshold and network sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.occupancy.bounds import Bounds
from tocsin.models.occupancy.features import CLOCK, CO2, FEATURES
from tocsin.models.occupancy.plain import Plain
from tocsin.models.trained import CONFIG_FILE, config_of

RELEASE = 0.7
"""A room stays occupied until its probability falls below this share of its threshold."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Sizes of the network: an LSTM with `layers` layers reads `patch` rows per step."""

    patch: int = 5
    lstm: int = 24
    layers: int = 1
    attention: int = 16
    dropout: float = 0.3


@dataclass(frozen=True, kw_only=True)
class OccupancyConfig:
    """An occupancy model's settings, stored as `config.json` beside its weights.

    Args:
        features: names from `tocsin.models.occupancy.features`, in the order of the network's input.
        window: rows, one a minute, per window; a multiple of the network's patch.
        threshold: a room counts as occupied at or above this probability.
        mean, scale: of each feature over the training rows; empty before training.
        bounds: of each reading in the training data; readings outside are out of domain.
        plain: what the model has to beat, fitted on the same data.
        network: sizes.

    Raises:
        ValueError: if the values contradict each other.
    """

    features: tuple[str, ...] = (*CO2, *CLOCK)
    window: int = 60
    threshold: float = 0.5
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bounds: Bounds = field(default_factory=dict)
    plain: Plain = field(default_factory=Plain)
    network: NetworkSize = field(default_factory=NetworkSize)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.features) - set(FEATURES)):
            raise ValueError(f"features {unknown}; expected some of {list(FEATURES)}")
        if self.window < 1 or self.window % self.network.patch:
            raise ValueError(f"a window of {self.window} rows; expected a multiple of the patch, {self.network.patch}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"a threshold of {self.threshold:g}; expected a probability between 0 and 1")
        for name in ("mean", "scale"):
            if len(getattr(self, name)) not in (0, len(self.features)):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.features)} features")

    @classmethod
    def load(cls, directory: Path) -> OccupancyConfig:
        """Read `config.json` in `directory`.

        Raises:
            ValueError: a setting is missing, unknown or contradicts another.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        with config_of("an occupancy model", directory):
            network = NetworkSize(**values.pop("network"))
            values |= {name: tuple(values[name]) for name in ("features", "mean", "scale")}
            values["bounds"] = {name: (low, high) for name, (low, high) in values.get("bounds", {}).items()}
            values["plain"] = Plain(**{name: tuple(given) for name, given in values.get("plain", {}).items()})
            return cls(**values, network=network)

    def save(self, directory: Path) -> None:
        """Write `config.json` into `directory`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})
