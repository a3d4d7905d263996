"""Adaptation of a RUL model to one site, by a few of its runs to failure."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.adaptation import FOLDS, Adapted, Report, by_the_others, own_or_shared
from tocsin.models.adapters import OneSite
from tocsin.models.gate import Candidate
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives
from tocsin.models.rul.evaluate import ERRORS, judged
from tocsin.models.rul.interval import Interval
from tocsin.models.rul.model import RulModel, load
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.train import Recipe, epochs, predict, shown
from tocsin.models.training import begin

RECIPE = Recipe(epochs=10, learning_rate=5e-3)


def adapt(
    model: RulModel,
    site: str,
    known: Lives,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    folds: int = FOLDS,
    progress: Report = lambda done, total: None,
) -> Adapted[RulModel]:
    """Fit a site's adapter; the network and the other sites' adapters stay as they are.

    The interval is calibrated on the runs, each judged by an adapter of the others. After a single run it is all of `[0, cap]`.

    Args:
        known: the site's runs, with their RUL.
        folds: parts of the runs, at most; each part is judged by an adapter of the others.
        progress: called with the number of adapters that are fitted and with their total.

    Returns:
        The model, and its errors, see `evaluate.judged`; `rmse_shared`: of the network alone.
    """
    config, shares = model.config, torch.empty(len(known), 3)

    def fitted(numbers: list[int]) -> tuple[OneSite, list[float]]:
        return _fitted(model, known.of(torch.tensor(numbers)), recipe, seed)

    apart, (network, curve) = by_the_others(len(known.keys), fitted, folds=folds, progress=progress)
    for part, (one, _) in apart:
        chosen = torch.tensor(part)
        shares[torch.isin(known.engine, chosen)] = predict(one, Samples(known.of(chosen), config, model.scaling))
    judging = known if apart else known.of(torch.empty(0, dtype=torch.int64))
    given = shares[: len(judging)]
    interval = Interval.fit(given, judging.rul, life=judging.engine, cap=config.cap, coverage=config.coverage)
    own = {**model.scaling.limits_with(known), "low": interval.low, "high": interval.high}
    figures = _errors(interval.ends(given)[0], judging, config) if apart else {}
    shared = _errors(model.predict(known)["rul"], known, config)
    adapted = RulModel(config, model.parts.cpu(), torch.device("cpu"), network.added(model.sites, site, own))
    return Adapted(adapted, {**figures, "rmse_shared": shared["rmse"]}, curve)


def candidate(folder: Path, site: str, known: Lives, rmse: float, shared: float) -> Candidate:
    """A model with a site's adapter, saved in `folder`, as a candidate for champion.

    Args:
        known: the site's runs.
        rmse: of these runs, each judged by an adapter of the others; NaN if nothing judged it.
        shared: RMSE of the network alone.
    """

    def against(other: Path) -> tuple[float, float]:
        champion = load(other, "cpu")
        found = own_or_shared(champion, site).predict(known)
        rul, low, high = (found[name] for name in ("rul", "rul_low", "rul_high"))
        return rmse, judged(rul, low, high, known.rul, champion.config.cap)["rmse"]

    return Candidate(
        measure="RMSE of the site's runs",
        lower=True,
        score=None if math.isnan(rmse) else rmse,
        outputs=lambda: [*load(folder, "cpu").at(site).predict(known).values()],
        against=against,
        floor=("that of the shared network", shared),
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
