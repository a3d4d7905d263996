"""A trained quality model: judges windows of any plant's readings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.features import SIGNALS, History, Inputs, features
from tocsin.models.quality.network import QualityNetwork
from tocsin.models.trained import Stored, moved, placed, restore

PLANTS = Path(__file__).parent / "weights" / "plants"
CELLS = 400_000
"""Numbers that one comparison with the memory may hold: more windows are judged in parts."""


class QualityModel(Stored[QualityConfig]):
    """Judges windows; holds network and settings.

    Args:
        device: the network runs there, in float32; what it sees is computed there too.
    """

    def __init__(self, config: QualityConfig, network: QualityNetwork, device: torch.device) -> None:
        super().__init__(config, network, device)
        self.network = network

    def __call__(
        self, times: Tensor, windows: Tensor, memory: Tensor, limits: Tensor, seen: Tensor
    ) -> dict[str, Tensor]:
        """Judge a batch; B may be 0.

        Args:
            times: `[B, T + 1] float64`, in any unit. windows: `[B, T + 1, C] float32`, NaN where missing. The first row is the
                one before the window.
            memory, limits, seen: what is remembered of each window's key, see `History`.

        Returns:
            On the windows' device: `quality` `[B] float32`, the probability that nothing is wrong; `reason` `[B] int64`, the
            likeliest of `REASONS` if something is; `channel` `[B] int64`, the likeliest channel at fault, or -1 where it is none of
            them, as when the clock jumps.

        Raises:
            ValueError: a shape is not the config's.
        """
        rows, size = self.config.window + 1, self.config.memory
        if windows.dim() != 3 or windows.shape[1] != rows:
            raise ValueError(f"windows are {list(windows.shape)}, expected [B, {rows}, C]")
        if memory.shape[1:] != (size, 2 * windows.shape[2] + 1):
            raise ValueError(f"the memory is {list(memory.shape)}, expected [B, {size}, {2 * windows.shape[2] + 1}]")
        if not len(windows):
            nothing = windows.new_zeros(0)
            return {"quality": nothing, "reason": nothing.long(), "channel": nothing.long()}
        part = max(1, CELLS // (rows * size * windows.shape[2]))
        found = []
        with torch.inference_mode():
            for index in torch.arange(len(windows)).split(part):
                when, shown, kept, ends, count = (
                    moved(tensor[index], self.device) for tensor in (times, windows, memory, limits, seen)
                )
                found.append(self._judged(features(when, shown, History(kept, ends, count))))
        return {name: torch.cat([each[name] for each in found]).to(windows.device) for name in found[0]}

    def _judged(self, given: Inputs) -> dict[str, Tensor]:
        window, channel = self.network(given)
        reason = window[:, 1:].argmax(-1)
        at = channel.gather(2, reason.view(-1, 1, 1).expand(-1, channel.shape[1], 1))[..., 0].argmax(-1)
        # The clock is no channel's, and neither is a row that never came.
        lost = given.signals[..., SIGNALS.index("missing")].amax(-1).gather(1, at.unsqueeze(1))[:, 0] > 0
        nobody = (reason == REASONS.index("clock")) | ((reason == REASONS.index("drop-out")) & ~lost)
        return {"quality": window.softmax(-1)[:, 0], "reason": reason, "channel": at.masked_fill(nobody, -1)}


def load(directory: Path | str = PLANTS, device: str = "auto") -> QualityModel:
    """Load a model that `QualityModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = QualityConfig.load(Path(directory))
    network = QualityNetwork(width=config.width, heads=config.heads)
    restore(network, Path(directory))
    return QualityModel(config, network, placed(device))
