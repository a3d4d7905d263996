"""Irradiance networks compared on sites that were left out and on a later period, and the alerts on simulated sites.

    python -m benchmarks.irradiance networks --data DIR [--seeds 3] [--only physics,attention]
    python -m benchmarks.irradiance alerts [--seeds 1000,1001,1002] [--soiling 0.1] [--shading 0.35]

`networks`: each recorded site is left out once, and a network is trained on the others and on simulated sites, and calibrated on
their held-out days. Then the last 15 % of each site's readings are judged by a network that was trained on the first 70 % and
calibrated on what is between. Coarser versions of a site are left out together with it, and never judged.

`alerts`: a year of twelve simulated sites for each seed, a third of them dirty, a third shaded. Soiling counts as found if it rings
between its begin and 14 days after the wash, shading if it rings from its begin on; every other ring is a false one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.spread import spread
from tocsin.models.irradiance.baselines import baselines
from tocsin.models.irradiance.config import IrradianceConfig
from tocsin.models.irradiance.data import COLUMNS, read
from tocsin.models.irradiance.domain import DAYS, SITES, recorded
from tocsin.models.irradiance.evaluate import errors, skill
from tocsin.models.irradiance.model import SITES as SHIPPED
from tocsin.models.irradiance.network import NetworkSize
from tocsin.models.irradiance.samples import Samples, coarsened
from tocsin.models.irradiance.simulation import weather
from tocsin.models.irradiance.train import Recipe, Shares, calibrate, fit, joined, score
from tocsin.pipelines.irradiance import READING, pipeline
from tocsin.pipelines.runtime import Model, replay

VARIANTS: dict[str, tuple[IrradianceConfig, bool]] = {
    "physics": (IrradianceConfig(), True),
    "attention": (IrradianceConfig(network="attention"), True),
    "plain": (IrradianceConfig(network="plain"), True),
    "physics, recorded sites alone": (IrradianceConfig(), False),
    "attention, recorded sites alone": (IrradianceConfig(network="attention"), False),
    "plain, recorded sites alone": (IrradianceConfig(network="plain"), False),
    "physics, the source's widths": (IrradianceConfig(size=NetworkSize(conv=64, lstm=210, dropout=0.104)), True),
}
"""A config, and whether simulated sites are trained on, too."""
FIRST, LAST = 0.7, 0.85
SHOWN = ("rmse", "mae", "skill", "rmse_all", "coverage", "width", "ramp_precision", "ramp_recall")
RINGS = 14 * weather.DAY_MS


def networks(data: Path, seeds: int, only: Sequence[str]) -> None:
    """Print a row for each variant and judge."""
    parts = read(data).partition_by("site", as_dict=True)
    whole = {str(site): Samples.of(coarsened(part)) for (site,), part in parts.items()}
    own = {site: each.keep(each.site == site) for site, each in whole.items()}
    simulated = Samples.of(recorded("sim", sites=SITES, days=DAYS, seed=0))
    cuts = {site: np.quantile(each.time, (FIRST, LAST)) for site, each in own.items()}
    late = {site: own[site].keep(own[site].time >= cuts[site][1]) for site in own}
    print("| judged on | forecast | " + " | ".join(SHOWN) + " |\n|" + "---|" * (len(SHOWN) + 2))
    for site in own:
        _plain(f"{site}, all of it", own[site])
        _plain(f"{site}, last 15 %", late[site])
    for name in only:
        config, simulations = VARIANTS[name]
        more = [simulated.keep(~simulated.held)] if simulations else []
        found: dict[str, list[Mapping[str, float]]] = {}
        for seed in range(seeds):
            for site in own:
                others = [each for other, each in whole.items() if other != site]
                model = fit([*(each.keep(~each.held) for each in others), *more], config, Recipe(), seed=seed)
                inner = joined([each.keep(each.held) for each in others])
                model = calibrate(model, [Shares.of(model.parts.network, inner)])
                found.setdefault(f"{site}, all of it", []).append(score(model, own[site]))
            early = [each.keep(each.time < cuts[site][0]) for site, each in whole.items()]
            between = [
                each.keep((each.time >= cuts[site][0]) & (each.time < cuts[site][1])) for site, each in whole.items()
            ]
            model = fit([*early, *more], config, Recipe(), seed=seed)
            model = calibrate(model, [Shares.of(model.parts.network, joined(between))])
            for site in own:
                found.setdefault(f"{site}, last 15 %", []).append(score(model, late[site]))
        for judge, figures in found.items():
            _row(judge, name, {each: [one[each] for one in figures] for each in SHOWN})


def _plain(judge: str, samples: Samples) -> None:
    samples = samples.keep((~samples.target.isnan() & ~samples.persistence.isnan()).numpy())
    target, by_day = samples.target.double().numpy(), samples.by_day
    usual = float(samples.target.sum() / samples.windows[:, -1, 2].sum())
    smart = None
    for name, forecast in baselines(samples, usual).items():
        known = np.isfinite(forecast)
        found = errors(forecast[known], target[known], by_day[known])
        smart = smart or found["rmse"]
        found["skill"] = skill(found["rmse"], smart)
        _row(judge, name, {each: [found[each]] for each in SHOWN if each in found})


def _row(judge: str, name: str, figures: Mapping[str, Sequence[float]]) -> None:
    cells = (
        spread(figures[each], 1 if "rmse" in each or each in ("mae", "width") else 3) if each in figures else ""
        for each in SHOWN
    )
    print(f"| {judge} | {name} | " + " | ".join(cells) + " |", flush=True)


def alerts(seeds: Sequence[int], options: Mapping[str, float]) -> None:
    """Print a row for each seed and kind of fault."""
    print("| seed | fault | sites | found | false | precision | recall | median delay, days |\n|" + "---|" * 8)
    for seed in seeds:
        draw, sites, tables = np.random.default_rng([seed, 2]), list[weather.Site](), []
        for number, site in enumerate(weather.sites(12, seed)):
            kind = (None, "soiling", "shading")[number % 3]
            sites.append(site.faulty(kind, draw, DAYS) if kind else site)
            hourly = number % 2 == 0
            tables.append(
                weather.simulate(sites[-1], days=DAYS, seed=seed, minutes=60 if hourly else 30, averaged=hourly)
            )
        table = pl.concat(tables).sort("time", "site").select(COLUMNS).with_columns(pl.from_epoch("time", "ms"))
        declared = pipeline({"silent": "9999d", **options}, Model(SHIPPED, "sites", "cpu"))
        _, rang = replay(declared, table.to_arrow().cast(READING))
        times = {
            kind: [(a.key, a.time.timestamp() * 1000) for a in rang if (a.rule, a.transition) == (kind, "raised")]
            for kind in ("soiling", "shading")
        }
        for kind, rings in times.items():
            spans = _spans(sites, kind)
            hits = {
                name: min(t for k, t in rings if k == name and a <= t <= b)
                for name, (a, b) in spans.items()
                if any(k == name and a <= t <= b for k, t in rings)
            }
            false = sum(not (k in spans and spans[k][0] <= t <= spans[k][1]) for k, t in rings)
            right = len(rings) - false
            delay = np.median([(t - spans[name][0]) / weather.DAY_MS for name, t in hits.items()]) if hits else np.nan
            print(
                f"| {seed} | {kind} | {len(spans)} | {len(hits)} | {false} | {right / max(len(rings), 1):.2f} | "
                f"{len(hits) / max(len(spans), 1):.2f} | {delay:.0f} |",
                flush=True,
            )


def _spans(sites: Sequence[weather.Site], kind: str) -> dict[str, tuple[float, float]]:
    """When each faulty site's alert is right, ms."""
    start = weather.START_MS
    if kind == "soiling":
        return {
            s.name: (start + s.dirt.begin * weather.DAY_MS, start + s.dirt.end * weather.DAY_MS + RINGS)
            for s in sites
            if s.dirt
        }
    return {s.name: (start + s.obstacle.day * weather.DAY_MS, np.inf) for s in sites if s.obstacle}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["networks", "alerts"])
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--seeds", default="")
    parser.add_argument(
        "--only", default=",".join([*VARIANTS][:3]), help="variants, separated by commas; ; for those with commas"
    )
    parser.add_argument("--soiling", type=float, default=0.1)
    parser.add_argument("--shading", type=float, default=0.35)
    a = parser.parse_args()
    if a.what == "networks":
        networks(a.data, int(a.seeds or 3), a.only.split(";" if ";" in a.only else ","))
    else:
        numbers = [int(seed) for seed in (a.seeds or "1000,1001,1002").split(",")]
        alerts(numbers, {"soiling": a.soiling, "shading": a.shading})
