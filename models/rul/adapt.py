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
from tocsin.models.rul.data import Lives
from tocsin.models.rul.evaluate import judged
from tocsin.models.rul.model import RulModel, load
from tocsin.models.rul.network import Inputs
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.train import Recipe, epochs, shown
from tocsin.models.training import begin
from tocsin.operators.lora import Adapters, adaptable

RECIPE = Recipe(epochs=10, learning_rate=5e-3)
FOLDS = 10
"""Runs that are judged by an adapter of the other ones, at most."""


@dataclass(frozen=True)
class Adapted:
    """A model with a site's adapter.

    Args:
        figures: of the site's runs, each judged by an adapter of the others: `rmse`, `coverage` and so on, see `evaluate.judged`;
            `rmse_shared` without an adapter. With a single run only `rmse_shared`.
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Adapted:
    """Fit a site's adapter; the network and the other sites' adapters stay as they are.

    Args:
        known: the site's runs, with their RUL.
        progress: called with the number of adapters that are fitted and with their total.
    """
    everyone = torch.arange(len(known.keys))
    folds = everyone[:FOLDS] if len(everyone) > 1 else everyone[:0]
    shared, own = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    for number in folds.tolist():
        one, others = known.of(everyone[number : number + 1]), known.of(everyone[everyone != number])
        _predict(model, one, shared)
        _predict(_with_site(model, site, others, recipe, seed)[0].at(site), one, own)
        progress(number + 1, len(folds) + 1)
    adapted, curve = _with_site(model, site, known, recipe, seed)
    progress(len(folds) + 1, len(folds) + 1)
    figures = _figures(own, model.config.cap)
    if not len(folds):
        _predict(model, known, shared)
    return Adapted(adapted, {**figures, "rmse_shared": _figures(shared, model.config.cap)["rmse"]}, curve)


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


def _with_site(model: RulModel, site: str, known: Lives, recipe: Recipe, seed: int) -> tuple[RulModel, list[float]]:
    """The model with one more site, or a new adapter of a site; and the loss of each epoch."""
    begin(seed, threads=1)
    parts = model.parts.cpu()
    network, samples = OneSite(parts.network), Samples(shown(known), model.config, model.scaling)
    curve = [loss for _, loss in epochs(samples, torch.arange(len(samples)), model.config, recipe, network)]
    adapters, limits = network.adapters.requires_grad_(False), model.scaling.limits_with(known)
    sites = model.sites.joined(site, adapters, limits) if model.sites else Sites.first(site, adapters, limits)
    return RulModel(model.config, parts, torch.device("cpu"), sites), curve


def _predict(model: RulModel, known: Lives, found: dict[str, list[Tensor]]) -> None:
    """Add a model's predictions of some lives, and the truth."""
    for name, values in {**model.predict(known), "target": known.rul}.items():
        found.setdefault(name, []).append(values)


def _figures(found: dict[str, list[Tensor]], cap: float) -> dict[str, float]:
    if not found:
        return {}
    rul, low, high, target = (torch.cat(found[name]) for name in ("rul", "rul_low", "rul_high", "target"))
    return judged(rul, low, high, target, cap)
