"""Quality networks judged at sites that they have not seen, beside the rules of thumb.

    python -m benchmarks.quality prepare --data DIR --out RECORDINGS
    python -m benchmarks.quality sites --data RECORDINGS --out FILE [--seeds 3] [--plain]
    python -m benchmarks.quality model --data RECORDINGS [--model FOLDER]
    python -m benchmarks.quality table --out FILE

`prepare` writes the recordings as tables, a folder a site. `sites`: each site whose terms allow it is left out once; a network is
trained on the first 70 % of the others' recordings and on simulated plants (`--plain`: without them), and judged on faults in the
whole recording that was left out (unseen), and in the last 28 % of the others (seen). Each result is added to FILE as a line of
JSON; what is there already is not done again. `model` judges a model on the sites that no shipped weights saw, and counts the
alerts that the pipeline raises on recordings as they are. `table` prints mean and standard deviation of the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_sites import SHIPPED, UNSEEN, prepare
from tocsin.models.quality.cases import Cases
from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.data import read
from tocsin.models.quality.evaluate import figures, judge, of_rules
from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.model import PLANTS, load
from tocsin.models.quality.series import SHORTEST, Series
from tocsin.models.quality.simulation.plant import plants
from tocsin.models.quality.train import HELD, SIMULATED, TRAINED, Recipe, batches, calibrate, fit, samples
from tocsin.pipelines.quality import watched

PLANTS_SHOWN = 300
"""Simulated plants in training."""
TESTED = 16
"""Batches of 64 windows of an unseen site; 8 of a seen one."""
SEEDS = (7100, 7101, 7102)
"""Of the windows and faults that judge; they were fixed before any network was trained."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality networks at sites that they have not seen.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, needs in (("prepare", "data out"), ("sites", "data out"), ("model", "data"), ("table", "out")):
        command = commands.add_parser(name)
        for option in needs.split():
            command.add_argument(f"--{option}", type=Path, required=True)
        if name == "sites":
            command.add_argument("--seeds", type=int, default=3)
            command.add_argument("--plain", action="store_true", help="without simulated plants")
        if name == "model":
            command.add_argument("--model", type=Path, default=PLANTS)
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.data, given.out)
    elif given.command == "sites":
        sites(given.data, given.out, seeds=given.seeds, simulated=not given.plain)
    elif given.command == "model":
        model(given.data, given.model)
    else:
        table(given.out)


def sites(data: Path, out: Path, *, seeds: int, simulated: bool) -> None:
    """Leave each site out once, for each seed."""
    config, recipe = QualityConfig(), Recipe()
    series = {name: read(data / name) for name in SHIPPED}
    done = {(line["site"], line["seed"]) for line in _lines(out)}
    shown = {name: samples(each, config, recipe, part=TRAINED, seed=0) for name, each in series.items()}
    more = samples(plants(PLANTS_SHOWN, seed=0), config, recipe, part=(0.0, 1.0), seed=0) if simulated else []
    for seed in range(seeds):
        if all((name, seed) in done for name in series):
            continue
        held = {
            name: batches(each, config, count=8, part=HELD, whole=True, seed=SEEDS[seed])
            for name, each in series.items()
        }
        for name in series:
            if (name, seed) in done:
                continue
            others = [shown[other] for other in series if other != name] + [more] * (SIMULATED if simulated else 0)
            known = [held[other] for other in series if other != name]
            network = calibrate(fit(others, config, recipe, seed=seed), known)
            unseen = judge(network, _unseen(series[name], config, seed))
            seen = [figures(judge(network, each), network.config.level) for each in known]
            line = {
                "site": name,
                "seed": seed,
                "unseen": figures(unseen, network.config.level),
                "seen": {key: float(np.nanmean([each[key] for each in seen])) for key in seen[0]},
                "rules": of_rules(unseen),
                "parameters": network.parameters,
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{name}, seed {seed}: unseen {line['unseen']['auroc']:.3f}, seen {line['seen']['auroc']:.3f}",
                flush=True,
            )


def model(data: Path, folder: Path) -> None:
    """Judge a model on sites that it has not seen."""
    network = load(folder, "cpu")
    for name in UNSEEN:
        series, found = read(data / name), []
        for seed in range(len(SEEDS)):
            judged = judge(network, _unseen(series, network.config, seed))
            found.append(
                {**figures(judged, network.config.level), **{k: v["auroc"] for k, v in of_rules(judged).items()}}
            )
        print(
            f"{name}: " + ", ".join(f"{key} {_spread([each[key] for each in found])}" for key in found[0]), flush=True
        )
    for name in UNSEEN:
        known = [each for each in read(data / name) if len(each) >= SHORTEST]
        days = sum(float(each.times[-1] - each.times[0]) for each in known) / 86_400
        verdicts, alerts = watched(known, folder, "judged")
        print(
            f"{name} as it is: {alerts} alerts, {verdicts} verdicts, {days:.1f} days of {len(known)} assets", flush=True
        )


def table(out: Path) -> None:
    """Print what `sites` found."""
    lines = _lines(out)
    names, seeds = list(dict.fromkeys(line["site"] for line in lines)), sorted({line["seed"] for line in lines})

    def over(sites: list[str], *path: str) -> str:
        """A figure's mean over sites, and mean and deviation of that over seeds."""
        values = [
            float(np.nanmean([_at(line, path) for line in lines if line["seed"] == seed and line["site"] in sites]))
            for seed in seeds
        ]
        return _spread(values)

    rules = list(lines[0]["rules"])
    print("| site left out | unseen | seen | " + " | ".join(rules) + " | reason | channel |")
    for chosen in [[name] for name in names] + [names]:
        cells = [over(chosen, "unseen", "auroc"), over(chosen, "seen", "auroc")]
        cells += [over(chosen, "rules", rule, "auroc") for rule in rules]
        cells += [over(chosen, "unseen", figure) for figure in ("reason", "channel")]
        print(f"| {chosen[0] if len(chosen) == 1 else 'mean'} | " + " | ".join(cells) + " |")
    print("\n| fault | unseen | seen | " + " | ".join(rules) + " |")
    for reason in REASONS:
        cells = [over(names, kind, f"auroc_{reason}") for kind in ("unseen", "seen")]
        cells += [over(names, "rules", rule, f"auroc_{reason}") for rule in rules]
        print(f"| {reason} | " + " | ".join(cells) + " |")
    for figure in ("found", "false"):
        print(f"{figure} at the level: unseen {over(names, 'unseen', figure)}, seen {over(names, 'seen', figure)}")


def _unseen(series: list[Series], config: QualityConfig, seed: int) -> list[Cases]:
    return batches(series, config, count=TESTED, whole=True, seed=SEEDS[seed])


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def _at(line: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = line
    for step in path:
        value = value[step]
    return math.nan if value is None else float(value)


def _spread(values: list[float]) -> str:
    return f"{np.nanmean(values):.3f} ± {np.nanstd(values):.3f}"


if __name__ == "__main__":
    main()
