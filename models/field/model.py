"""A trained field model that estimates the reading at places without a sensor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.field.config import FieldConfig
from tocsin.models.field.hall import FEWEST
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.network import FieldNetwork
from tocsin.models.trained import Stored, placed, restore

HALLS = Path(__file__).parent / "weights" / "halls"


class FieldModel(Stored[FieldConfig]):
    """Estimates fields of halls that it need not have seen; holds network and settings.

    Args:
        device: the network runs there, in float32.
    """

    def __init__(self, config: FieldConfig, network: FieldNetwork, device: torch.device) -> None:
        super().__init__(config, network, device)
        self.network = network

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The estimate and its standard deviation, `[B, N] float32` each; NaN for a hall with less than `FEWEST` readings."""
        if not len(inputs):
            empty = torch.zeros(inputs.places.shape[:2])
            return empty, empty
        with torch.inference_mode():
            estimate, spread = self.network(inputs.to(self.device))
            widen = torch.tensor(self.config.widen, device=self.device)[inputs.kind.to(self.device)]
            known = ((~inputs.readings.isnan()).sum(1) >= FEWEST).to(self.device).unsqueeze(1)
            found = (torch.where(known, each, torch.nan) for each in (estimate, spread * widen.unsqueeze(1)))
            estimate, spread = (each.float().to(inputs.readings.device) for each in found)
        return estimate, spread


def load(directory: Path | str = HALLS, device: str = "auto") -> FieldModel:
    """Load a model that `FieldModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = FieldConfig.load(Path(directory))
    network = FieldNetwork(kind=config.network, size=config.size)
    restore(network, Path(directory))
    return FieldModel(config, network, placed(device))
