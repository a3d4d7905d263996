"""Halls: the plan of their walls, and where their sensors are."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ROWS, COLUMNS = 24, 32
"""Places of a map: rows from the lowest y up, columns from the lowest x on."""
MOST_WALLS, MOST_SENSORS = 64, 64
"""Walls with those of the outline, and sensors, of a hall."""
FEWEST = 3
"""Sensors that an estimate needs."""


@dataclass(frozen=True)
class Kind:
    """A kind of field.

    Args:
        unit: of a reading.
        noise: standard deviation of a sensor's error, in `unit`.
        scale: a typical deviation of the field from its mean, in `unit`.
        blocks: what a wall of the outline blocks where nobody says it: dB, or m2 K/W.
    """

    unit: str
    noise: float
    scale: float
    blocks: float

    def strength(self, blocks: Array) -> Array:
        """What walls block as a number of about 0 to 1.5."""
        return blocks / 10 if self.unit == "dBm" else np.log1p(blocks / 0.1) / 2


KINDS = {
    "signal": Kind(unit="dBm", noise=1.0, scale=8.0, blocks=15.0),
    "temperature": Kind(unit="°C", noise=0.3, scale=4.0, blocks=1.5),
}
"""`signal`: received power of transmitters; a wall blocks dB. `temperature`: of the air; a wall blocks m2 K/W."""


@dataclass(frozen=True)
class Hall:
    """A hall. Lengths are in m, and the axes are its own.

    Args:
        kind: of `KINDS`.
        outline: corners of the outer walls in order, `[V, 2]`.
        blocks: what the outer walls block.
        walls: inner walls, `[W, 5]`: from x, y to x, y, and what each blocks.
        sensors: name -> x, y.
        above, below: levels that the field must not pass; None: none.
    """

    name: str
    kind: str
    outline: Array
    blocks: float
    walls: Array
    sensors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    above: float | None = None
    below: float | None = None

    @classmethod
    def of(cls, name: str, plan: Mapping[str, Any]) -> Hall:
        """A hall from its plan: the arguments of `Hall` by name; all but `kind` and `outline` may be absent.

        Raises:
            ValueError: an argument is not possible.
        """
        where = f"hall {name}"
        if not isinstance(plan, Mapping):
            raise ValueError(f"{where}: expected a table, got {plan!r}")
        known = ("kind", "outline", "blocks", "walls", "sensors", "above", "below")
        if unknown := [key for key in plan if key not in known]:
            raise ValueError(f"{where}: expected some of {', '.join(known)}, got {unknown[0]}")
        kind, sensors = plan.get("kind"), plan.get("sensors", {})
        if kind not in KINDS:
            raise ValueError(f"{where}, kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not isinstance(sensors, Mapping):
            raise ValueError(f"{where}, sensors: expected a name and x, y for each, got {sensors!r}")
        places = {str(sensor): _numbers(f"{where}, sensor {sensor}", [at], 2)[0] for sensor, at in sensors.items()}
        given = {
            key: float(_numbers(f"{where}, {key}", [[plan[key]]], 1)[0, 0])
            for key in ("blocks", "above", "below")
            if plan.get(key) is not None
        }
        return cls(
            name,
            kind,
            _numbers(f"{where}, outline", plan.get("outline", ()), 2),
            given.get("blocks", KINDS[kind].blocks),
            _numbers(f"{where}, walls", plan.get("walls", ()), 5),
            {sensor: (float(x), float(y)) for sensor, (x, y) in places.items()},
            given.get("above"),
            given.get("below"),
        )

    def __post_init__(self) -> None:
        where = f"hall {self.name}"
        if len(self.outline) < 3 or self.size.min() <= 0:
            raise ValueError(
                f"{where}, outline: expected the x, y of three corners at least, got {self.outline.tolist()}"
            )
        if len(self.segments) > MOST_WALLS:
            raise ValueError(
                f"{where}: expected at most {MOST_WALLS} walls with the outline's, got {len(self.segments)}"
            )
        if len(self.sensors) > MOST_SENSORS:
            raise ValueError(f"{where}: expected at most {MOST_SENSORS} sensors, got {len(self.sensors)}")
        if not (math.isfinite(self.blocks) and (np.append(self.walls[:, 4], self.blocks) >= 0).all()):
            raise ValueError(f"{where}: expected walls that block 0 or more, got {min(self.blocks, *self.walls[:, 4])}")
        if len(outside := np.flatnonzero(~self.holds(self.sensor_places))):
            name = [*self.sensors][outside[0]]
            raise ValueError(
                f"{where}, sensor {name}: expected a place within the outline, got {[*self.sensors[name]]}"
            )

    @property
    def segments(self) -> Array:
        """All walls, the outline's first, `[W, 4]`."""
        outline = np.concatenate([self.outline, np.roll(self.outline, -1, 0)], axis=1)
        return np.concatenate([outline, self.walls[:, :4]])

    @property
    def outer(self) -> NDArray[np.bool_]:
        """Which of `segments` are the outline's, `[W]`."""
        return np.arange(len(self.outline) + len(self.walls)) < len(self.outline)

    @property
    def blocking(self) -> Array:
        """What each of `segments` blocks, `[W]`."""
        return np.concatenate([np.full(len(self.outline), self.blocks), self.walls[:, 4]])

    @property
    def sensor_places(self) -> Array:
        """The sensors' places in their order, `[M, 2]`."""
        return np.array([*self.sensors.values()], np.float64).reshape(-1, 2)

    @property
    def corner(self) -> Array:
        """The least x and y of the outline."""
        return np.asarray(self.outline.min(0))

    @property
    def size(self) -> Array:
        """Width and height of the rectangle around the outline."""
        return np.asarray(np.ptp(self.outline, axis=0))

    @property
    def cells(self) -> Array:
        """The places of a map, `[ROWS * COLUMNS, 2]`; some may be outside."""
        (x, y), (width, height) = self.corner, self.size
        columns = x + (np.arange(COLUMNS) + 0.5) * width / COLUMNS
        rows = y + (np.arange(ROWS) + 0.5) * height / ROWS
        return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)

    @property
    def area(self) -> float:
        """Of the floor, m2."""
        x, y = self.outline.T
        return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2

    def holds(self, places: Array) -> NDArray[np.bool_]:
        """Whether places `[N, 2]` are within the outline or on it, `[N]`."""
        a, b = self.outline, np.roll(self.outline, -1, 0)
        x, y = places[:, None, 0], places[:, None, 1]
        between = (a[:, 1] > y) != (b[:, 1] > y)
        rise = np.where(b[:, 1] == a[:, 1], 1, b[:, 1] - a[:, 1])
        crossed = between & (x < a[:, 0] + (y - a[:, 1]) / rise * (b[:, 0] - a[:, 0]))
        along = ((places[:, None] - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1e-12)
        nearest = a + np.clip(along, 0, 1)[..., None] * (b - a)
        on = (np.linalg.norm(places[:, None] - nearest, axis=-1) < 1e-6).any(1)
        return np.asarray(crossed.sum(1) % 2 == 1) | on

    def plan(self) -> dict[str, Any]:
        """The plan that `Hall.of` reads."""
        plan: dict[str, Any] = {"kind": self.kind, "outline": self.outline.tolist(), "blocks": self.blocks}
        plan |= {"walls": self.walls.tolist(), "sensors": {name: [*at] for name, at in self.sensors.items()}}
        return plan | {side: level for side in ("above", "below") if (level := getattr(self, side)) is not None}


def read(file: Path) -> dict[str, Hall]:
    """The halls of a TOML file: a table for each, see `Hall.of`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or a hall is not possible.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the halls' plans, got no such file; see docs/field.md")
    try:
        plans = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise ValueError(f"{file}: expected TOML, got {reason}") from None
    try:
        return {name: Hall.of(name, plan) for name, plan in plans.items()}
    except ValueError as reason:
        raise ValueError(f"{file}: {reason}") from None


def _numbers(where: str, rows: Any, width: int) -> Array:
    """Rows of so many finite numbers."""
    try:
        numbers = np.array([[float(value) for value in row] for row in rows], np.float64).reshape(-1, width)
        if len(numbers) == len(rows) and np.isfinite(numbers).all():
            return numbers
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{where}: expected rows of {width} finite numbers, got {rows}")
