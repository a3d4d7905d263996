"""A trained pose model: pairs of frames in, the camera's step out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.pose.config import PoseConfig
from tocsin.models.pose.motion import Pairs
from tocsin.models.pose.network import PoseNetwork, PoseState, Steps
from tocsin.models.trained import Stored, placed, restore
from tocsin.models.vision import flow

SHIPPED = Path(__file__).parent / "weights" / "worlds"


class PoseModel(Stored[PoseConfig]):
    """The network and its settings. It is small and recurrent, so it runs on the CPU.

    Args:
        config: its settings.
        network: is set to evaluation mode.
    """

    def __init__(self, config: PoseConfig, network: PoseNetwork) -> None:
        super().__init__(config, network, placed("cpu"))
        self.network = network.requires_grad_(False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.config.height, self.config.width

    def lens(self, focal: float | None = None, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """The matrix of a lens whose focal length is `focal` frame widths; None: the config's.

        Args:
            shape: rows and columns of the frames before they were scaled to `size`, which stretches those of another aspect ratio.
        """
        height, width = self.size
        rows, columns = shape or self.size
        pixels = width * (focal or self.config.focal)
        tall = pixels * ((height * columns) / (width * rows))
        return np.array([[pixels, 0, (width - 1) / 2], [0, tall, (height - 1) / 2], [0, 0, 1]])

    def grey(self, pixels: Tensor) -> Tensor:
        """`[B, 3, H, W] uint8` -> `[B, *size] uint8`."""
        return flow.grey(pixels, self.size)

    def blank(self, count: int) -> PoseState:
        """The state of `count` cameras before their first pair of frames."""
        return self.network.blank(count)

    def __call__(self, state: PoseState, pairs: Pairs) -> tuple[Steps, PoseState]:
        """The step of each camera from its last frame, and the new state."""
        with torch.inference_mode():
            return self.network.step(state, pairs)


def load(directory: Path | str = SHIPPED, device: str = "auto") -> PoseModel:
    """Read a model that `PoseModel.save` or training wrote; it runs on the CPU, whatever the device."""
    config = PoseConfig.load(Path(directory))
    network = PoseNetwork(config.network)
    restore(network, Path(directory))
    return PoseModel(config, network)
