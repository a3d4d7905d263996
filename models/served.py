"""The interface that MLflow's `pyfunc` flavour needs of a model: `predict`, and an example of its input.

Each domain has a module `models/<domain>/pyfunc.py`. MLflow calls its `_load_pyfunc` with the folder of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.trained import Config

if TYPE_CHECKING:
    import pandas as pd

FRAME = "frame"
"""The column that holds encoded pictures."""


class Served(Protocol):
    """A model as MLflow serves it."""

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any: ...

    def example(self) -> Any:
        """A small input that `predict` takes."""
        ...


class Windows:
    """A model over windows.

    Args:
        model: `[B, T, C] float32` -> tensors by name.
        config: of the model.
    """

    def __init__(self, model: Callable[[Tensor], dict[str, Tensor]], config: Config) -> None:
        self._model, self._config = model, config

    def predict(
        self, model_input: NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Score windows `[B, T, C]`, in the units of the sensors, with the channels of the config's `features`."""
        windows = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
        return {name: tensor.cpu().numpy() for name, tensor in self._model(windows).items()}

    def example(self) -> NDArray[np.float32]:
        """Two windows in which every reading is at its mean."""
        mean = np.asarray(self._config.mean, np.float32)
        return np.tile(mean, (2, self._config.window, 1))


def pictures(encoded: Iterable[bytes]) -> list[NDArray[np.uint8]]:
    """Decode JPEG or PNG pictures to `[H, W, 3]` RGB.

    Raises:
        ValueError: one of them is neither JPEG nor PNG.
    """
    import cv2

    decoded = []
    for row, content in enumerate(encoded):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if content else None
        if picture is None:
            raise ValueError(f"row {row}: expected a JPEG or PNG in column {FRAME}, got {len(content)} other bytes")
        decoded.append(np.asarray(picture, np.uint8))
    return decoded


def grey_frames(count: int, size: tuple[int, int]) -> pd.DataFrame:
    """`count` grey JPEGs of one size, as input for a model over frames."""
    import cv2
    import pandas as pd

    picture = np.full((*size, 3), 127, np.uint8)
    return pd.DataFrame({FRAME: [cv2.imencode(".jpg", picture)[1].tobytes()] * count})
