"""A trained occupancy model, ready to judge windows."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.occupancy.config import WEIGHTS_FILE, OccupancyConfig
from models.occupancy.network import OccupancyNetwork

OFFICES = Path(__file__).parent / "weights" / "offices"


class OccupancyModel:
    """Network, scaling and settings in one: windows of features in, probability and attention out.

    Args:
        config: with `mean` and `scale` set.
        network: its weights; moved to `device` and set to evaluation.
        device: on `cuda` the network runs under bfloat16 autocast, elsewhere in float32.

    Raises:
        ValueError: if the config was never fitted.
    """

    def __init__(self, config: OccupancyConfig, network: OccupancyNetwork, device: torch.device) -> None:
        if not config.mean or not config.scale:
            raise ValueError("config has no mean and scale; train the model, or load a trained one")
        self.config = config
        self.device = device
        self._network = network.to(device).eval()
        self._mean = torch.tensor(config.mean, device=device)
        self._factor = 1 / torch.tensor(config.scale, device=device)

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """Judge a batch.

        Args:
            windows: `[B, T, F] float32`, features as in `config.features`, NaN where nothing is known; B may be 0.

        Returns:
            `probability` `[B] float32` that the room is occupied at the window's end, and `attention` `[B, T / patch] float32`;
            on the windows' device.

        Raises:
            ValueError: if T or F is not the config's.
        """
        home, expected = windows.device, (self.config.window, len(self.config.features))
        if windows.dim() != 3 or windows.shape[1:] != expected:
            raise ValueError(f"windows are {list(windows.shape)}, expected [B, {expected[0]}, {expected[1]}]")
        if not len(windows):  # LSTM kernels refuse an empty batch
            patches = self.config.window // self.config.network.patch
            return {"probability": windows.new_zeros(0), "attention": windows.new_zeros(0, patches)}
        cuda = self.device.type == "cuda"
        if cuda and not windows.is_cuda:
            windows = windows.pin_memory()  # from pageable memory the copy below would wait
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda):
            # What is not known counts as the mean: training leaves features out in the same way.
            scaled = ((windows.to(self.device, non_blocking=True) - self._mean) * self._factor).nan_to_num(0.0)
            logit, attention = self._network(scaled)
            return {"probability": logit.float().sigmoid().to(home), "attention": attention.float().to(home)}

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is made if missing."""
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save(directory)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self._network.state_dict().items()}
        save_file(weights, directory / WEIGHTS_FILE)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self._network.parameters())


def build(config: OccupancyConfig) -> OccupancyNetwork:
    """A network of the config's sizes, with fresh weights."""
    return OccupancyNetwork(channels=len(config.features), size=config.network)


def load(directory: Path | str = OFFICES, device: str = "auto") -> OccupancyModel:
    """Load a model that `OccupancyModel.save` or training has written.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = OccupancyConfig.load(Path(directory))
    network = build(config)
    network.load_state_dict(load_file(Path(directory) / WEIGHTS_FILE))
    return OccupancyModel(config, network, torch.device(device))
