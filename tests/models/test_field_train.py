"""Training of field models: scenes, a seed gives the same model, calibration, figures, recordings and the command's choice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.field.config import FieldConfig
from tocsin.models.field.evaluate import IDW, WITHIN, baselines, coverage, ratio, rmse
from tocsin.models.field.hall import KINDS, Hall
from tocsin.models.field.model import FieldModel, load
from tocsin.models.field.network import FieldNetwork, NetworkSize
from tocsin.models.field.readings import load as read
from tocsin.models.field.readings import scenes as recorded
from tocsin.models.field.scenes import Scene, draw, simulated
from tocsin.models.field.simulation.feed import simulate, usual_halls
from tocsin.models.field.train import Recipe, calibrate, candidate, fit, score, together, train, trials

SMALL = FieldConfig(size=NetworkSize(channels=2, scalars=8, heads=2, early=1, late=1, sources=2))
QUICK = Recipe(steps=40, batch=4, places=8, learning_rate=5e-3)


def test_scenes_are_the_same_for_a_seed_and_a_draw_hides_what_it_asks_for() -> None:
    scenes = simulated(4, 2)
    assert [scene.values.tolist() for scene in scenes] == [scene.values.tolist() for scene in simulated(6, 2)[:4]]
    drawn = draw(scenes, [5, 6, 7, 8], 30, np.random.default_rng(0))
    assert (~drawn.inputs.readings.isnan()).sum(1).tolist() == [5, 6, 7, 8]
    assert drawn.inputs.kind.tolist() == [0, 1, 0, 1] and drawn.truth.shape == (4, 30)
    for row in range(4):
        own = {(x, y) for x, y in drawn.inputs.sensors[row, : 5 + row].tolist()}
        assert len(own) == 5 + row and not own & {(x, y) for x, y in drawn.inputs.places[row].tolist()}


def test_a_small_scene_keeps_a_place_to_ask_for() -> None:
    hall = Hall.of("h", {"kind": "signal", "outline": [[0, 0], [9, 0], [9, 9]]})
    few = Scene(hall, np.array([[8.0, 1], [8, 2], [8, 3]]), np.array([1.0, 2, 3]), 0.0)
    drawn = draw([few, *simulated(1, 0)], [6, 6], 4, np.random.default_rng(0))
    assert (~drawn.truth.isnan()).sum(1).tolist() == [1, 4] and (~drawn.inputs.readings.isnan()).sum(1).tolist() == [
        2,
        6,
    ]
    assert set(drawn.truth[0][:1].tolist()) < {1.0, 2.0, 3.0}


def test_training_lowers_the_loss_and_a_seed_gives_the_same_model() -> None:
    scenes, losses = simulated(12, 0), list[float]()
    model = fit(scenes, SMALL, QUICK, seed=1, progress=lambda _, loss: losses.append(loss))
    again = fit(scenes, SMALL, QUICK, seed=1)
    weights = (each.network.state_dict() for each in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(*(each.values() for each in weights), strict=True))
    assert len(losses) == 40 and np.mean(losses[-10:]) < np.mean(losses[:10])
    with pytest.raises(ValueError, match="expected halls with two known places at least, got fewer"):
        fit([replace(scenes[0], places=scenes[0].places[:1], values=scenes[0].values[:1])], SMALL, QUICK, seed=1)


def test_calibration_makes_the_spread_hold_nine_in_ten_and_picks_the_best_power() -> None:
    drawn = trials(simulated(8, 3), seed=3)
    torch.manual_seed(0)
    model = FieldModel(SMALL, FieldNetwork(kind="geometric", size=SMALL.size), torch.device("cpu"))
    fitted = calibrate(model, drawn)
    assert calibrate(fitted, drawn).config == fitted.config
    found, truth, kind = together(drawn, fitted)
    for number in range(len(KINDS)):
        own = kind == number
        assert coverage(found["model"][own], found["spread"][own], truth[own]) == pytest.approx(0.9, abs=0.01)
    figures, best = score(fitted, drawn), rmse(found[IDW], truth, kind)
    assert figures["coverage"] == pytest.approx(0.9, abs=0.01)
    for power in (1.0, 2.0):
        worse = torch.cat([baselines(each.inputs, [power] * 2)[IDW] for each in drawn.values()])
        assert rmse(worse, truth, kind)["error"] >= best["error"]


def test_figures_are_those_of_the_known_places() -> None:
    truth = torch.tensor([[0.0, 8.0], [0.0, math.nan]])
    estimate, kind = torch.tensor([[8.0, 8.0], [4.0, 3.0]]), torch.tensor([0, 1])
    figures = rmse(estimate, truth, kind)
    assert figures["rmse_signal"] == pytest.approx(8 / math.sqrt(2)) and figures["rmse_temperature"] == 4
    assert figures["error"] == pytest.approx(math.sqrt(2 / 3))
    alone = rmse(estimate[:1], truth[:1], kind[:1])
    assert math.isnan(alone["rmse_temperature"]) and ratio(alone, alone) == 1
    assert coverage(estimate, torch.full_like(estimate, 4 / WITHIN), truth) == pytest.approx(2 / 3)


def test_the_outcome_is_a_candidate_that_is_judged_by_its_error(tmp_path: Path) -> None:
    held = trials(simulated(4, 1), seed=1)
    outcome = train(simulated(8, 0), held, SMALL, QUICK, seed=0)
    outcome.model.save(tmp_path)
    made = candidate(outcome, tmp_path)
    assert made.score == outcome.score == outcome.figures["validation_error"] and made.lower
    own, other = made.against(tmp_path)
    assert own == pytest.approx(other) and all(each.isfinite().all() for each in made.outputs())
    assert load(tmp_path, "cpu").config.widen == outcome.model.config.widen


def test_a_recording_is_a_scene_a_minute_of_the_sensors_that_read(tmp_path: Path) -> None:
    hall = usual_halls()[1]
    plan = [f'[{hall.name}]\nkind = "{hall.kind}"\noutline = {hall.outline.tolist()}\n[{hall.name}.sensors]']
    (tmp_path / "halls.toml").write_text("\n".join([*plan, *(f"{n} = {[*at]}" for n, at in hall.sensors.items())]))
    with pytest.raises(
        FileNotFoundError, match="expected CSV files with the columns hall, sensor, time, value, got none"
    ):
        read(tmp_path)
    table = simulate(hall, minutes=3, seed=0)
    few = table.filter((pl.col("time") % 180_000 < 120_000) | pl.col("sensor").is_in(["s00", "s01", "s02"]))
    few.write_csv(tmp_path / "hall.csv")
    halls, readings = read(tmp_path)
    assert readings.rows() == few.rows() and halls[hall.name].sensors == hall.sensors
    scenes, left_out = recorded(halls, readings)
    assert len(scenes) == 2 and left_out == 1 and scenes[0].noise == 0
    first = few.filter(pl.col("time") < few["time"].min() // 60_000 * 60_000 + 60_000)  # type: ignore[operator]
    means = dict(first.group_by("sensor").agg(pl.col("value").mean()).rows())
    places = {hall.sensors[sensor]: value for sensor, value in means.items()}
    assert {(x, y): v for (x, y), v in zip(scenes[0].places.tolist(), scenes[0].values, strict=True)} == pytest.approx(
        places
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("attic,s00,2026-01-01T00:00:00Z,1", "line 2, column 'hall': expected a hall of halls.toml, got 'attic'"),
        ("sim-001,s99,2026-01-01T00:00:00Z,1", "line 2, column 'sensor': expected a sensor of halls.toml, got 's99'"),
        ("sim-001,s00,noon,1", "line 2, column 'time': expected a time such as 2026-01-31 12:00:00"),
        ("sim-001,s00,2026-01-01T00:00:00Z,warm", "line 2, column 'value': expected a finite number, got 'warm'"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_place(row: str, reason: str, tmp_path: Path) -> None:
    plan = '[sim-001]\nkind = "temperature"\noutline = [[0, 0], [9, 0], [9, 9]]\n[sim-001.sensors]\ns00 = [8, 2]\n'
    (tmp_path / "halls.toml").write_text(plan)
    (tmp_path / "hall.csv").write_text(f"hall,sensor,time,value\n{row}\n")
    with pytest.raises(ValueError, match=f"hall.csv, {reason}"):
        read(tmp_path)
