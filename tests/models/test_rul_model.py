"""The stored model: the same predictions after loading, in any batch split and as a stream; its domain; its published figures."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from tests.models.test_rul_network import KINDS, SIZE
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives, read_cmapss
from tocsin.models.rul.evaluate import EARLIER, UNFAILED, evaluate, metrics
from tocsin.models.rul.model import FD001, WEIGHTS, Parts, RulModel, load
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.operators.fading import keeps
from tocsin.pipelines.cli.app import app

REPOSITORY = Path(__file__).parents[2]
CMAPSS_DATA = Path(os.environ.get("TOCSIN_DATA", REPOSITORY.parent / "shared" / "data")) / "cmapss"
CONFIG = RulConfig(
    key="unit", order="cycle", features=("a", "b"), settings=("load",), regimes=2, network=SIZE, spans=(2, 9), window=6
)


def table(units: int = 4, cycles: int = 40) -> pl.DataFrame:
    """Units whose sensors have other levels at load 0 than at load 1, and wear."""
    torch.manual_seed(5)
    rows = []
    for unit in range(1, units + 1):
        for cycle in range(1, cycles + 1):
            load = (unit + cycle) % 2
            a, b = torch.randn(2).tolist()
            rows.append((unit, cycle, float(load), 600 + 50 * load + 0.5 * a + cycle / 20, 0.02 + load + 3e-4 * b))
    return pl.DataFrame(rows, schema=["unit", "cycle", "load", "a", "b"], orient="row")


def small(kind: str) -> RulModel:
    """An untrained model, scaled to `table()`."""
    torch.manual_seed(0)
    config = replace(CONFIG, model=kind)
    parts = Parts(config)
    parts.scaling = Scaling.fit(lives(table(), config), settings=1, regimes=2)
    return RulModel(config, parts, torch.device("cpu"))


def streamed(model: RulModel, known: Lives) -> dict[str, Tensor]:
    """Predict every row of some lives from what a stream would pass on."""
    config, scaling = model.config, model.parts.scaling
    if config.model != "fading":
        padded = torch.full((len(known), config.window, len(config.columns)), torch.nan)
        for row, place in enumerate(known.place.tolist()):
            count = min(place + 1, config.window)
            padded[row, -count:] = known.rows[row + 1 - count : row + 1].float()
        return model(padded, known.age)
    regime, keep = scaling.regime(known.rows), keeps((*config.spans, math.inf))
    sums = torch.zeros(len(known), config.regimes, len(config.steps), len(config.features) + 1, dtype=torch.float64)
    for row, place in enumerate(known.place.tolist()):
        if place:
            sums[row] = sums[row - 1] * keep.unsqueeze(-1)
        sums[row, regime[row]] += torch.cat([known.rows[row, len(config.settings) :], torch.ones(1)])
    return model(sums, known.rows, known.age)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_predicts_bit_for_bit_the_same(tmp_path: Path, kind: str) -> None:
    model = small(kind)
    model.save(tmp_path / "new")
    again = load(tmp_path / "new", device="cpu")
    assert again.config == model.config
    known = lives(table(), CONFIG)
    for name, value in model.predict(known).items():
        assert torch.equal(value, again.predict(known)[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_judged_as_a_table_is(kind: str) -> None:
    model, known = small(kind), lives(table(), CONFIG)
    offline, stream = model.predict(known), streamed(model, known)
    for name in ("rul", "rul_low", "rul_high"):
        torch.testing.assert_close(stream[name], offline[name], atol=2e-2, rtol=0)
    assert torch.equal(stream["in_domain"], offline["in_domain"])
    assert (stream["explanation"].int() - offline["explanation"].int()).abs().max() <= 1
    assert offline["explanation"].shape == (len(known), len(model.config.steps) * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_judges_any_batch_split_alike_and_an_empty_batch(kind: str) -> None:
    model, known = small(kind), lives(table(), CONFIG)
    whole = model.predict(known)
    for size in (1, 7):
        for name, value in model.predict(known, batch=size).items():
            assert (value.float() - whole[name].float()).abs().max() <= (1 if name == "explanation" else 1e-3)
    assert (whole["rul_low"] <= whole["rul"]).all() and (whole["rul"] <= whole["rul_high"]).all()
    assert ((whole["rul"] >= 0) & (whole["rul"] <= model.config.cap)).all()
    none = streamed(model, known.of(torch.tensor([], dtype=torch.int64)))
    assert {name: len(value) for name, value in none.items()} == dict.fromkeys(whole, 0)


def test_the_shipped_model_judges_a_stream_as_a_table() -> None:
    model = load(device="cpu")
    known = lives(run_to_failure(engines=2, seed=3), model.config)
    offline, stream = model.predict(known), streamed(model, known)
    torch.testing.assert_close(stream["rul"], offline["rul"], atol=5e-2, rtol=0)


def test_the_shipped_model_makes_sense_of_a_life_that_is_known_from_its_middle_on() -> None:
    model = load(device="cpu")
    fleet = run_to_failure(engines=40, seed=3)
    late = lives(fleet.filter(pl.col("cycle") > 120), model.config)
    error = model.predict(late)["rul"] - late.rul.clamp(max=model.config.cap)
    first, rest = error[late.first], error[late.place >= 10]
    assert float(first.square().mean().sqrt()) < 35
    assert float(rest.square().mean().sqrt()) < 20


def test_what_training_has_not_seen_is_out_of_domain_and_its_interval_is_everything() -> None:
    model, rows = small("fading"), table()
    assert model.judge(rows)["in_domain"].all()
    last = rows.tail(1)
    strange = [
        last.with_columns(load=pl.lit(0.4)),  # no such regime
        last.with_columns(a=pl.col("a") + 200),
        last.with_columns(b=pl.lit(-1e300)),
        last.with_columns(cycle=pl.lit(400)),  # far older than any in training
    ]
    for row in strange:
        judged = model.judge(row).row(0, named=True)
        assert not judged["in_domain"]
        assert (judged["rul_low"], judged["rul_high"]) == (0, model.config.cap)
        assert 0 <= judged["rul"] <= model.config.cap


def test_a_single_wrong_reading_does_not_fill_the_memory() -> None:
    model, rows = small("fading"), table(units=1, cycles=40)
    wrong = rows.with_columns(a=pl.when(pl.col("cycle") == 20).then(1e30).otherwise("a"))
    one, other = (model.judge(each) for each in (rows, wrong))
    assert other["in_domain"].to_list() == [cycle != 20 for cycle in range(1, 41)]
    assert abs(other["rul"][-1] - one["rul"][-1]) < model.config.cap / 4


def test_wrong_tensors_are_refused() -> None:
    model = small("recurrent")
    with pytest.raises(ValueError, match=r"window is \[4, 30, 3\], expected \[B, 6, 3\]"):
        model(torch.zeros(4, 30, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="got 2 tensors, expected sums, latest, age"):
        small("fading")(torch.zeros(4, 6, 3), torch.zeros(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_in_bfloat16_agrees_with_the_cpu() -> None:
    cpu, gpu = load(device="cpu"), load(device="auto")
    assert gpu.device.type == "cuda"
    known = lives(run_to_failure(engines=2, seed=3), cpu.config)
    torch.testing.assert_close(gpu.predict(known)["rul"], cpu.predict(known)["rul"], atol=3.0, rtol=0)


def test_shipped_weights_are_small() -> None:
    assert all(path.stat().st_size < 5_000_000 for path in WEIGHTS.rglob("*") if path.is_file())


def test_metrics_are_the_published_ones() -> None:
    figures = metrics(torch.tensor([30.0, 70.0]), torch.tensor([50.0, 50.0]), cap=125)
    assert figures["score"] == pytest.approx(3.66 + 6.39, abs=0.01)
    assert (figures["rmse"], figures["mae"], figures["mean_error"]) == (20, 20, 0)


def test_the_score_has_the_scale_of_the_cap_and_rows_without_a_label_do_not_count() -> None:
    hours = metrics(torch.tensor([30.0, 70.0, 9.0]) * 80, torch.tensor([50.0, 50.0, torch.nan]) * 80, cap=125 * 80)
    cycles = metrics(torch.tensor([30.0, 70.0]), torch.tensor([50.0, 50.0]), cap=125)
    assert hours["score"] == pytest.approx(cycles["score"])
    assert hours["rmse"] == pytest.approx(80 * cycles["rmse"])


@pytest.mark.skipif(not (CMAPSS_DATA / "RUL_FD001.txt").exists(), reason=f"needs C-MAPSS in {CMAPSS_DATA}")
def test_the_shipped_model_reaches_its_figures_on_the_test_engines() -> None:
    scores = evaluate(data=CMAPSS_DATA, model=FD001, device="cpu")
    figures = scores.figures
    assert scores.counted == {"engines": 100, "rows": 100}
    assert scores.left_out == {EARLIER: 13_096 - 100, UNFAILED: 0}
    assert figures["rmse"] <= 11.3
    assert figures["score"] <= 200
    assert figures["rmse_uncapped"] > figures["rmse"]
    assert 0.85 <= figures["coverage"] <= 0.95
    assert scores.in_domain >= 0.98
    assert 3 * figures["rmse"] < scores.best["rmse"] < scores.best["rmse_uncapped"]


@pytest.mark.skipif(not (CMAPSS_DATA / "RUL_FD001.txt").exists(), reason=f"needs C-MAPSS in {CMAPSS_DATA}")
@pytest.mark.parametrize(("subset", "foreign"), [("FD001", False), ("FD002", True), ("FD004", True)])
def test_the_shipped_model_says_which_engines_are_none_of_its_own(tmp_path: Path, subset: str, foreign: bool) -> None:
    (test,) = CMAPSS_DATA.glob(f"test_{subset}.txt*")
    (tmp_path / test.name).symlink_to(test)
    engines = read_cmapss(tmp_path, subset, "test")["unit"].n_unique()
    (tmp_path / f"RUL_{subset}.txt").write_text(
        "60\n" * engines
    )  # not the true ones, which the data lack for two subsets
    command = ["evaluate", "rul", "--data", str(tmp_path), "--subset", subset, "--model", str(FD001)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == (3 if foreign else 0)
    said = done.stderr.splitlines()
    assert len(said) == foreign and all(
        f"of {subset}; train a model on such data, or use --force" in line for line in said
    )
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
