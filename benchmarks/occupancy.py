"""Compare models of room occupancy in buildings that they were not trained on, in later days of the same room, and with labels of
two days; with their cost, the value of each sensor, and the gain of a search for settings.

`python -m benchmarks.occupancy DIR [--only TABLE]` prints the tables of docs/occupancy.md. DIR must contain `occupancy_uci`,
`occupancy_windesheim`, `occupancy_sdu` and `occupancy_robod`. Set OMP_NUM_THREADS=1, so that all models run on one core. All models
also see a simulated building. All models use the shipped model's threshold, so that nothing is chosen on test data.
Settings are searched in a simulated building.

ROBOD's sensors are eight hours ahead of its counts, as sound and CO2 show alike; they are moved.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from tocsin.models.occupancy.baselines import BASELINES, fit_baseline
from tocsin.models.occupancy.calibration import Day, calibrate, held
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.data import Recording, read
from tocsin.models.occupancy.domain import recorded
from tocsin.models.occupancy.evaluate import empty_days, metrics
from tocsin.models.occupancy.features import OTHERS
from tocsin.models.occupancy.plain import CLOCK_ONLY, LOGISTIC, Plain
from tocsin.models.occupancy.search import BASELINE_SPACES, Trial, apply_settings, best, search, search_baseline
from tocsin.models.occupancy.train import Recipe, Room, fit, labelled, probabilities, rooms, truth
from tocsin.pipelines.occupancy import minutes

SEEDS = range(3)
TRIALS = 20
SPARSE = 5
"""The search, boosting and regression train on every `SPARSE`-th minute, since adjacent minutes are very similar."""
AT_ONCE = (1, 1000)
"""Numbers of windows per timed call."""
MOVED = {"robod": 8}
"""Hours by which a recording's sensors are moved."""
BUILDINGS = ("uci", "windesheim", "sdu", "robod")
NETWORK, BLEND = "LSTM with attention", "blend of the three"
LEARNED = ("logistic regression", "gradient boosting")
MODELS = (*BASELINES, NETWORK)
CONFIG = OccupancyConfig()
FIRST = 0.6
"""Share of a room's days that come before the later ones."""
LONG = 14
"""Days of the rooms that are split into earlier and later ones."""
Rooms = Sequence[Room]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Building:
    """The labelled minutes of a recording's rooms, with all features."""

    name: str
    table: pl.DataFrame

    def rooms(self, features: Sequence[str] = CONFIG.features) -> list[Room]:
        return rooms(self.table, features)

    def names(self) -> list[str]:
        return [str(name) for name in self.table["room"].unique().sort()]

    def of(self, room: str) -> Building:
        return replace(self, table=self.table.filter(pl.col("room") == room))

    def days(self) -> list[Any]:
        return list(self.table["day"].unique().sort())

    def between(self, first: float, last: float) -> Building:
        """The part of its days between two shares of their number."""
        days = self.days()
        part = days[round(first * len(days)) : round(last * len(days))]
        return replace(self, table=self.table.filter(pl.col("day").is_in(part)))

    def judged(self) -> pl.DataFrame:
        """The minutes of `probabilities`."""
        window = pl.int_range(pl.len()).over("room") >= CONFIG.window - 1
        return self.table.filter(window & pl.col("occupied").is_not_null())


def main(directory: Path, tables: Sequence[str], models: Sequence[str]) -> None:
    torch.set_num_threads(1)
    buildings = {
        name: building(name, moved(read(directory / f"occupancy_{name}"), MOVED.get(name, 0))) for name in BUILDINGS
    }
    buildings["sim"] = building("sim", recorded("sim", rooms=16, seed=0))
    for table in tables:
        TABLES[table](buildings, models)


def building(name: str, recording: Recording) -> Building:
    table = labelled(minutes(recording), recording.truth).sort("room", "time")
    return Building(name, table.with_columns(recording=pl.lit(name)))


def moved(recording: Recording, hours: int) -> Recording:
    """A recording whose sensors are moved by some hours against the truth."""
    return replace(recording, events=recording.events.with_columns(pl.col("time") + hours * 3_600_000))


def left_out(buildings: Mapping[str, Building]) -> Iterator[tuple[Building, list[Building]]]:
    """Each real building, and all others with the simulated one."""
    for name in BUILDINGS:
        yield buildings[name], [other for other in buildings.values() if other.name != name]


