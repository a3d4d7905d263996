"""Who tells best whether a room is occupied: in the same room, in another one, in another building; and what each sensor is worth.

`python -m benchmarks.occupancy DIR` with `occupancy_windesheim` and `occupancy_uci` in DIR; prints the tables of docs/occupancy.md.
Sources are trained on as they are, without a simulator. The threshold is the shipped model's for all, so that nothing is chosen on
what is tested.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from models.occupancy.baselines import BASELINES, fit_baseline
from models.occupancy.config import OccupancyConfig
from models.occupancy.data import read
from models.occupancy.evaluate import metrics
from models.occupancy.features import CLOCK, FEATURES
from models.occupancy.train import Room, fit, labelled, probabilities, rooms, truth
from pipelines.occupancy import minutes

SEEDS = range(5)
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


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for name in ("windesheim", "uci"):
        recording = read(directory / f"occupancy_{name}")
        table = labelled(minutes(recording), recording.truth)
        found |= dict(zip(recording.rooms, rooms(table, FEATURES), strict=True))
    offices, uci = [found["917810"], found["999169"]], [found["datatraining"], found["datatest"]]
    settings: dict[str, tuple[Rooms, Rooms]] = {
        "same room, 917810, first 16 days to the last 8": halves(found["917810"]),
        "same room, 999169, first 16 days to the last 8": halves(found["999169"]),
        "same room, UCI training to test": ([found["datatraining"]], [found["datatest"]]),
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
        for baseline in BASELINES:
            report(baseline, occupied, [fit_baseline(baseline, training, 60, FEATURES, seed=s)(test) for s in SEEDS])
        report("LSTM with attention", occupied, [network(training, test, FEATURES, s) for s in SEEDS])
    print(
        "\n### What each sensor is worth (F1, AUROC)\n\n| sensors | 917810 to 999169 | 999169 to 917810 |\n|---|---|---|"
    )
    for name, features in SUBSETS.items():
        cells = []
        for one, other in ((0, 1), (1, 0)):
            tried = [
                scores(truth([offices[other]], 60), network([offices[one]], [offices[other]], features, s))
                for s in SEEDS
            ]
            cells.append(" ".join(spread([t[figure] for t in tried]) for figure in ("f1", "auroc")))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    windows = offices[0].windows(torch.arange(100, 612), 60)
    model = fit([offices], OccupancyConfig())
    print(
        f"\nLSTM with attention: {model.parameters} parameters, {1e6 * lap(lambda: model(windows)) / len(windows):.0f} us a window"
    )


def network(training: Rooms, test: Rooms, features: Sequence[str], seed: int) -> np.ndarray:
    model = fit([only(training, features)], OccupancyConfig(features=tuple(features)), seed=seed)
    return probabilities(model, only(test, features))


def only(source: Rooms, features: Sequence[str]) -> list[Room]:
    columns = [FEATURES.index(name) for name in features]
    return [Room(room.features[:, columns], room.occupied) for room in source]


def halves(room: Room) -> tuple[Rooms, Rooms]:
    cut = 16 * 1440
    return [Room(room.features[:cut], room.occupied[:cut])], [Room(room.features[cut:], room.occupied[cut:])]


def scores(occupied: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return metrics(occupied, probability >= OccupancyConfig().threshold, probability)


def report(name: str, occupied: np.ndarray, probabilities: list[np.ndarray]) -> None:
    tried = [scores(occupied, p) for p in probabilities]
    print(f"| {name} | " + " | ".join(spread([t[figure] for t in tried]) for figure in FIGURES) + " |", flush=True)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def lap(work: Callable[[], object]) -> float:
    """Seconds, the least of five."""
    took = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
