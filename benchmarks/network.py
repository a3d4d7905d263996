"""The network of the benchmarks: 30 readings, convolutions, a BiLSTM and attention; random weights, since only its cost counts."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import FEATURES, lives
from tocsin.models.rul.model import Parts, RulModel
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.simulation.fleet import run_to_failure

BATCH = 512


class Recurrent:
    """A recurrent RUL model over windows; the same weights each time."""

    features = FEATURES

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = RulConfig(key="unit", order="cycle", features=FEATURES, model="recurrent")
        parts = Parts(config)
        fleet = lives(run_to_failure(engines=20, seed=0), config)
        parts.scaling = Scaling.fit(fleet, settings=0, regimes=1)
        self._model = RulModel(config, parts, torch.device("cpu"))

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        """`rul` `[B]` of windows `[B, 30, C]`, in the units of the sensors."""
        return {"rul": self._model(windows, torch.zeros(len(windows), dtype=torch.float64))["rul"]}


def rate(model: RulModel | Recurrent, *tensors: Tensor, seconds: float = 6.0) -> float:
    """Rows per second of a model on ready tensors, in one thread, as a worker runs it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model(*tensors)
    processed, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        model(*tensors)
        processed += len(tensors[0])
    found = processed / (time.perf_counter() - started)
    torch.set_num_threads(threads)
    return found


def example(model: RulModel) -> tuple[Tensor, ...]:
    """A batch of tensors for a call of a RUL model, with readings around their means."""
    config, scaling = model.config, model.parts.scaling
    steps = len(config.steps)
    noise = torch.randn(BATCH, steps, len(config.features), dtype=torch.float64)
    readings = scaling.mean[0] + noise * scaling.deviation[0]
    settings = scaling.centres[0].expand(BATCH, steps, -1)
    rows, age = torch.cat([settings, readings], dim=2), torch.full((BATCH,), 50.0, dtype=torch.float64)
    if config.model != "fading":
        return rows.float(), age
    counted = torch.cat([readings, torch.ones(BATCH, steps, 1, dtype=torch.float64)], dim=2).cumsum(1)
    sums = torch.zeros(BATCH, config.regimes, *counted.shape[1:], dtype=torch.float64)
    sums[:, 0] = counted
    return sums, rows[:, 0], age
