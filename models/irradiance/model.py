"""A trained irradiance model that forecasts from windows of hours."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tocsin.models.irradiance.config import IrradianceConfig
from tocsin.models.irradiance.features import MOST, RAW
from tocsin.models.irradiance.inputs import column
from tocsin.models.irradiance.interval import Interval
from tocsin.models.irradiance.network import IrradianceNetwork
from tocsin.models.trained import Stored, moved, placed, restore

OUTPUTS = ("forecast", "forecast_low", "forecast_high", "ramp", "persistence", "clear_ahead")
"""The mean irradiance of the next hour and the ends of its interval, whether it is a ramp, what smart persistence forecasts, and
what a cloudless sky would give."""
SITES = Path(__file__).parent / "weights" / "sites"


class Parts(nn.Module):
    """All that is stored as weights."""

    def __init__(self, config: IrradianceConfig) -> None:
        super().__init__()
        self.network = IrradianceNetwork(kind=config.network, size=config.size)
        self.interval = Interval()


class IrradianceModel(Stored[IrradianceConfig]):
    """Forecasts from windows of hours; holds networks and settings.

    Args:
        device: the network runs there, in float32.
    """

    def __init__(self, config: IrradianceConfig, parts: Parts, device: torch.device) -> None:
        super().__init__(config, parts, device)
        self.parts = parts

    def __call__(self, window: Tensor) -> dict[str, Tensor]:
        """Forecast a batch.

        Args:
            window: `[B, T, len(RAW)] float32`, see `tocsin.models.irradiance.features`; B may be 0.

        Returns:
            Each of `OUTPUTS`, `[B] float32`, on the windows' device: W/m2, and of `ramp` a probability. NaN without any known hour.

        Raises:
            ValueError: if the shape is another.
        """
        expected = (self.config.window, len(RAW))
        if window.dim() != 3 or tuple(window.shape[1:]) != expected:
            raise ValueError(f"windows are {list(window.shape)}, expected [B, {expected[0]}, {expected[1]}]")
        ahead, clearness = (column(window, name)[:, -1] for name in ("ahead", "clearness"))
        lit = torch.where(ahead >= 0, ahead, torch.zeros_like(ahead))
        known = (~column(window, "ghi").isnan()).any(dim=1)
        if not len(window):  # LSTM kernels refuse an empty batch
            empty = window.new_zeros(0)
            return dict.fromkeys(OUTPUTS, empty)
        with torch.inference_mode():
            given = moved(window, self.device)
            out, unit = self.parts.network(given), self.parts.network.unit(given)
            shares = out[:, :3] / unit.clamp(min=1).unsqueeze(1)
            low, high = self.parts.interval.ends(shares)
            found = {
                "forecast": shares[:, 0] * unit,
                "forecast_low": low * unit,
                "forecast_high": torch.maximum(high * unit, shares[:, 0] * unit),
                "ramp": out[:, 3].sigmoid() * (unit > 0),
            }
        found = {name: values.float().to(window.device) for name, values in found.items()}
        found |= {"persistence": clearness.clamp(0, MOST) * lit, "clear_ahead": lit}
        return {name: torch.where(known, values, torch.nan) for name, values in found.items()}


def load(directory: Path | str = SITES, device: str = "auto") -> IrradianceModel:
    """Load a model that `IrradianceModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = IrradianceConfig.load(Path(directory))
    parts = Parts(config)
    restore(parts, Path(directory))
    return IrradianceModel(config, parts, placed(device))
