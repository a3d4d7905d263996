"""Loader for MLflow's `pyfunc` flavour: the model takes halls with their sensors and returns estimates at places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.field.hall import Hall
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import FieldModel, load


class Fields:
    """A model over halls, see `tocsin.models.field.inputs.Inputs`."""

    def __init__(self, model: FieldModel) -> None:
        self._model = model

    def predict(
        self, model_input: Mapping[str, NDArray[Any]], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Estimate from the arrays of `Inputs` by name; NaN stands for a sensor without a reading."""
        given = Inputs(**{each.name: torch.from_numpy(np.array(model_input[each.name])) for each in fields(Inputs)})
        estimate, spread = self._model(given)
        return {"estimate": estimate.numpy(), "spread": spread.numpy()}

    def example(self) -> dict[str, NDArray[Any]]:
        """Two halls with three sensors, and the place between them."""
        plan = {"kind": "temperature", "outline": [[0, 0], [20, 0], [20, 10], [0, 10]]}
        hall, at = Hall.of("example", plan), np.array([[2.0, 2], [18, 2], [10, 9]])
        readings, middle = np.array([20.0, 24, 22]), np.array([[10.0, 5]])
        inputs = Inputs.of([hall] * 2, [at] * 2, [readings] * 2, [middle] * 2)
        return {each.name: getattr(inputs, each.name).numpy() for each in fields(Inputs)}


def _load_pyfunc(path: str) -> Fields:
    """Load the model. MLflow calls this with the folder that training wrote."""
    return Fields(load(path, "cpu"))
