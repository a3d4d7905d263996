"""A trained occupancy model that predicts from windows of features."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.adapters import Sites, number_of
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.network import OccupancyNetwork
from tocsin.models.trained import Trained, placed, restore

OFFICES = Path(__file__).parent / "weights" / "offices"


class OccupancyModel(Trained[OccupancyConfig]):
    """Predicts probability and attention from windows of features; holds network, scaling and settings. See `Trained`.

    Args:
        sites: the adapters of sites; None: there are none.
    """

    def __init__(
        self, config: OccupancyConfig, network: OccupancyNetwork, device: torch.device, sites: Sites | None = None
    ) -> None:
        super().__init__(config, network, device, attention_width=config.window // config.network.patch)
        self.network, self.sites = network, sites
        if sites:
            sites.adapters.to(device).eval()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the arguments of a call, for the pipeline."""
        return ("window", "site") if self.sites else ("window",)

    def __call__(self, windows: Tensor, site: Tensor | None = None) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            windows: `[B, T, F] float32`, features as in `config.features`, NaN for unknown values; B may be 0.
            site: `[B] int64`, the number of the row's site, -1 for none; None: the shared network judges all rows.

        Returns:
            `probability` `[B] float32` that the room is occupied at the window's end, and `attention` `[B, T / patch] float32`;
            on the windows' device.

        Raises:
            ValueError: if T or F is not the config's.
        """
        own = None if site is None or not self.sites else partial(self.sites.adapters, site.to(self.device))
        logit, attention = self.run(windows, own)
        return {"probability": logit.sigmoid(), "attention": attention}

    def at(self, site: str) -> OccupancyModel:
        """The model of one site: its adapter is merged into the weights.

        Raises:
            ValueError: the model has no such site.
        """
        sites, number = number_of(self.sites, site)
        network = copy.deepcopy(self.network)
        network.load_state_dict(sites.adapters.merged(number), strict=False)
        return OccupancyModel(self.config, network, self.device)

    @property
    def shared(self) -> OccupancyModel:
        """The model without adapters."""
        return OccupancyModel(self.config, self.network, self.device)

    def save(self, directory: Path) -> None:
        """Write the model's files into `directory`, which is created if missing."""
        super().save(directory)
        Sites.store(self.sites, directory)


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
    return OccupancyModel(config, network, placed(device), Sites.load(Path(directory), network))
