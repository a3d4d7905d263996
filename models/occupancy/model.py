"""A trained occupancy model that predicts from windows of features."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.network import OccupancyNetwork
from tocsin.models.trained import Trained, placed, restore

OFFICES = Path(__file__).parent / "weights" / "offices"


class OccupancyModel(Trained[OccupancyConfig]):
    """Predicts probability and attention from windows of features; holds network, scaling and settings. See `Trained`."""

    def __init__(self, config: OccupancyConfig, network: OccupancyNetwork, device: torch.device) -> None:
        super().__init__(config, network, device, attention_width=config.window // config.network.patch)

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            windows: `[B, T, F] float32`, features as in `config.features`, NaN for unknown values; B may be 0.

        Returns:
            `probability` `[B] float32` that the room is occupied at the window's end, and `attention` `[B, T / patch] float32`;
            on the windows' device.

        Raises:
            ValueError: if T or F is not the config's.
        """
        logit, attention = self.run(windows)
        return {"probability": logit.sigmoid(), "attention": attention}


def build(config: OccupancyConfig) -> OccupancyNetwork:
    """A network of the config's sizes, with fresh weights."""
    return OccupancyNetwork(channels=len(config.features), size=config.network)


def load(directory: Path | str = OFFICES, device: str = "auto") -> OccupancyModel:
    """Load a model that `OccupancyModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = OccupancyConfig.load(Path(directory))
    network = build(config)
    restore(network, Path(directory))
    return OccupancyModel(config, network, placed(device))
