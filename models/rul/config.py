"""Settings of a RUL model: table columns, window, scaling, alert levels and network sizes."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.trained import CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Widths of the network; `lstm` is the width per direction."""

    conv: tuple[int, int] = (16, 32)
    lstm: int = 32
    attention: int = 16
    head: tuple[int, int] = (32, 16)
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RulConfig:
    """A RUL model's settings, stored as `config.json` beside its weights.

    Args:
        key: column that names the asset; a window holds rows of one key.
        key_type: `int64` or `string`.
        order: column that orders the rows of a key and counts its life (cycles, hours, ...).
        order_type: `int64`, or `float64` if it has fractions; the resolution is a millionth.
        features: sensor columns, in the order of the network's input.
        window: rows per window.
        cap: labels are clipped to it in training; predictions stay in `[0, cap]`. Unit of `order`.
        warning, critical: RUL below which each alert is raised; unit of `order`.
        label: column with the true RUL; None if each key fails at its last row.
        mean, scale: of each feature over the training rows; empty before training.
        network: widths.

    Raises:
        ValueError: if the values contradict each other.
    """

    key: str
    order: str
    features: tuple[str, ...]
    key_type: str = "int64"
    order_type: str = "int64"
    window: int = 30
    cap: float = 125.0
    warning: float = 50.0
    critical: float = 20.0
    label: str | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    network: NetworkSize = field(default_factory=NetworkSize)

    def __post_init__(self) -> None:
        if self.key_type not in ("int64", "string"):
            raise ValueError(f"key_type is {self.key_type!r}; expected 'int64' or 'string'")
        if self.order_type not in ("int64", "float64"):
            raise ValueError(f"order_type is {self.order_type!r}; expected 'int64' or 'float64'")
        if not self.features or self.window < 1:
            raise ValueError(f"{len(self.features)} features and a window of {self.window}; both must be at least 1")
        if not 0 <= self.critical <= self.warning <= self.cap < math.inf:
            raise ValueError(
                f"expected 0 <= critical <= warning <= cap, all finite; got {self.critical:g}, {self.warning:g}, {self.cap:g}"
            )
        for name in ("mean", "scale"):
            if len(getattr(self, name)) not in (0, len(self.features)):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.features)} features")

    @property
    def types(self) -> dict[str, str]:
        """Columns of a reading and their Arrow type names, the same for training, feeding and prediction."""
        features = dict.fromkeys(self.features, "float64")
        return {self.key: self.key_type, self.order: self.order_type} | {
            name: kind for name, kind in features.items() if name not in (self.key, self.order)
        }

    def save(self, directory: Path) -> None:
        """Write `config.json` into `directory`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> RulConfig:
        """Read `config.json` from `directory`."""
        return cls.from_dict(files.read_json(directory / CONFIG_FILE), where=str(directory / CONFIG_FILE))

    @classmethod
    def from_toml(cls, path: Path) -> RulConfig:
        """Read a new model's hand-written settings: network sizes in a `[network]` table, other fields at the top level."""
        return cls.from_dict(tomllib.loads(path.read_text()), where=str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: str) -> RulConfig:
        """Build from plain JSON or TOML values.

        Raises:
            ValueError: for an unknown or a missing field; the message names `where`.
        """
        sizes = values.get("network", {})
        for section, allowed in ((values, fields(cls)), (sizes, fields(NetworkSize))):
            if unknown := sorted(set(section) - {f.name for f in allowed}):
                raise ValueError(f"{where}: unknown {unknown}; expected any of {[f.name for f in allowed]}")
        if missing := sorted({"key", "order", "features"} - set(values)):
            raise ValueError(f"{where}: {missing} missing; name the columns of the table there")
        top = {name: value for name, value in values.items() if name != "network"}
        return cls(**_tuples(top), network=NetworkSize(**_tuples(sizes)))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples; JSON and TOML have only lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
