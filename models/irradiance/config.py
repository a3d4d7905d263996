"""Settings of an irradiance model: the kind of network, its sizes, and what was calibrated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.irradiance.features import STEPS
from tocsin.models.irradiance.network import KINDS, NetworkSize
from tocsin.models.trained import CONFIG_FILE, config_of


@dataclass(frozen=True, kw_only=True)
class IrradianceConfig:
    """An irradiance model's settings, stored as `config.json` beside its weights.

    Args:
        network: of `tocsin.models.irradiance.network.KINDS`.
        size: of the network.
        window: hours that the network sees.
        coverage: share of the hours by day whose irradiance the interval should hold.
        ramp: probability from which a ramp is expected.
        usual: clearness of all training hours together; the baseline `climatology`.

    Raises:
        ValueError: if a value is not possible.
    """

    network: str = "physics"
    size: NetworkSize = field(default_factory=NetworkSize)
    window: int = STEPS
    coverage: float = 0.9
    ramp: float = 0.5
    usual: float = 0.7

    def __post_init__(self) -> None:
        if self.network not in KINDS:
            raise ValueError(f"network: expected one of {', '.join(KINDS)}, got {self.network}")
        if self.window != STEPS:
            raise ValueError(f"window: expected {STEPS} hours, got {self.window}")
        for name in ("coverage", "ramp"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a share between 0 and 1, got {getattr(self, name):g}")

    @classmethod
    def load(cls, directory: Path) -> IrradianceConfig:
        """Read `config.json` in `directory`.

        Raises:
            ValueError: a setting is missing, unknown or not possible.
        """
        values: dict[str, Any] = files.read_json(directory / CONFIG_FILE)
        with config_of("an irradiance model", directory):
            size = NetworkSize(**values.pop("size"))
            return cls(**values, size=size)
