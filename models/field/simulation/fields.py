"""Fields of simulated halls: usual sources, and a spot that grows where there is no sensor."""

from __future__ import annotations

import numpy as np

from tocsin.models.field.hall import Array, Hall
from tocsin.models.field.simulation import signal, temperature


class Simulation:
    """A hall with its usual sources, and one that is not usual.

    Args:
        spot: x, y of the unusual source; None: anywhere.
    """

    def __init__(self, hall: Hall, draw: np.random.Generator, *, spot: Array | None = None) -> None:
        self.hall = hall
        self.inside = np.flatnonzero(hall.holds(hall.cells))
        self.spot = hall.cells[draw.choice(self.inside)] if spot is None else spot
        if hall.kind == "signal":
            self._radio = signal.Radio.drawn(hall, draw)
            within = hall.cells[self.inside]
            places = [self._anywhere(draw) for _ in range(int(draw.integers(1, 3)))]
            milliwatts = 10 ** (draw.uniform(-45, -30, len(places)) / 10)
            each = [signal.power(hall, self._radio, place, within) for place in [*places, self.spot]]
            self._usual = np.sum([power * mw for power, mw in zip(each, milliwatts, strict=False)], axis=0)
            self._more = each[-1] * 10 ** (-30 / 10)
        else:
            climate = temperature.Climate.drawn(draw)
            heat = sum(
                temperature.source(
                    hall,
                    self._anywhere(draw),
                    draw.uniform(0.5, 2),
                    hall.area * draw.choice([1, 1, -0.5]) * draw.uniform(2, 10),
                )
                for _ in range(int(draw.integers(1, 5)))
            )
            more = temperature.source(hall, self.spot, 1.0, 10 * hall.area)
            self._usual, both = temperature.steady(hall, climate, np.stack([heat, heat + more]))[:, self.inside]
            self._more = both - self._usual

    def _anywhere(self, draw: np.random.Generator) -> Array:
        cell = self.hall.cells[draw.choice(self.inside)]
        return np.asarray(cell + draw.uniform(-0.3, 0.3, 2) * self.hall.size / 32)

    def field(self, spot: float = 0.0) -> Array:
        """The field at `hall.cells`, NaN outside; `spot` is the share of the unusual source, 0 to 1."""
        out = np.full(len(self.hall.cells), np.nan)
        total = self._usual + spot * self._more
        out[self.inside] = (
            signal.level(self.hall, self._radio, total, self.hall.cells[self.inside])
            if self.hall.kind == "signal"
            else total
        )
        return out
