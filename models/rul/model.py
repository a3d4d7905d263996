"""A trained RUL model that predicts from raw sensor windows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.network import RulNetwork
from tocsin.models.trained import Trained, placed, restore

FD001 = Path(__file__).parent / "weights" / "fd001"


class RulModel(Trained[RulConfig]):
    """Predicts RUL and attention from raw sensor windows; holds network, scaling and settings. See `Trained`."""

    def __init__(self, config: RulConfig, network: RulNetwork, device: torch.device) -> None:
        super().__init__(config, network, device, attention_width=config.window)

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            windows: `[B, T, C] float32`, raw sensor units, channels as in `config.features`; B may be 0.

        Returns:
            `rul` `[B] float32` in `[0, cap]`, and `attention` `[B, T] float32`; on the windows' device.

        Raises:
            ValueError: if T or C is not the config's.
        """
        rul, attention = self.run(windows)
        return {"rul": rul.clamp(0, self.config.cap), "attention": attention}


def build(config: RulConfig) -> RulNetwork:
    """A network of the config's sizes, with fresh weights."""
    return RulNetwork(channels=len(config.features), cap=config.cap, size=config.network)


def load(directory: Path | str = FD001, device: str = "auto") -> RulModel:
    """Load a model that `RulModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped FD001 model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = RulConfig.load(Path(directory))
    network = build(config)
    restore(network, Path(directory))
    return RulModel(config, network, placed(device))
