"""What missing readings cost, and how well each way of filling them does: errors in gaps, RUL's RMSE, occupancy's F1.

    OMP_NUM_THREADS=1 python -m benchmarks.missing rul --data cmapss --keep trained/missing
    OMP_NUM_THREADS=1 python -m benchmarks.missing occupancy --data uci --data windesheim --data sdu --keep trained/missing

Gaps are opened in recordings: at random, or in blocks of one sensor with a mean length of 20 cycles or 2 hours. A seed is that of
the imputer and of the gaps. RUL: imputers are trained without the engines that are held out. Occupancy: without the building that
is judged, 600 steps; the shipped model, which has seen it, judges.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.models.imputer.gaps import BLOCKS, RANDOM, Gapped, gaps, opened
from tocsin.models.imputer.model import Imputer, load
from tocsin.models.imputer.plain import Nearest, interpolated, last_value, window_mean
from tocsin.models.imputer.train import Fill, Outcome, errors
from tocsin.models.occupancy.data import PROPERTIES, Recording, read
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.imputer import FRESH, RECIPE
from tocsin.models.occupancy.imputer import fit as fit_rooms
from tocsin.models.occupancy.imputer import series as rooms_series
from tocsin.models.occupancy.model import OccupancyModel
from tocsin.models.occupancy.model import load as load_occupancy
from tocsin.models.occupancy.train import labelled
from tocsin.models.rul import imputer as rul_imputer
from tocsin.models.rul.data import Lives, cmapss, lives, read_cmapss, read_cmapss_rul
from tocsin.models.rul.model import WEIGHTS
from tocsin.models.rul.model import load as load_rul
from tocsin.models.rul.split import hold_out
from tocsin.pipelines.occupancy import Air, Held, OccupancyOptions, _grid, _schedules, readings, sensors
from tocsin.pipelines.runtime import Pipeline, replay
from tocsin.pipelines.runtime.stages import Impute, Infer, SlidingWindow

CASES = [(kind, share) for kind in (RANDOM, BLOCKS) for share in (0.1, 0.3, 0.5)]
LENGTHS = {"rul": 20.0, "occupancy": 120.0}
"""Mean rows of a block."""
DAYS = 4
"""Days of each room for which occupancy is judged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=["rul", "occupancy"])
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--subset", default="FD001")
    parser.add_argument(
        "--keep", type=Path, required=True, help="folder of the imputers, trained if they are not there"
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.domain == "rul":
        _rul(Path(args.data[0]), args.subset, args.keep, range(args.seeds))
    else:
        _occupancy([Path(folder) for folder in args.data], args.keep, range(args.seeds))


def _kept(folder: Path, train: Callable[[], Outcome]) -> Imputer:
    """The imputer in a folder, trained first if it is not there."""
    if not folder.exists():
        train().imputer.save(folder)
    return load(folder, "cpu")


def _rul(data: Path, subset: str, keep: Path, seeds: Sequence[int]) -> None:
    config, model = cmapss(subset), load_rul(WEIGHTS / subset.lower(), "cpu")
    known = lives(read_cmapss(data, subset), config)
    held = hold_out(known, 0.2, folds=0)
    training = known.of(torch.tensor([i for i in range(len(known.keys)) if i not in held.tolist()]))
    judged = {"held-out engines": known.of(held)}
    try:
        table = read_cmapss(data, subset, "test")
        judged["test engines"] = lives(table, config, final_rul=read_cmapss_rul(data, subset))
    except FileNotFoundError:
        pass
    found: dict[tuple[str, str, float, str], list[float]] = {}
    for seed in seeds:
        imputer = _kept(keep / f"{subset.lower()}-{seed}", lambda seed=seed: rul_imputer.fit(known, config, seed=seed))
        rows = imputer.levels.standardise(torch.cat(rul_imputer.series(training, config)))[0]
        fills = _fills(imputer, rows)
        print(f"seed {seed}: {imputer.parameters} parameters", flush=True)
        _errors(
            "in a stream",
            rul_imputer.series(judged["held-out engines"], config),
            imputer,
            fills,
            seed,
            LENGTHS["rul"],
            found,
        )
        for name, engines in judged.items():
            for kind, share in CASES:
                data_ = _opened(rul_imputer.series(engines, config), imputer, kind, share, seed, LENGTHS["rul"])
                whole = ~data_.shown.isnan().any(1)
                found.setdefault((f"{name}: share of rows without a gap", kind, share, "off"), []).append(
                    float(whole.float().mean())
                )
                for method, fill in fills.items():
                    rmse = _rmse(_filled(engines, data_, fill, imputer), model, name)
                    found.setdefault((f"{name}: RMSE", kind, share, method), []).append(rmse)
            found.setdefault((f"{name}: RMSE", "no gaps", 0.0, "-"), []).append(_rmse(engines, model, name))
    _print(found)


def _fills(imputer: Imputer, rows: Tensor) -> dict[str, Fill]:
    every = max(1, len(rows) // 1500)
    known = rows[~rows.isnan().all(1)][::every]
    return {
        "last value": last_value,
        "mean of 30 rows": window_mean,
        "k-NN": Nearest(known),
        "network": imputer.at_steps,
    }


def _opened(series: Sequence[Tensor], imputer: Imputer, kind: str, share: float, seed: int, length: float) -> Gapped:
    generator = torch.Generator().manual_seed(100 + seed)
    return opened(series, imputer.levels, kind, share=share, length=length, generator=generator)


def _errors(
    title: str,
    series: Sequence[Tensor],
    imputer: Imputer,
    fills: Mapping[str, Fill],
    seed: int,
    length: float,
    found: dict[tuple[str, str, float, str], list[float]],
    every: int = 5,
) -> None:
    """Errors in standard deviations: of the newest row, and offline of a row in the middle of its window."""
    for kind, share in CASES:
        for method, fill in fills.items():
            given = imputer if method == "network" else fill
            error = errors(given, series, imputer, kind, share=share, length=length, every=every, seed=100 + seed)
            found.setdefault((f"error {title}", kind, share, method), []).append(error)
        data = _opened(series, imputer, kind, share, seed, length)
        parts: dict[str, list[Tensor]] = {}
        half = imputer.config.times // 2
        for rows in torch.arange(0, len(data.first), every).split(1024):
            batch = data.at(rows, imputer.config, ahead=half)
            middle = imputer.config.times - 1 - half
            missing = batch.missing[:, middle]
            truth = batch.truth[:, middle][missing]
            whole = imputer.filled(batch.windows, batch.carried, batch.age)
            given = {
                "last value": data.carried[rows],
                "linear interpolation": interpolated(batch.windows, batch.carried)[:, middle],
                "mean of the window": window_mean(batch.windows, batch.carried, batch.age),
                "k-NN": fills["k-NN"](batch.windows[:, : middle + 1], data.carried[rows], batch.age),
                "network": whole[:, middle],
            }
            for method, filled in given.items():
                parts.setdefault(method, []).append(filled[missing] - truth)
        for method, off in parts.items():
            error = float(torch.cat(off).double().square().mean().sqrt())
            found.setdefault(("error offline", kind, share, method), []).append(error)


def _filled(engines: Lives, data: Gapped, fill: Fill, imputer: Imputer) -> Lives:
    """The lives with the gaps of `data`, filled row by row as in a stream."""
    values = data.shown.clone()
    for rows in data.shown.isnan().any(1).nonzero()[:, 0].split(1024):
        batch = data.at(rows, imputer.config)
        filled = fill(batch.windows, batch.carried, batch.age)
        values[rows] = torch.where(values[rows].isnan(), filled, values[rows])
    regime = imputer.levels.regime(torch.where(data.shown.isnan(), torch.nan, engines.rows))
    restored = imputer.levels.restore(values, regime)
    return replace(engines, rows=torch.where(data.shown.isnan(), restored, engines.rows))


def _rmse(engines: Lives, model: object, name: str) -> float:
    """RMSE, capped: of the last row of each test engine, of all rows of others."""
    found = model.predict(engines)["rul"]  # type: ignore[attr-defined]
    error = found - engines.rul.clamp(max=125)
    error = error[engines.last] if name.startswith("test") else error
    return float(error.double().square().mean().sqrt())


def _occupancy(folders: Sequence[Path], keep: Path, seeds: Sequence[int]) -> None:
    recordings = {folder.name: read(folder) for folder in folders}
    grids = {name: sensors(recording) for name, recording in recordings.items()}
    found: dict[tuple[str, str, float, str], list[float]] = {}
    model = load_occupancy(device="cpu")
    for name, recording in recordings.items():
        others = [other for other in recordings if other != name]
        table = _table(recording)
        for seed in seeds:
            imputer = _kept(
                keep / f"without-{name}-{seed}",
                lambda seed=seed, others=others: fit_rooms(
                    [grids[other] for other in others], recipe=replace(RECIPE, steps=600), seed=seed
                ),
            )
            rows = torch.cat([room for other in others for room in rooms_series(grids[other])])
            fills = _fills(imputer, imputer.levels.standardise(rows)[0])
            print(f"{name}, seed {seed}: {imputer.parameters} parameters", flush=True)
            judged = rooms_series(grids[name])
            _errors(f"in a stream, {name}", judged, imputer, fills, seed, LENGTHS["occupancy"], found, every=29)
            gapped = {(BLOCKS, share, seed): _with_gaps(table, BLOCKS, share, seed) for share in (0.1, 0.3, 0.5)}
            given: dict[str, list[Impute]] = {
                "last value": [],
                "mean of 30 rows": [_impute(window_mean, 30, imputer)],
                "k-NN": [_impute(fills["k-NN"], 1, imputer)],
                "network": [_impute(imputer, imputer.config.rows, imputer)],
            }
            for method, stages in given.items():
                for (kind, share, _), f1 in _f1(gapped, recording, model, stages).items():
                    found.setdefault((f"F1, {name}", kind, share, method), []).append(f1)
        whole = {("no gaps", 0.0, 0): table}
        found[(f"F1, {name}", "no gaps", 0.0, "-")] = [*_f1(whole, recording, model, []).values()]
        _print(found)
        found.clear()


def _impute(fill: Fill, window: int, imputer: Imputer) -> Impute:
    return Impute(PROPERTIES, fill, window=window, levels=imputer.levels, least=0, required=False, fresh=FRESH)


COLUMNS = [f"{p}{part}" for p in PROPERTIES for part in ("", "_mean", "_slope", "_age")]


def _table(recording: Recording) -> pl.DataFrame:
    """The minutes of the first days of each room, as `Resample` gives them."""
    grid = Pipeline(
        name="o",
        topic="t",
        schema=readings(recording).schema,
        key="room",
        event_time="time",
        stages=[_grid("5min")],
        results=pa.schema([("room", pa.string()), *((name, pa.float64()) for name in COLUMNS)]),
    )
    frame, _ = replay(grid, readings(recording))
    frame = frame.select("room", pl.col("event_time").dt.cast_time_unit("ms").alias("time"), *COLUMNS)
    return frame.sort("time", "room").filter(
        pl.col("time") < pl.col("time").min().over("room") + pl.duration(days=DAYS)
    )


def _with_gaps(table: pl.DataFrame, kind: str, share: float, seed: int) -> pl.DataFrame:
    """The same minutes after drop-outs: the last value, without mean and slope, and its age."""
    parts = []
    generator = torch.Generator().manual_seed(200 + seed)
    for room in table.partition_by("room", maintain_order=True):
        out = gaps(len(room), len(PROPERTIES), kind, share=share, length=LENGTHS["occupancy"], generator=generator)
        columns = {}
        for i, p in enumerate(PROPERTIES):
            gone = pl.Series(out[:, i].numpy())
            at = pl.int_range(len(room), eager=True)
            since = at - at.zip_with(~gone, pl.Series([None], dtype=pl.Int64)).forward_fill()
            columns[p] = room[p].zip_with(~gone, pl.Series([None], dtype=pl.Float64)).forward_fill()
            age = room[f"{p}_age"].zip_with(~gone, pl.Series([None], dtype=pl.Float64)).forward_fill() + 60 * since
            columns[f"{p}_age"] = age
            for part in ("_mean", "_slope"):
                columns[p + part] = room[p + part].zip_with(~gone, pl.Series([None], dtype=pl.Float64))
        parts.append(room.with_columns(**columns))
    return pl.concat(parts).sort("time", "room")


Case = tuple[str, float, int]


def _f1(
    tables: Mapping[Case, pl.DataFrame], recording: Recording, model: OccupancyModel, stages: Sequence[Impute]
) -> dict[Case, float]:
    """F1 over all minutes with a known truth, of the published state; the cases run beside each other, as rooms."""
    table = pl.concat(
        frame.with_columns(room=pl.lit(f"{number} ") + pl.col("room")) for number, frame in enumerate(tables.values())
    ).sort("time", "room")
    schema = pa.schema(
        [
            pa.field("room", pa.string(), nullable=False),
            pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
            *(pa.field(name, pa.float64()) for name in COLUMNS),
        ]
    )
    judging = Pipeline(
        name="o",
        topic="t",
        schema=schema,
        key="room",
        event_time="time",
        stages=[
            *stages,
            Air(recording.timezone, _schedules(OccupancyOptions())),
            SlidingWindow(model.config.window, model.config.features),
            Infer(model),
            Held(model.config.threshold, {}),
        ],
        results=pa.schema([("room", pa.string()), ("probability", pa.float32()), ("occupied", pa.bool_())]),
    )
    frame, _ = replay(judging, table.to_arrow().cast(schema))
    verdicts = frame.select("room", "probability", predicted="occupied", time=pl.col("event_time").dt.epoch("ms"))
    scores = {}
    for number, case in enumerate(tables):
        mine = verdicts.filter(pl.col("room").str.starts_with(f"{number} ")).with_columns(
            pl.col("room").str.strip_prefix(f"{number} ")
        )
        known = labelled(mine, recording.truth).drop_nulls("occupied")
        scores[case] = metrics(*(known[c].to_numpy() for c in ("occupied", "predicted", "probability")))["f1"]
    return scores


def _print(found: Mapping[tuple[str, str, float, str], Sequence[float]]) -> None:
    """Tables of mean and spread over the seeds."""
    for title in dict.fromkeys(key[0] for key in found):
        rows = {key: values for key, values in found.items() if key[0] == title}
        methods = dict.fromkeys(key[3] for key in rows)
        print(f"\n{title}\n| gaps | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
        for kind, share in dict.fromkeys(key[1:3] for key in rows):
            cells = []
            for method in methods:
                values = rows.get((title, kind, share, method))
                cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "")
            print(f"| {kind} {share:.0%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
