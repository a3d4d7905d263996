"""Context in RUL: the error after washes and overhauls with and without it, beside a life that begins anew at each overhaul.

Run `python -m benchmarks.maintained [SEED ...]`. All are trained on a simulated fleet and judged on another one, on rows with a RUL
of at most 150 cycles. Nothing is chosen by the second fleet.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tocsin.models.domain import SIM
from tocsin.models.rul.data import Lives, lives
from tocsin.models.rul.evaluate import after, judged, without_any
from tocsin.models.rul.source import TEST_SEED, Runs, runs, simulated
from tocsin.models.rul.train import SIMULATED, fit
from tocsin.models.training import begin

CONTEXT, NONE, ANEW = "context", "no context", "no context, a new life after each overhaul"
PARTS = ("without any plan", "after a wash", "after an overhaul", "all")


def main(seeds: Sequence[int]) -> None:
    """Print the error of each variant by seed, and their mean and spread."""
    begin(0, threads=1)
    training, unseen = (runs(Path(SIM), simulated(), seed=seed) for seed in (0, TEST_SEED))
    known = lives(unseen.table, unseen.config, intervals=unseen.intervals)
    parts = dict(zip(PARTS, _parts(known), strict=True))
    found = defaultdict[str, list[list[float]]](list)
    for seed in seeds:
        for name in (NONE, ANEW, CONTEXT):
            own, judging = (_as(name, each) for each in (training, unseen))
            recipe = SIMULATED[own.config.model]
            model, _, figures = fit(
                lives(own.table, own.config, intervals=own.intervals), own.config, recipe, seed=seed
            )
            rul = model.predict(lives(judging.table, judging.config, intervals=judging.intervals))["rul"]
            rul = rul[_order(judging.table)]
            errors = [judged(*[rul[which]] * 3, known.rul[which], 125)["rmse"] for which in parts.values()]
            found[name].append(errors)
            print(
                f"seed {seed}, {name}: validation {figures['validation_rmse']:.2f}, test", *(f"{e:.2f}" for e in errors)
            )
    print("| network | " + " | ".join(PARTS) + " | extra error after an overhaul that it removes |")
    base = np.array(found[NONE])
    for name, rows in found.items():
        errors = np.array(rows)
        share = (base[:, 2] - errors[:, 2]) / (base[:, 2] - base[:, 0])
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(errors.mean(0), errors.std(0), strict=True)]
        print(f"| {name} | " + " | ".join(cells) + f" | {share.mean():.0%} ± {share.std():.0%} |")


def _parts(known: Lives) -> list[Tensor]:
    config = simulated()
    everywhere = torch.ones(len(known), dtype=torch.bool)
    return [without_any(known), after(known, 0, config), after(known, 1, config), everywhere]


def _as(name: str, found: Runs) -> Runs:
    """The runs as a variant sees them."""
    if name == CONTEXT:
        return found
    plain = Runs(found.table, found.config.without_context)
    return _anew(found) if name == ANEW else plain


def _anew(found: Runs) -> Runs:
    """Each overhaul begins a new life, whose cycles count from 1."""
    assert found.intervals is not None
    done = found.intervals.filter(kind="overhaul").select(unit=pl.col("asset").cast(pl.Int64), time="to").sort("time")
    done = done.with_columns(part=pl.int_range(pl.len()).over("unit") + 1)
    table = found.table.with_columns(left=(pl.col("cycle").max().over("unit") - pl.col("cycle")).cast(pl.Float64))
    table = table.sort("time").join_asof(done, on="time", by="unit", check_sortedness=False)
    table = table.with_columns(unit=pl.format("{}/{}", pl.col("unit"), pl.col("part").fill_null(0)))
    table = table.with_columns(cycle=pl.col("cycle") - pl.col("cycle").min().over("unit") + 1)
    return Runs(table, replace(found.config.without_context, key_type="string", label="left"))


def _order(table: pl.DataFrame) -> Tensor:
    """Where the rows of a table sorted by key and cycle are, in the order of unit and time."""
    ordered = table.sort("unit", "cycle").with_row_index("at")
    number = pl.col("unit").cast(pl.String).str.split("/").list.first().cast(pl.Int64)
    return torch.from_numpy(ordered.sort(number, "time")["at"].to_numpy().astype(np.int64))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
