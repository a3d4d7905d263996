"""Loader for MLflow's `pyfunc` flavour: the model takes long windows, whose last rows are judged by the first ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.quality.model import QualityModel, load


class Windows:
    """A model over readings `[B, N, C]`, evenly spaced."""

    def __init__(self, model: QualityModel) -> None:
        self._model = model

    def predict(
        self, model_input: NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Judge the last `window` rows of each `[N, C]` by the `memory` rows before them; NaN is missing.

        Raises:
            ValueError: there are fewer than `window` rows before them.
        """
        rows = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
        config, count = self._model.config, rows.shape[1]
        past = min(count - config.window - 1, config.memory)
        if past < config.window:
            raise ValueError(f"expected at least {2 * config.window + 1} rows, got {count}")
        first = count - config.window - past
        trusted, before = rows[:, first : first + past], rows[:, first - 1 : first + past - 1]
        memory = torch.full((len(rows), config.memory, 2 * rows.shape[2] + 1), torch.nan)
        memory[:, :past] = torch.cat([trusted, before, torch.ones_like(trusted[..., :1])], -1)
        low, high = (torch.where(trusted.isnan(), end, trusted) for end in (torch.inf, -torch.inf))
        limits = torch.stack([low.amin(1), high.amax(1)], 1)
        times = torch.arange(config.window + 1.0, dtype=torch.float64).expand(len(rows), -1)
        found = self._model(
            times,
            rows[:, -config.window - 1 :],
            memory,
            torch.where(limits.isinf(), torch.nan, limits),
            torch.full((len(rows),), past),
        )
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def example(self) -> NDArray[np.float32]:
        """Two plants of three channels, the second of which is stuck at the end."""
        config = self._model.config
        at = np.arange(config.memory + config.window + 1)
        rows = np.stack([np.sin(at / 5), np.cos(at / 5), np.sin(at / 3)], -1).astype(np.float32)
        both = np.stack([rows, rows])
        both[1, -config.window :, 1] = 0.1
        return both


def _load_pyfunc(path: str) -> Windows:
    """Load the model. MLflow calls this with the folder that training wrote."""
    return Windows(load(path, "cpu"))
