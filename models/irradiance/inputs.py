"""The network's inputs from windows of `features.RAW`, with the physics or without."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tocsin.models.irradiance.features import RAW

PHYSICS = ("clear", "ahead", "clearness", "swing", "height")
"""Columns that need the site's sun."""
INPUTS = ("ghi", "dni", "dhi", "temperature", "humidity", "dew_point", "beam_known", "air_known", "hour_known")
CLOCK = ("hour_sin", "hour_cos", "day_sin", "day_cos")
PLAIN = (*INPUTS, *CLOCK)
GUIDED = (*INPUTS, *PHYSICS, *CLOCK)
"""The inputs without the physics, and with it."""
NIGHT = 5.0
"""Cloudless irradiance of the next hour below which it is night: the forecast is 0, W/m2."""
BRIGHT = 1000.0  # W/m2
_AT = {name: index for index, name in enumerate(RAW)}


def column(window: Tensor, name: str) -> Tensor:
    """A column of windows `[B, T, len(RAW)]`, `[B, T]`."""
    return window[..., _AT[name]]


def inputs(window: Tensor, *, physics: bool) -> Tensor:
    """Windows `[B, T, len(RAW)] float32` as the network's inputs `[B, T, F]`, about -1 to 1; 0 for unknown values."""
    found = {name: column(window, name) for name in ("clearness", "swing", "height")}
    irradiance = ("ghi", "clear", "ahead", "dni", "dhi")
    found |= {name: torch.log1p(column(window, name).clamp(min=0)) / math.log1p(BRIGHT) for name in irradiance}
    # The air's changes: its levels tell one site from another, and a network learns the sites by them.
    for name, unit in (("temperature", 10), ("dew_point", 10), ("humidity", 50)):
        found[name] = (column(window, name) - column(window, name).nanmean(dim=1, keepdim=True)) / unit
    for name, per in (("hour", 24), ("day", 1)):
        angle = column(window, name) * (2 * math.pi / per)
        found |= {f"{name}_sin": angle.sin(), f"{name}_cos": angle.cos()}
    known = {"beam": "dni", "air": "humidity", "hour": "ghi"}
    found |= {f"{kind}_known": (~column(window, name).isnan()).to(window.dtype) for kind, name in known.items()}
    names = GUIDED if physics else PLAIN
    return torch.stack([found[name] for name in names], dim=-1).nan_to_num(0.0).clamp(-3, 3)
