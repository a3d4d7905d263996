"""A trained imputer."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tocsin.models import files
from tocsin.models.imputer.config import CONFIG_FILE, WEIGHTS_FILE, ImputerConfig
from tocsin.models.imputer.levels import Levels
from tocsin.models.imputer.network import FAR, ImputerNetwork, start
from tocsin.models.trained import moved, placed


class Parts(nn.Module):
    """The parts of an imputer with stored weights."""

    def __init__(self, config: ImputerConfig) -> None:
        super().__init__()
        self.network = ImputerNetwork(config)
        self.levels = Levels.blank(regimes=config.regimes, columns=len(config.columns))


class Imputer:
    """Fills missing readings of windows.

    Args:
        config: of the imputer.
        parts: with trained weights; moved to `device` and set to evaluation mode.
        device: of the network.
    """

    def __init__(self, config: ImputerConfig, parts: Parts, device: torch.device) -> None:
        self.config, self.device = config, device
        self.levels = copy.deepcopy(parts.levels)
        """On the CPU."""
        self._network = parts.to(device).eval().requires_grad_(False).network
        self._parts = parts

    def __call__(self, windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        """Fill the last row of windows of a stream; B may be 0.

        Args:
            windows: `[B, config.rows, C] float32` standardised by `levels`, NaN where missing.
            carried: `[B, C]`, the last known value of each column; 0 if there was none.
            age: `[B, C]`, rows since then; `FAR` if there was none.

        Returns:
            `[B, C]`, standardised, on the device of `windows`. A known value is returned as it is.

        Raises:
            ValueError: a shape is not the config's.
        """
        expected = (self.config.rows, len(self.config.columns))
        if windows.dim() != 3 or windows.shape[1:] != expected:
            raise ValueError(f"windows are {list(windows.shape)}, expected [B, {expected[0]}, {expected[1]}]")
        return self.at_steps(windows[:, :: self.config.stride], carried, age)

    def at_steps(self, steps: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        """Fill the last of the steps `[B, config.times, C]`; otherwise like a call."""
        return self.filled(steps, carried, age)[:, -1]

    def complete(self, windows: Tensor) -> Tensor:
        """Fill all gaps of windows, from what comes before and after them: offline only.

        Args:
            windows: `[B, config.times, C] float64` in the sensors' units, NaN where missing; one row a step.

        Returns:
            The same without NaN; known values are unchanged. A column without any reading is filled from the others.
        """
        values, regime = self.levels.standardise(windows)
        never = values.new_zeros(len(values), values.shape[2])
        known, at = ~values.isnan(), torch.arange(values.shape[1]).unsqueeze(1)
        last = torch.where(known, at, -1).amax(1)  # [B, C]
        carried = torch.where(last >= 0, values.gather(1, last.clamp(min=0).unsqueeze(1))[:, 0], never)
        age = torch.where(last >= 0, self.config.stride * (values.shape[1] - 1 - last), FAR).float()
        filled = self.levels.restore(self.filled(values, carried, age), regime)
        return torch.where(windows.isnan(), filled, windows)

    def save(self, directory: Path) -> None:
        """Write `imputer.json` and `imputer.safetensors` into `directory`, which is created if missing."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self._parts.state_dict().items()}
        files.write({directory / CONFIG_FILE: files.dumped(self.config), directory / WEIGHTS_FILE: save(weights)})

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self._network.parameters())

    def filled(self, steps: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        """All steps `[B, config.times, C]`, filled, standardised; otherwise like a call."""
        with torch.inference_mode():
            given = start(*(moved(t, self.device) for t in (steps, carried, age)), stride=self.config.stride)
            return self._network(given).transpose(1, 2).to(steps.device)


def load(directory: Path | str, device: str = "auto") -> Imputer:
    """Load the imputer beside a model.

    Args:
        directory: holds `imputer.json` and `imputer.safetensors`.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.

    Raises:
        FileNotFoundError: the model has no imputer.
        ValueError: the files are damaged.
    """
    config = ImputerConfig.load(Path(directory))
    parts = Parts(config)
    parts.load_state_dict(files.read_weights(Path(directory) / WEIGHTS_FILE))
    return Imputer(config, parts, placed(device))


def beside(directory: Path) -> Imputer | None:
    """The imputer beside a model, on the CPU; None: it has none."""
    return load(directory, "cpu") if (directory / CONFIG_FILE).exists() else None


def remove(directory: Path) -> None:
    """Remove an imputer that lies in a folder into which another model is written."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (directory / name).unlink(missing_ok=True)
