"""Maps of halls: a field model over the readings of a hall's sensors at one time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tocsin.models.field.hall import COLUMNS, ROWS, Hall
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import FieldModel


class Estimator:
    """Estimates the maps of halls.

    Args:
        halls: with sensors.
    """

    def __init__(self, model: FieldModel, halls: Sequence[Hall]) -> None:
        self._model = model
        self._inside = [torch.from_numpy(hall.holds(hall.cells)) for hall in halls]
        empty = torch.full((1, max((len(hall.sensors) for hall in halls), default=0)), torch.nan)
        self._plans = [
            Inputs.of(
                [hall], [hall.sensor_places], [empty[0, : len(hall.sensors)].numpy()], [hall.cells[inside.numpy()]]
            )
            for hall, inside in zip(halls, self._inside, strict=True)
        ]

    def __call__(self, hall: Tensor, readings: Tensor) -> dict[str, Tensor]:
        """The maps of halls. Each is computed by itself, so that it is the same to the last bit whatever else is in the batch.

        Args:
            hall: `[B] int64`, indices.
            readings: `[B, M] float32`, in the order of the hall's sensors; NaN where there is none.

        Returns:
            `map` and `spread`, `[B, ROWS * COLUMNS] float32`; NaN outside the hall, and where there are too few readings.
        """
        maps = torch.full((2, len(hall), ROWS * COLUMNS), torch.nan)
        for row, number in enumerate(hall.tolist()):
            plan = self._plans[number]
            given = readings[row : row + 1, : plan.sensors.shape[1]]
            for out, found in zip(maps, self._model(replace(plan, readings=given)), strict=True):
                out[row, self._inside[number]] = found[0]
        return {"map": maps[0], "spread": maps[1]}
