"""Adapt the RUL model of one fleet to another by a few of its runs, beside the shared network, fine-tuning and training anew; and
what a thousand adapters cost.

`python -m benchmarks.adapters DIR [--only TABLE]` prints the tables of docs/sites.md; `rooms` is in `benchmarks.adapters_rooms`.
DIR must contain `cmapss`, and for `rooms` the folders `occupancy_*`. FD003 wears in
two ways of which FD001 has one. Fifty engines of FD003 judge; the runs are drawn from the others, other ones for each seed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import adapters_rooms
from tocsin.models.adapters import Sites
from tocsin.models.rul.adapt import RECIPE, adapt
from tocsin.models.rul.data import Lives, lives, read_cmapss
from tocsin.models.rul.evaluate import judged
from tocsin.models.rul.model import FD001, RulModel, load
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.train import Recipe, epochs, fit, shown
from tocsin.models.training import begin
from tocsin.operators.lora import Adapters

SEEDS, RUNS, JUDGING = range(3), (1, 3, 10), 50
SITES = (1, 10, 100, 1000)
ROWS = 512
"""Rows of a call, as the pipeline makes it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", choices=[*TABLES], action="append")
    args = parser.parse_args()
    for name in args.only or TABLES:
        TABLES[name](args.directory)


def quality(directory: Path) -> None:
    """Print RMSE and coverage on engines that nobody was trained on, by the number of labelled runs."""
    base = load(FD001, "cpu")
    known = lives(read_cmapss(directory / "cmapss", "FD003"), base.config)
    order = torch.randperm(len(known.keys), generator=torch.Generator().manual_seed(7))
    test, pool = known.of(order[:JUDGING]), order[JUDGING:]
    print(
        f"shared network: {_shown([_figures(base, test)])}\n\n| runs | adapter | fine-tuning | training anew |\n|---|---|---|---|"
    )
    for count in RUNS:
        cells = []
        for method in (adapter, fine_tuned, anew):
            figures = []
            for seed in SEEDS:
                drawn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]
                figures.append(_figures(method(base, known.of(pool[drawn]), seed), test))
            cells.append(_shown(figures))
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def adapter(base: RulModel, known: Lives, seed: int) -> RulModel:
    return adapt(base, "site", known, seed=seed).model.at("site")


def fine_tuned(base: RulModel, known: Lives, seed: int) -> RulModel:
    """All weights trained on, at a fifth of the adapter's rate, which was the best of 5e-3, 1e-3 and 2e-4."""
    begin(seed, threads=1)
    parts, samples = copy.deepcopy(base.parts), Samples(shown(known), base.config, base.scaling)
    network = parts.network.requires_grad_(True)
    for _ in epochs(samples, torch.arange(len(samples)), base.config, replace(RECIPE, learning_rate=1e-3), network):
        pass
    return RulModel(base.config, parts, torch.device("cpu"))


def anew(base: RulModel, known: Lives, seed: int) -> RulModel:
    return fit(known, base.config, replace(Recipe(), validation=0.0), seed=seed)[0]


def cost(_: Path) -> None:
    """Print the size of adapters, and the rate of calls whose rows are of random sites, as a share of the shared network's."""
    base = load(FD001, "cpu")
    print("\n| sites | KB | rows/s of the shared network |\n|---|---|---|")
    for count in SITES:
        model = _with_sites(base, count)
        assert model.sites
        size = sum(
            t.numel() * t.element_size() for t in (*model.sites.adapters.values.values(), *model.sites.own.values())
        )
        sums, latest, age = (torch.zeros(ROWS, *shape, dtype=torch.float64) for shape in ((1, 8, 15), (17,), ()))
        sums[..., -1] = 1
        site = torch.randint(count, (ROWS,))
        ratios = [_seconds(base, sums, latest, age) / _seconds(model, sums, latest, age, site) for _ in range(30)]
        print(f"| {count:,} | {size / 1024:,.0f} | {statistics.median(ratios):.2f} |", flush=True)


TABLES: dict[str, Callable[[Path], None]] = {"quality": quality, "rooms": adapters_rooms.quality, "cost": cost}


def _with_sites(base: RulModel, count: int) -> RulModel:
    """The model with so many sites, of random adapters."""
    names = ["head.layers.0.weight", "head.layers.0.bias", "head.layers.3.bias", "head.rul.bias"]
    adapters = Adapters(base.parts.network, names, sites=count)
    for value in adapters.values.values():
        torch.nn.init.normal_(value, std=0.01)
    shared = {**base.scaling.limits, "low": base.parts.interval.low, "high": base.parts.interval.high}
    own = {name: value.expand(count, *value.shape).clone() for name, value in shared.items()}
    sites = Sites(tuple(f"site {n}" for n in range(count)), adapters.requires_grad_(False), own)
    return RulModel(base.config, base.parts, torch.device("cpu"), sites)


def _seconds(model: RulModel, *tensors: Tensor) -> float:
    started = time.perf_counter()
    model(*tensors)
    return time.perf_counter() - started


def _figures(model: RulModel, known: Lives) -> dict[str, float]:
    found = model.predict(known)
    rul, low, high = (found[name] for name in ("rul", "rul_low", "rul_high"))
    return {
        **judged(rul, low, high, known.rul, model.config.cap),
        "in_domain": float(found["in_domain"].float().mean()),
    }


def _shown(figures: list[dict[str, float]]) -> str:
    def each(name: str) -> Iterator[float]:
        return (found[name] for found in figures)

    rmse, held = [*each("rmse")], statistics.mean(each("coverage"))
    spread = f" ± {statistics.pstdev(rmse):.1f}" if len(rmse) > 1 else ""
    return f"{statistics.mean(rmse):.1f}{spread} ({held:.0%})"


if __name__ == "__main__":
    main()
