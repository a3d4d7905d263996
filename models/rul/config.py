"""Settings of a RUL model: table columns, regimes, memory, alert levels and network sizes."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.trained import CONFIG_FILE

MODELS = ("fading", "recurrent", "fusion")
TRAINING = "training"
"""Name of the table of a TOML file that changes how a model is trained."""
SPANS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Widths of a network.

    Args:
        hidden: of the dense layers of a `fading` model.
        conv: of the convolutions, `lstm` per direction, `attention` of its scores, `head` of the dense layers: of the other models.
        dropout: share of the activations that training drops.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    conv: tuple[int, int] = (16, 32)
    lstm: int = 32
    attention: int = 16
    head: tuple[int, int] = (32, 16)
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class RulConfig:
    """A RUL model's settings, stored as `config.json` beside its weights.

    Args:
        key: column that names the asset; a life is the rows of one key.
        key_type: `int64` or `string`.
        order: column that orders the rows of a key and counts its life (cycles, hours, ...).
        order_type: `int64`, or `float64` if it has fractions; the resolution is a millionth.
        features: sensor columns, in the order of the network's input.
        settings: columns of the operating settings, which tell the regimes apart and what was never seen in training; may be empty.
        regimes: number of operating regimes among the settings. Sensors are standardised by regime.
        model: `fading`, which sees the whole life in bands of age; or one of the last rows: `recurrent`, `fusion`.
        spans: of the bands of age of a `fading` model, in rows; one more band holds all older rows.
        window: rows that the other models see; of a shorter life they see all rows.
        cap: labels are clipped to it in training; predictions stay in `[0, cap]`. Unit of `order`.
        warning, critical: RUL below which each alert is raised; unit of `order`.
        coverage: share of the true values that the interval is to hold.
        label: column with the true RUL, or with any other margin that is left; None if each key ends at its last row.
        failed: column that tells which keys failed at their last row: true or 1 in one of a key's rows at least. The others were
            still running then, so that more was left at each row than the recording shows. None: each key failed.
        age: whether the network sees the age and the number of known rows. False where the counters of assets do not compare, or
            so few lives are known that they would be learned by heart.
        context: kinds of intervals of an asset's time that the network reads, such as maintenance or loads; empty: none. Without
            any interval it is the network without context.
        context_numbers: numbers of these intervals, such as a load.
        time: column with the event time of a training row, if there is context. A stream has its own.
        period: event time in one unit of `order`, s; None: measured in training.
        network: widths.

    Raises:
        ValueError: if the values contradict each other.
    """

    key: str
    order: str
    features: tuple[str, ...]
    key_type: str = "int64"
    order_type: str = "int64"
    settings: tuple[str, ...] = ()
    regimes: int = 1
    model: str = "fading"
    spans: tuple[float, ...] = SPANS
    window: int = 30
    cap: float = 125.0
    warning: float = 50.0
    critical: float = 20.0
    coverage: float = 0.9
    label: str | None = None
    failed: str | None = None
    age: bool = True
    context: tuple[str, ...] = ()
    context_numbers: tuple[str, ...] = ()
    time: str = "time"
    period: float | None = None
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
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; expected one of {', '.join(MODELS)}")
        if any(a >= b for a, b in pairwise((0.0, *self.spans, math.inf))):
            raise ValueError(f"spans are {list(self.spans)}; expected finite positive numbers that increase")
        if self.regimes < 1 or (self.regimes > 1 and not self.settings):
            raise ValueError(f"{self.regimes} regimes of {len(self.settings)} settings; regimes need a setting")
        if not 0.5 <= self.coverage < 1:
            raise ValueError(f"coverage is {self.coverage:g}; expected at least 0.5 and less than 1")
        if self.context_numbers and not self.context:
            raise ValueError(f"context_numbers are {list(self.context_numbers)} of no kind; name the kinds in context")
        if self.period is not None and not 0 < self.period < math.inf:
            raise ValueError(f"period is {self.period:g}; expected the seconds of one {self.order}")

    @property
    def types(self) -> dict[str, str]:
        """Columns of a reading and their Arrow type names, the same for training, feeding and prediction."""
        numbers = dict.fromkeys(self.columns, "float64")
        return {self.key: self.key_type, self.order: self.order_type} | {
            name: kind for name, kind in numbers.items() if name not in (self.key, self.order)
        }

    @property
    def horizon(self) -> float:
        """How far intervals are read, before and ahead, in the unit of `order`; what begins beyond the cap cannot matter to it."""
        return 1.2 * self.cap

    @property
    def unlabelled(self) -> RulConfig:
        """The same config for tables without the truth."""
        return replace(self, label=None, failed=None)

    @property
    def without_context(self) -> RulConfig:
        """The same config for a network that reads no intervals."""
        return replace(self, context=(), context_numbers=(), period=None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a model reads: the settings, then the features."""
        return (*self.settings, *self.features)

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that the network sees: bands of age, youngest first, or the rows before the last one, oldest first."""
        if self.model != "fading":
            return tuple(f"-{back}" if back else "0" for back in range(self.window - 1, -1, -1))
        return (*(f"{span:g}" for span in self.spans), "older")

    def save(self, directory: Path) -> None:
        """Write `config.json` into `directory`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> RulConfig:
        """Read `config.json` from `directory`.

        Raises:
            ValueError: it is damaged, or an older version wrote it.
        """
        file = directory / CONFIG_FILE
        values = files.read_json(file)
        if "mean" in values:
            raise ValueError(f"{file}: expected a RUL model of this version, got an older one; train it again")
        return cls.from_dict(values, where=str(file))

    @classmethod
    def from_toml(cls, path: Path) -> RulConfig:
        """Read a new model's hand-written settings: network sizes in a `[network]` table, other fields at the top level.

        The table `[training]` changes the recipe, see `train.read_recipe`.
        """
        values = tomllib.loads(path.read_text())
        return cls.from_dict({name: value for name, value in values.items() if name != TRAINING}, where=str(path))

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
        for name in ("features", "settings", "spans", "context", "context_numbers"):
            if name in values and not isinstance(values[name], list):
                raise ValueError(
                    f"{where}: expected a list of {name}, got {values[name]!r}; write {name} = [{values[name]!r}]"
                )
        top = {name: value for name, value in values.items() if name != "network"}
        return cls(**_tuples(top), network=NetworkSize(**_tuples(sizes)))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples; JSON and TOML have only lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
