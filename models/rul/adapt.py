"""Adaptation of a RUL model to one site, by a few of its runs to failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tocsin.models.adapters import SHARE, Sites
from tocsin.models.gate import Candidate
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives
from tocsin.models.rul.evaluate import ERRORS, judged
from tocsin.models.rul.interval import Interval
from tocsin.models.rul.model import RulModel, load
from tocsin.models.rul.network import Inputs
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.train import Recipe, epochs, predict, shown
from tocsin.models.training import begin
from tocsin.operators.lora import Adapters, adaptable

RECIPE = Recipe(epochs=10, learning_rate=5e-3)
FOLDS = 10


@dataclass(frozen=True)
class Adapted:
    """A model with a site's adapter.

    Args:
        figures: errors over the site's runs, each judged by an adapter of the others, see `evaluate.judged`; `rmse_shared`: of the
            network alone. With a single run only `rmse_shared`.
        curve: the loss of each epoch.
    """

    model: RulModel
    figures: dict[str, float]
    curve: list[float]

    @property
    def size(self) -> int:
        """Number of the adapter's parameters."""
        assert self.model.sites
        return sum(p.numel() for p in self.model.sites.adapters.values.values()) // len(self.model.sites.names)


class OneSite(nn.Module):
    """The adapters of a single site as a network for `epochs`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not (names := adaptable(network, share=SHARE)):
            size = sum(p.numel() for p in network.parameters())
            raise ValueError(
                f"expected a network with room for an adapter of {100 * SHARE:g} %, got one of {size} parameters; train on the site"
            )
        self.adapters = Adapters(network, names)

    def forward(self, inputs: Inputs) -> Tensor:
        """The network's output with the site's adapter."""
        return self.adapters(torch.zeros(len(inputs.age), dtype=torch.int64), inputs)


def adapt(
    model: RulModel,
    site: str,
    known: Lives,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    folds: int = FOLDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Adapted:
    """Fit a site's adapter; the network and the other sites' adapters stay as they are.

    The interval is calibrated on the runs, each judged by an adapter of the others. After a single run it is all of `[0, cap]`.

    Args:
        known: the site's runs, with their RUL.
        folds: runs that are judged by an adapter of the other ones, at most.
        progress: called with the number of adapters that are fitted and with their total.
    """
    config, everyone = model.config, torch.arange(len(known.keys))
    apart = everyone[:folds] if len(everyone) > 1 else everyone[:0]
    shares, judging = [torch.empty(0, 3)], known.of(apart)
    for number in apart.tolist():
        network, _ = _fitted(model, known.of(everyone[everyone != number]), recipe, seed)
        shares.append(predict(network, Samples(known.of(everyone[number : number + 1]), config, model.scaling)))
        progress(number + 1, len(apart) + 1)
    network, curve = _fitted(model, known, recipe, seed)
    progress(len(apart) + 1, len(apart) + 1)
    given = torch.cat(shares)
    interval = Interval.fit(given, judging.rul, life=judging.engine, cap=config.cap, coverage=config.coverage)
    own = {**model.scaling.limits_with(known), "low": interval.low, "high": interval.high}
    adapters = network.adapters.requires_grad_(False)
    sites = model.sites.joined(site, adapters, own) if model.sites else Sites.first(site, adapters, own)
    before = _errors(model.predict(judging if len(apart) else known)["rul"], judging if len(apart) else known, config)
    figures = _errors(interval.ends(given)[0], judging, config) if len(apart) else {}
    adapted = RulModel(config, model.parts.cpu(), torch.device("cpu"), sites)
    return Adapted(adapted, {**figures, "rmse_shared": before["rmse"]}, curve)


def candidate(folder: Path, site: str, known: Lives, rmse: float) -> Candidate:
    """A model with a site's adapter, saved in `folder`, as a candidate for champion.

    Args:
        known: the site's runs.
        rmse: of these runs, each judged by an adapter of the others; NaN if nothing judged it.
    """

    def against(other: Path) -> tuple[float, float]:
        champion = load(other, "cpu")
        own = champion.at(site) if champion.sites and site in champion.sites.names else champion
        found = own.predict(known)
        rul, low, high = (found[name] for name in ("rul", "rul_low", "rul_high"))
        return rmse, judged(rul, low, high, known.rul, champion.config.cap)["rmse"]

    return Candidate(
        measure="RMSE of the site's runs",
        lower=True,
        score=None if math.isnan(rmse) else rmse,
        outputs=lambda: [*load(folder, "cpu").at(site).predict(known).values()],
        against=against,
    )


def _fitted(model: RulModel, known: Lives, recipe: Recipe, seed: int) -> tuple[OneSite, list[float]]:
    """The network with an adapter of some runs, and the loss of each epoch."""
    begin(seed, threads=1)
    network, samples = OneSite(model.parts.cpu().network), Samples(shown(known), model.config, model.scaling)
    rows = torch.arange(len(samples))
    curve = [loss for _, loss in epochs(samples, rows, model.config, recipe, network)]
    return network, curve


def _errors(rul: Tensor, known: Lives, config: RulConfig) -> dict[str, float]:
    """The errors of predictions in validation, without figures of the interval, which the same runs have calibrated."""
    figures = judged(rul, rul, rul, known.rul, config.cap)
    return {name: figures[name] for name in ERRORS}
