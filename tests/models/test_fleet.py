"""The simulated fleet: its physics, its determinism, and the predictions of the model trained on NASA's engines."""

from itertools import islice, pairwise

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.rul.data import CMAPSS_COLUMNS, lives
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.simulation.fleet import live, run_to_failure

SEEDS = (11, 12, 13)  # fixed before the fleet was tuned


def test_every_engine_runs_from_its_first_cycle_to_failure() -> None:
    table = run_to_failure(engines=30, seed=11)
    assert tuple(table.columns) == (*CMAPSS_COLUMNS, "rul")
    assert table.schema["unit"] == table.schema["cycle"] == table.schema["rul"] == pl.Int64
    assert all(table.schema[name] == pl.Float64 for name in CMAPSS_COLUMNS[2:])
    for _, engine in table.group_by("unit"):
        assert engine["cycle"].to_list() == list(range(1, len(engine) + 1))
        assert engine["rul"].to_list() == list(range(len(engine) - 1, -1, -1))
    assert table["unit"].unique().to_list() == list(range(1, 31))


def test_the_seed_decides_everything() -> None:
    assert run_to_failure(engines=5, seed=11).equals(run_to_failure(engines=5, seed=11))
    assert not run_to_failure(engines=5, seed=11).equals(run_to_failure(engines=5, seed=12))
    flights = [pl.concat(islice(live(engines=5, seed=11), 300)) for _ in range(2)]
    assert flights[0].equals(flights[1])


def test_lives_are_spread_like_those_of_real_turbofans() -> None:
    lives = run_to_failure(engines=2000, seed=11).group_by("unit").len()["len"].to_numpy()
    assert 195 < lives.mean() < 218  # FD001: 206
    assert 38 < lives.std() < 54  # FD001: 46
    assert lives.min() > 60
    assert lives.max() < 450


def test_wear_shows_as_hotter_gas_lower_pressure_and_more_fuel_burnt() -> None:
    table = run_to_failure(engines=200, seed=11)
    new, worn = table.filter(pl.col("cycle") <= 10).mean(), table.filter(pl.col("rul") < 10).mean()
    for sensor in ("s2", "s3", "s4", "s8", "s11", "s13", "s15", "s17"):
        assert worn[sensor][0] > new[sensor][0], sensor
    for sensor in ("s7", "s12", "s20", "s21"):
        assert worn[sensor][0] < new[sensor][0], sensor
    for sensor in ("s1", "s5", "s10", "s16", "s18", "s19"):
        assert table[sensor].n_unique() == 1, sensor


def test_core_speed_tells_the_two_losses_apart() -> None:
    table = run_to_failure(engines=200, seed=11)
    drift = (
        table.group_by("unit")
        .agg(pl.col("s14").filter(pl.col("rul") < 10).mean() - pl.col("s14").filter(pl.col("cycle") <= 10).mean())
        .get_column("s14")
    )
    assert drift.min() < -10
    assert drift.max() > 90


def test_a_live_fleet_flies_interleaved_and_replaces_what_fails() -> None:
    frames = list(islice(live(engines=20, seed=11), 300))
    assert all(len(frame) == 20 for frame in frames)
    table = pl.concat(frames)
    for _, engine in table.group_by("unit", maintain_order=True):
        assert engine["cycle"].diff().drop_nulls().eq(1).all()
        assert engine["rul"].diff().drop_nulls().eq(-1).all()
    gone = table.group_by("unit").agg(pl.col("rul").min())
    assert gone.filter(pl.col("rul") == 0)["unit"].max() > 20  # a replacement has failed, too
    for frame, following in pairwise(frames):
        failed = frame.filter(pl.col("rul") == 0)["unit"].to_list()
        assert not set(failed) & set(following["unit"])
        fresh = following.filter(~pl.col("unit").is_in(frame["unit"].implode()))
        assert fresh["cycle"].to_list() == [1] * len(failed)
        assert fresh["unit"].to_list() == list(range(frame["unit"].max() + 1, frame["unit"].max() + 1 + len(failed)))


@pytest.mark.parametrize("engines", [1, 8, 100])
def test_a_live_fleet_starts_staggered_with_one_engine_close_to_failure(engines: int) -> None:
    start = next(live(engines=engines, seed=12, soonest=40))
    assert start["rul"].min() == 39
    assert engines == 1 or start["rul"].max() > 100
    assert (start["cycle"] >= 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_shipped_model_makes_sense_on_the_fleet(seed: int) -> None:
    model = load(FD001, "cpu")
    known = lives(run_to_failure(engines=100, seed=seed), model.config)
    predicted, true, engine = model.predict(known)["rul"], known.rul, known.engine

    close = true < 60
    error = (predicted - true)[close]
    rmse = float((error**2).mean().sqrt())
    correlation = float(np.corrcoef(predicted, true.clamp(max=model.config.cap))[0, 1])

    # Score as for C-MAPSS: one row per engine, its record cut at a random moment.
    rng = np.random.default_rng(seed)
    moment = torch.tensor([rng.choice(np.flatnonzero(engine == number)) for number in engine.unique()])
    at_cut = float(((predicted - true.clamp(max=model.config.cap))[moment] ** 2).mean().sqrt())

    rings = torch.zeros(len(known.keys)).index_add(0, engine, (predicted < model.config.critical).float())
    false = float((predicted[true > 75] < model.config.critical).float().mean())
    print(
        f"seed {seed}: RMSE {rmse:.1f} below 60, {at_cut:.1f} at a random moment, correlation {correlation:.3f}, ",
        end="",
    )
    print(f"critical reached by {float((rings > 0).float().mean()):.0%}, falsely in {false:.2%}")

    assert rmse < 16
    assert at_cut < 20
    assert correlation > 0.9
    assert (rings > 0).float().mean() >= 0.97
    assert false < 0.001
