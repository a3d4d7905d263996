"""Loader for MLflow's `pyfunc` flavour: the model takes windows of hours and returns the forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.irradiance.features import RAW
from tocsin.models.irradiance.model import IrradianceModel, load


class Hours:
    """A model over windows of hours, see `tocsin.models.irradiance.features`."""

    def __init__(self, model: IrradianceModel) -> None:
        self._model = model

    def predict(
        self, model_input: NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Forecast from windows `[B, T, len(RAW)]`; NaN stands for what is not known."""
        windows = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
        return {name: tensor.cpu().numpy() for name, tensor in self._model(windows).items()}

    def example(self) -> NDArray[np.float32]:
        """Two windows of a clear noon that does not end."""
        usual = {"ghi": 700.0, "clear": 800.0, "ahead": 800.0, "clearness": 0.875, "height": 0.8, "hour": 12.0}
        row = np.array([usual.get(name, 0.0) for name in RAW], np.float32)
        return np.tile(row, (2, self._model.config.window, 1))


def _load_pyfunc(path: str) -> Hours:
    """Load the model. MLflow calls this with the folder that training wrote."""
    return Hours(load(path, "cpu"))
