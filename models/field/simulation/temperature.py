"""The steady temperature of a hall's air by finite differences: sources, walls that insulate, ceiling and outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tocsin.models.field.hall import COLUMNS, ROWS, Array, Hall
from tocsin.models.field.rays import crossed

HEIGHT = 5.0
"""Of a hall, m."""
HEAT = 1200.0
"""Of a cubic metre of air, J/K."""
INDOORS = 20.0
"""Temperature to which floor, roof and ventilation draw the air, °C."""


@dataclass(frozen=True)
class Climate:
    """What holds for all sources of a hall.

    Args:
        mixing: eddy diffusivity of the air, m2/s.
        drain: heat that floor, roof and ventilation take, W/m2 K.
        outside: °C.
    """

    mixing: float
    drain: float
    outside: float

    @classmethod
    def drawn(cls, draw: np.random.Generator) -> Climate:
        return cls(
            mixing=float(0.01 * 10 ** draw.uniform(0, 1)),
            drain=float(draw.uniform(1.5, 5)),
            outside=float(draw.uniform(-10, 30)),
        )


def steady(hall: Hall, climate: Climate, heat: Array) -> Array:
    """The temperature at the hall's cells, °C.

    Args:
        heat: given off in each of `hall.cells`, W, `[..., ROWS * COLUMNS]`; several are solved at once, each with the outside.

    Returns:
        `[..., ROWS * COLUMNS]`; NaN outside the hall.
    """
    cells, inside = hall.cells, hall.holds(hall.cells)
    wide, high = hall.size / (COLUMNS, ROWS)
    number = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    matrix, given = np.zeros((len(cells), len(cells))), np.zeros(len(cells))
    outer, conducts = climate.outside, HEAT * climate.mixing * HEIGHT  # W/K
    for one, other, length, apart in (
        (number[:, :-1].ravel(), number[:, 1:].ravel(), high, wide),
        (number[:-1].ravel(), number[1:].ravel(), wide, high),
    ):
        walls = (crossed(cells[one], cells[other], hall.segments) * hall.blocking).sum(-1)
        flow = length / (apart / conducts + walls / HEIGHT)
        both = inside[one] & inside[other]
        a, b, through = one[both], other[both], flow[both]
        for cell, neighbour in ((a, b), (b, a)):
            np.add.at(matrix, (cell, cell), through)
            np.add.at(matrix, (cell, neighbour), -through)
        for cell, neighbour in ((one, other), (other, one)):
            last = inside[cell] & ~inside[neighbour]
            np.add.at(matrix, (cell[last], cell[last]), flow[last])
            np.add.at(given, cell[last], flow[last] * outer)
    for edge, length, apart in (
        (number[:, 0], high, wide),
        (number[:, -1], high, wide),
        (number[0], wide, high),
        (number[-1], wide, high),
    ):
        cell = edge[inside[edge]]
        flow = length / (apart / 2 / conducts + hall.blocks / HEIGHT)
        np.add.at(matrix, (cell, cell), flow)
        np.add.at(given, cell, flow * outer)
    lost = wide * high * climate.drain
    matrix[np.diag_indices(len(cells))] += lost
    given += lost * INDOORS
    within = np.flatnonzero(inside)
    right = torch.from_numpy((given + heat)[..., within].reshape(-1, len(within)).T)
    found = torch.linalg.solve(torch.from_numpy(matrix[np.ix_(within, within)]), right).T.numpy()
    out = np.full((*heat.shape[:-1], len(cells)), np.nan)
    out[..., within] = found.reshape(*heat.shape[:-1], len(within))
    return out


def source(hall: Hall, place: Array, radius: float, strength: float) -> Array:
    """Heat around a place, `[ROWS * COLUMNS]`: a bell of a radius in m, `strength` in all, W."""
    bell = np.exp(-((hall.cells - place) ** 2).sum(-1) / (2 * radius**2)) * hall.holds(hall.cells)
    return np.asarray(bell * strength / max(bell.sum(), 1e-9))