def by_building(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print the F1 of each model in the rooms of each building that is left out, and minutes on days without anyone."""
    names = [CLOCK_ONLY, f"{LOGISTIC}, raw air", *(f"{name}, features" for name in LEARNED), NETWORK, BLEND]
    print(
        f"\n### F1 in a building that is left out\n\n| building, room | {' | '.join(names)} | empty day |\n|---|"
        + "---|" * 7
    )
    for test, training in left_out(buildings):
        for room, found in _all_models(test, training, names).items():
            part = test.of(room)
            judged = part.judged()
            occupied = judged["occupied"].to_numpy()
            cells = [spread([scores(occupied, p)["f1"] for p in found[name]]) for name in names]
            days = [empty_days(judged.with_columns(predicted=held(p, CONFIG.threshold))) for p in found[NETWORK]]
            print(f"| {test.name}, {room} | {' | '.join(cells)} | {np.mean(days):.0f} min |", flush=True)


def _all_models(
    test: Building, training: Sequence[Building], names: Sequence[str]
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Each room's probabilities by each model, a list of one for each seed."""
    plain = Plain.fit(pl.concat([each.table for each in training]))
    learned = {
        name: fit_baseline(name, [sparse(room) for each in training for room in each.rooms()], 60, CONFIG.features)
        for name in LEARNED
    }
    networks = [fit([each.rooms() for each in training], CONFIG, Recipe(), seed=seed) for seed in SEEDS]
    found = {}
    for name in test.names():
        part = test.of(name)
        plain_found, room = plain.predict(part.judged()), part.rooms()
        by_learned = [learned[model](room) for model in LEARNED]
        by_network = [probabilities(network, room).astype(np.float64) for network in networks]
        blends = [_sigmoid(np.mean([_logit(p) for p in (*by_learned, each)], axis=0)) for each in by_network]
        values = [[plain_found[CLOCK_ONLY]], [plain_found[LOGISTIC]], *([p] for p in by_learned), by_network, blends]
        found[name] = dict(zip(names, values, strict=True))
    return found


def later(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print the F1 in the later days of rooms whose earlier days were trained on, too; plain models know the room alone."""
    print(
        f"\n### F1 in later days of the same room\n\n| room | clock of the room | its {LOGISTIC} | {NETWORK} |\n|---|---|---|---|"
    )
    for test, training in left_out(buildings):
        for name in test.names():
            whole = test.of(name)
            if len(whole.days()) < LONG:
                continue
            first, last = whole.between(0, FIRST), whole.between(FIRST, 1)
            judged = last.judged()
            occupied, plain = judged["occupied"].to_numpy(), Plain.fit(first.table).predict(judged)
            sources = [each.rooms() for each in (*training, first)]
            by_network = [probabilities(fit(sources, CONFIG, Recipe(), seed=seed), last.rooms()) for seed in SEEDS]
            cells = [
                spread([scores(occupied, p)["f1"] for p in each])
                for each in ([plain[CLOCK_ONLY]], [plain[LOGISTIC]], by_network)
            ]
            print(f"| {test.name}, {name} | {' | '.join(cells)} |", flush=True)


def labels(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print the F1 with two labelled workdays of each room, mean over the pairs of successive ones, on all other days."""
    print(
        "\n### F1 with two days of labels\n\n| room | without | with | pairs whose threshold changes |\n|---|---|---|---|"
    )
    for test, training in left_out(buildings):
        network = fit([each.rooms() for each in training], CONFIG, Recipe(), seed=0)
        for name in test.names():
            part = test.of(name)
            judged = part.judged().with_columns(p=pl.Series(probabilities(network, part.rooms()).astype(np.float64)))
            by_day = {
                key: Day(day["p"].to_numpy(), day["occupied"].to_numpy())
                for (key,), day in judged.filter(pl.col("weekday") < 5)
                .partition_by("day", as_dict=True, maintain_order=True)
                .items()
            }
            results = [
                result
                for pair in zip(by_day, [*by_day][1:], strict=False)
                if (result := _with_labels(judged, by_day, pair))
            ]
            without, given, changed = np.mean(results, axis=0)
            print(
                f"| {test.name}, {name} | {without:.3f} | {given:.3f} | {changed:.0%} of {len(results)} |", flush=True
            )


def _with_labels(
    judged: pl.DataFrame, by_day: Mapping[Any, Day], pair: tuple[Any, Any]
) -> tuple[float, float, float] | None:
    """F1 on the other days without and with a pair's labels, and whether they change the threshold; None if they say too little."""
    try:
        found = calibrate([by_day[day] for day in pair], CONFIG.threshold)
    except ValueError:
        return None
    others = judged.filter(~pl.col("day").is_in(list(pair)))
    occupied, p = others["occupied"].to_numpy(), others["p"].to_numpy()
    figures = [metrics(occupied, held(p, threshold))["f1"] for threshold in (CONFIG.threshold, found.threshold)]
    return figures[0], figures[1], float(found.changes)


def sensors(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print the mean F1 over the rooms of the buildings that are left out, with other sensors beside CO2."""
    print("\n### What other sensors are worth (mean F1 over rooms)\n\n| sensors | F1 |\n|---|---|")
    for added in ((), *((name,) for name in OTHERS), tuple(OTHERS)):
        features = (*CONFIG.features, *(feature for name in added for feature in OTHERS[name]))
        config, results = replace(CONFIG, features=features), list[list[float]]()
        for seed in SEEDS:
            f1s = []
            for test, training in left_out(buildings):
                network = fit([each.rooms(features) for each in training], config, Recipe(), seed=seed)
                for room in test.rooms(features):
                    f1s.append(scores(truth([room], 60), probabilities(network, [room]))["f1"])
            results.append(f1s)
        print(
            f"| CO2{''.join(f', {name}' for name in added)} | {spread([float(np.mean(f)) for f in results])} |",
            flush=True,
        )


def cost(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print each model's parameters and its time from a room's rows to probabilities, on one core."""
    offices = buildings["windesheim"].rooms()
    rows = [Room(offices[0].features[: 59 + n], known(59 + n, n)) for n in AT_ONCE]
    print("\n### What each costs\n\n| model | parameters | us, one window | us a window of 1,000 |\n|---|---|---|---|")
    lstm = fit([offices], CONFIG)
    network_times = laps(lambda source: probabilities(lstm, source), rows)
    for model in models:
        if model == NETWORK:
            parameters, times = lstm.parameters, network_times
        else:
            baseline = fit_baseline(model, offices, 60, CONFIG.features)
            parameters, times = baseline.parameters, laps(baseline, rows)
        cells = [f"{1e6 * t / n:.3g} ({t / of:.2f})" for t, of, n in zip(times, network_times, AT_ONCE, strict=True)]
        print(f"| {model} | {parameters:,} | {' | '.join(cells)} |", flush=True)


def tuned(buildings: Mapping[str, Building], models: Sequence[str]) -> None:
    """Print the gain of a search in a simulated building, by leaving out its rooms in turn, there and in real rooms."""
    offices = buildings["windesheim"].rooms()
    simulated = [sparse(room) for room in buildings["sim"].rooms()]
    print(
        f"\n### Searched in a simulated building, {TRIALS} trials (F1)\n\n"
        "| model | simulated rooms | 917810 to 999169 | 999169 to 917810 | settings |\n|---|---|---|---|---|"
    )
    for model in (m for m in models if m == NETWORK or m in BASELINE_SPACES):
        trials = searched(model, simulated)
        for label, trial in (("", trials[0]), (", searched", best(trials))):
            cells = [f"{trial.f1:.3f}"]
            for one, other in ((0, 1), (1, 0)):
                occupied = truth([offices[other]], 60)
                predictions = [predict(model, [offices[one]], [offices[other]], seed, trial.settings) for seed in SEEDS]
                cells.append(spread([scores(occupied, p)["f1"] for p in predictions]))
            settings = ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
            print(f"| {model}{label} | {' | '.join(cells)} | {settings} |", flush=True)


TABLES = {"buildings": by_building, "later": later, "labels": labels, "sensors": sensors, "cost": cost, "tuned": tuned}


def searched(model: str, simulated: Rooms) -> list[Trial]:

    def report(trial: Trial) -> None:
        print(f"{model}, trial {trial.number}: {trial.f1:.3f}", file=sys.stderr, flush=True)

    if model == NETWORK:
        return search([simulated], CONFIG, Recipe(), trials=TRIALS, callback=report)
    return search_baseline(model, [simulated], CONFIG, trials=TRIALS, callback=report)


def predict(model: str, training: Rooms, test: Rooms, seed: int, settings: Settings | None = None) -> np.ndarray:
    if model != NETWORK:
        return fit_baseline(model, training, 60, CONFIG.features, seed=seed, settings=settings)(test)
    config, recipe = apply_settings(CONFIG, Recipe(), settings or {})
    return probabilities(fit([training], config, recipe, seed=seed), test)


def sparse(room: Room) -> Room:
    is_kept = torch.arange(len(room.occupied)) % SPARSE == 0
    return Room(room.features, torch.where(is_kept, room.occupied, torch.nan))


def known(rows: int, last: int) -> torch.Tensor:
    """Return a ground truth that is known for the last rows only."""
    return torch.where(torch.arange(rows) >= rows - last, 0.0, torch.nan)


def scores(occupied: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return metrics(occupied, probability >= CONFIG.threshold, probability)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values):.3f}" if len(values) > 1 else "")


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


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
