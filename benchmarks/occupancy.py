"""Compare models of room occupancy in the same room, another room and another building, with their cost, the value of each sensor,
and the gain of a search for settings.

`python -m benchmarks.occupancy DIR [--only TABLE] [--model NAME]` prints the tables of docs/occupancy.md. DIR must contain
`occupancy_windesheim` and `occupancy_uci`. Set OMP_NUM_THREADS=1, so that all models run on one core. Training uses the recordings
alone, without the simulator. All models use the shipped model's threshold, so that nothing is chosen on test data. Settings are
searched in a simulated building.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tocsin.models.occupancy.baselines import BASELINES, fit_baseline
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.data import Recording, read
from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.features import CLOCK, FEATURES
from tocsin.models.occupancy.search import BASELINE_SPACES, Trial, apply_settings, best, search, search_baseline
from tocsin.models.occupancy.train import Recipe, Room, fit, labelled, probabilities, rooms, truth
from tocsin.pipelines.occupancy import minutes

SEEDS = range(5)
TRIALS = 20
SPARSE = 5
"""The search trains on and scores every `SPARSE`-th minute of the simulated building, since adjacent minutes are very similar."""
AT_ONCE = (1, 1000)
"""Numbers of windows per timed call."""
NETWORK = "LSTM with attention"
MODELS = (*BASELINES, NETWORK)
FIGURES = ("accuracy", "f1", "precision", "recall", "auroc")
CO2 = ("level", "log_level", "slope", "roughness", "past")
SUBSETS = {
    "clock": CLOCK,
    "CO2": CO2,
    "CO2, clock": (*CO2, *CLOCK),
    "temperature, humidity, clock": ("warming", "damping", *CLOCK),
    "CO2, temperature, humidity, clock": (*CO2, "warming", "damping", *CLOCK),
    "all": FEATURES,
}
Rooms = Sequence[Room]
Settings = Mapping[str, Any]


def main(directory: Path, tables: Sequence[str], models: Sequence[str]) -> None:
    torch.set_num_threads(1)
    rooms_by_name: dict[str, Room] = {}
    for name in ("windesheim", "uci"):
        recording = read(directory / f"occupancy_{name}")
        rooms_by_name |= dict(zip(recording.rooms, learnable(recording), strict=True))
    for table in tables:
        TABLES[table](rooms_by_name, models)


def accuracy(rooms_by_name: Mapping[str, Room], models: Sequence[str]) -> None:
    """Print the scores of each model in each setting."""
    offices, uci = (
        [rooms_by_name["917810"], rooms_by_name["999169"]],
        [rooms_by_name["datatraining"], rooms_by_name["datatest"]],
    )
    settings: dict[str, tuple[Rooms, Rooms]] = {
        "same room, 917810, first 16 days to the last 8": halves(rooms_by_name["917810"]),
        "same room, 999169, first 16 days to the last 8": halves(rooms_by_name["999169"]),
        "same room, UCI training to test": ([rooms_by_name["datatraining"]], [rooms_by_name["datatest"]]),
        "other room, 917810 to 999169": (offices[:1], offices[1:]),
        "other room, 999169 to 917810": (offices[1:], offices[:1]),
        "other building, UCI to Windesheim": (uci, offices),
        "other building, Windesheim to UCI": (offices, uci),
    }
    for name, (training, test) in settings.items():
        print(f"\n### {name}\n\n| model | {' | '.join(FIGURES)} |\n|---|" + "---|" * len(FIGURES))
        occupied = truth(test, 60)
        share = occupied.mean()
        print(f"| majority | {max(share, 1 - share):.3f} | 0 | 0 | 0 | 0.5 |")
        for model in models:
            results = [scores(occupied, predict(model, training, test, seed)) for seed in SEEDS]
            print(f"| {model} | " + " | ".join(spread([t[f] for t in results]) for f in FIGURES) + " |", flush=True)


def cost(rooms_by_name: Mapping[str, Room], models: Sequence[str]) -> None:
    """Print each model's parameters and its time from a room's rows to probabilities, on one core."""
    offices = [rooms_by_name["917810"], rooms_by_name["999169"]]
    rows = [Room(offices[0].features[: 59 + n], known(59 + n, n)) for n in AT_ONCE]
    print("\n### What each costs\n\n| model | parameters | us, one window | us a window of 1,000 |\n|---|---|---|---|")
    lstm = fit([offices], OccupancyConfig())
    network_times = laps(lambda source: probabilities(lstm, source), rows)
    for model in models:
        if model == NETWORK:
            parameters, times = lstm.parameters, network_times
        else:
            baseline = fit_baseline(model, offices, 60, FEATURES)
            parameters, times = baseline.parameters, laps(baseline, rows)
        cells = [f"{1e6 * t / n:.3g} ({t / of:.2f})" for t, of, n in zip(times, network_times, AT_ONCE, strict=True)]
        print(f"| {model} | {parameters:,} | {' | '.join(cells)} |", flush=True)


def sensors(rooms_by_name: Mapping[str, Room], models: Sequence[str]) -> None:
    """Print the scores of the network with subsets of the sensors."""
    offices = [rooms_by_name["917810"], rooms_by_name["999169"]]
    print(
        "\n### What each sensor is worth (F1, AUROC)\n\n| sensors | 917810 to 999169 | 999169 to 917810 |\n|---|---|---|"
    )
    for name, features in SUBSETS.items():
        cells = []
        for one, other in ((0, 1), (1, 0)):
            occupied = truth([offices[other]], 60)
            results = [scores(occupied, network([offices[one]], [offices[other]], features, seed)) for seed in SEEDS]
            cells.append(" ".join(spread([t[figure] for t in results]) for figure in ("f1", "auroc")))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def tuned(rooms_by_name: Mapping[str, Room], models: Sequence[str]) -> None:
    """Print the gain of a search in a simulated building, by leaving out its rooms in turn, there and in real rooms."""
    offices = [rooms_by_name["917810"], rooms_by_name["999169"]]
    building = [sparse(room) for room in learnable(recorded("sim", rooms=16, seed=0))]
    print(
        f"\n### Searched in a simulated building, {TRIALS} trials (F1)\n\n"
        "| model | simulated rooms | 917810 to 999169 | 999169 to 917810 | settings |\n|---|---|---|---|---|"
    )
    for model in (m for m in models if m == NETWORK or m in BASELINE_SPACES):
        trials = searched(model, building)
        for label, trial in (("", trials[0]), (", searched", best(trials))):
            cells = [f"{trial.f1:.3f}"]
            for one, other in ((0, 1), (1, 0)):
                occupied = truth([offices[other]], 60)
                predictions = [predict(model, [offices[one]], [offices[other]], seed, trial.settings) for seed in SEEDS]
                cells.append(spread([scores(occupied, p)["f1"] for p in predictions]))
            settings = ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
            print(f"| {model}{label} | {' | '.join(cells)} | {settings} |", flush=True)


TABLES = {"accuracy": accuracy, "cost": cost, "sensors": sensors, "tuned": tuned}


def learnable(recording: Recording) -> list[Room]:
    return rooms(labelled(minutes(recording), recording.truth), FEATURES)


def searched(model: str, building: Rooms) -> list[Trial]:
    config = OccupancyConfig()

    def report(trial: Trial) -> None:
        print(f"{model}, trial {trial.number}: {trial.f1:.3f}", file=sys.stderr, flush=True)

    if model == NETWORK:
        return search([building], config, Recipe(), trials=TRIALS, callback=report)
    return search_baseline(model, [building], config, trials=TRIALS, callback=report)


def predict(model: str, training: Rooms, test: Rooms, seed: int, settings: Settings | None = None) -> np.ndarray:
    if model == NETWORK:
        return network(training, test, FEATURES, seed, settings)
    return fit_baseline(model, training, 60, FEATURES, seed=seed, settings=settings)(test)


def network(
    training: Rooms, test: Rooms, features: Sequence[str], seed: int, settings: Settings | None = None
) -> np.ndarray:
    config, recipe = apply_settings(OccupancyConfig(features=tuple(features)), Recipe(), settings or {})
    return probabilities(fit([only(training, features)], config, recipe, seed=seed), only(test, features))


def sparse(room: Room) -> Room:
    is_kept = torch.arange(len(room.occupied)) % SPARSE == 0
    return Room(room.features, torch.where(is_kept, room.occupied, torch.nan))


def known(rows: int, last: int) -> torch.Tensor:
    """Return a ground truth that is known for the last rows only."""
    return torch.where(torch.arange(rows) >= rows - last, 0.0, torch.nan)


def only(source: Rooms, features: Sequence[str]) -> list[Room]:
    columns = [FEATURES.index(name) for name in features]
    return [Room(room.features[:, columns], room.occupied) for room in source]


def halves(room: Room) -> tuple[Rooms, Rooms]:
    cut = 16 * 1440
    return [Room(room.features[:cut], room.occupied[:cut])], [Room(room.features[cut:], room.occupied[cut:])]


def scores(occupied: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return metrics(occupied, probability >= OccupancyConfig().threshold, probability)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def laps(model: Callable[[Rooms], object], rows: Rooms) -> list[float]:
    """Return seconds of processor time per room: the minimum of fifty runs, which other processes disturb the least."""
    minimums = []
    for room in rows:
        times = []
        for _ in range(50):
            started = time.process_time()
            model([room])
            times.append(time.process_time() - started)
        minimums.append(min(times))
    return minimums


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", choices=TABLES, help="repeatable; all if left out")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable; all if left out")
    args = parser.parse_args()
    main(args.directory, args.only or list(TABLES), args.model or MODELS)
