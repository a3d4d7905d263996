"""A RUL network that reads context: without intervals it is the network without; with them it knows what sensors can't tell."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from tests.models.test_rul_model import CONFIG, small, table
from tests.models.test_rul_network import KINDS, config, inputs
from tocsin.models.rul import source
from tocsin.models.rul import train as training
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import lives
from tocsin.models.rul.evaluate import after, evaluate, judged, without_any
from tocsin.models.rul.model import Parts, RulModel, load
from tocsin.models.rul.network import build
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.simulation import maintained
from tocsin.models.rul.train import SIMULATED, Recipe, train

CONTEXT: dict[str, Any] = {"context": ("wash", "load"), "context_numbers": ("load",)}
ABSENT = torch.tensor([math.inf, math.inf, 0, 0])


def slots(rows: int) -> Tensor:
    """Some intervals for each row; the last row has none."""
    found = torch.tensor([[[-9.0, -8, 0, 0], [-3, 20, 1, 1.5], [30, math.inf, 1, 0.5]]]).repeat(rows, 1, 1)
    found[-1] = ABSENT
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_without_intervals_the_network_is_bit_for_bit_the_one_without_context(kind: str) -> None:
    torch.manual_seed(1)
    aware, given = build(config(kind, **CONTEXT)).eval(), inputs(kind)
    plain = build(config(kind)).eval()
    plain.load_state_dict({name: t for name, t in aware.state_dict().items() if "head.context." not in name})
    with torch.no_grad():
        expected = plain(given)
        for none in (torch.zeros(3, 0, 4), ABSENT.expand(3, 5, 4)):
            assert torch.equal(aware(given._replace(slots=none)), expected)
        found = aware(given._replace(slots=slots(3)))
    assert torch.equal(found[2], expected[2])
    assert not torch.isclose(found[:2], expected[:2]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_the_network_learns_and_stays_finite_for_any_interval(kind: str) -> None:
    network = build(config(kind, **CONTEXT))
    far = torch.tensor([[-1e15, 1e15, 0, 0], [-math.inf, -5, 1, 2], [-7, 1e12, 1, 3], [4, 4, 0, 1]])
    found = network(inputs(kind)._replace(slots=far.expand(3, 4, 4)))
    assert found.isfinite().all()
    found.sum().backward()
    learned = [p.grad for name, p in network.named_parameters() if "context" in name]
    assert learned and all(g is not None and g.isfinite().all() and g.any() for g in learned)


def test_the_order_of_the_intervals_does_not_matter() -> None:
    network, given = build(config("fading", **CONTEXT)).eval(), inputs("fading")
    with torch.no_grad():
        found = [network(given._replace(slots=s)) for s in (slots(3), slots(3).flip(1))]
    torch.testing.assert_close(*found)


def test_a_config_that_was_stored_before_context_is_read(tmp_path: Path) -> None:
    small("fading").save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for name in ("context", "context_numbers", "time", "period"):
        del stored[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load(tmp_path, "cpu").config == replace(CONFIG, model="fading")


def test_numbers_without_a_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"context_numbers .* of no kind"):
        replace(CONFIG, context_numbers=("load",))


def aware(kind: str) -> RulModel:
    """An untrained model with context, scaled to `table()`."""
    torch.manual_seed(0)
    own = replace(CONFIG, model=kind, context=("wash", "load"), context_numbers=("power",), period=60.0)
    parts = Parts(own)
    parts.scaling = Scaling.fit(lives(table(), own), settings=1, regimes=2)
    parts.network.get_submodule("head.rul").bias.data += 0.5  # away from 0, where it would be clipped
    return RulModel(own, parts, torch.device("cpu"))


INTERVALS = pl.DataFrame(
    [("1", "load", 0, 900_000, 2.0), ("1", "wash", 605_000, 610_000, None), ("*", "wash", 1_000_000, 1_200_000, None)],
    schema={"asset": pl.String, "kind": pl.String, "from": pl.Int64, "to": pl.Int64, "power": pl.Float64},
    orient="row",
)


def timed() -> pl.DataFrame:
    """`table()` with a cycle a minute."""
    return table().with_columns(time=pl.col("cycle") * 60_000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_with_context_judges_rows_as_it_did(tmp_path: Path, kind: str) -> None:
    model = aware(kind)
    model.save(tmp_path)
    again = load(tmp_path, "cpu")
    assert again.config == model.config
    known = lives(timed(), model.config, intervals=INTERVALS)
    blind = lives(timed(), model.config)
    found, unaware = again.predict(known), again.predict(blind)
    assert torch.equal(found["rul"], model.predict(known)["rul"])
    assert (found["rul"] != unaware["rul"])[: table().height // 4].any(), "the first unit has intervals of its own"


def test_slots_are_in_the_unit_of_the_order_column() -> None:
    known = lives(timed(), aware("fading").config, intervals=INTERVALS)
    present = [
        slot.tolist() for slot in known.slots[9] if not slot[0].isinf()
    ]  # the first unit's tenth row, at minute 10
    expected = [[-10, 5, 1, 2], [5 / 60, 10 / 60, 0, 0], [400 / 60, 10, 0, 0]]
    assert sorted(present) == [pytest.approx(slot, abs=1e-5) for slot in expected]


def test_the_simulated_fleet_is_overhauled_and_lives_longer() -> None:
    readings, intervals = maintained.run_to_failure(engines=40, seed=3)
    assert readings.equals(maintained.run_to_failure(engines=40, seed=3)[0])
    assert {*intervals["kind"]} == {*maintained.KINDS}
    assert (intervals["from"] < intervals["to"]).all()
    known = lives(readings, replace(source.simulated(), period=21_600.0), intervals=intervals)
    is_free, overhauled = without_any(known), after(known, 1, source.simulated())
    assert 0.1 < is_free.float().mean() < 0.5 and overhauled.any()
    assert known.rul[overhauled].mean() > 20
    speed = known.rows[:, 4]  # s3, the compressor's outlet temperature, which wear raises
    first = known.rows[known.age <= 10, 4].mean()
    engine = torch.isin(known.engine, known.engine[overhauled])
    worn = speed[engine & (known.rul < 10)].mean()
    assert first < speed[overhauled].mean() < worn, "an overhaul takes most of the wear away"


def test_a_fleet_in_the_air_announces_each_engines_plan_once() -> None:
    flights = [flight for flight, _ in zip(maintained.live(engines=6, seed=1), range(400), strict=False)]
    announced = pl.concat(plans for _, plans in flights if len(plans))
    assert not announced.select("asset", "kind", "from").is_duplicated().any()
    flown = pl.concat(readings for readings, _ in flights)
    assert not flown.select("unit", "cycle").is_duplicated().any()
    assert flown["unit"].n_unique() > 8, "failed engines were replaced"
    assert {*announced["asset"]} <= {*flown["unit"].cast(pl.String)}


def trained(folder: Path, config: RulConfig, recipe: Recipe) -> RulModel:
    train(data=Path("sim"), out=folder, config=config, recipe=recipe, seed=0)
    return load(folder, "cpu")


def test_a_trained_model_makes_use_of_intervals_and_evaluate_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ENGINES", 20)
    monkeypatch.setattr(training, "EXPLAINED", 512)
    model = trained(tmp_path, source.simulated(), Recipe(epochs=2, folds=0, steps=50, batch=256))
    assert model.config.period == 21_600
    found = evaluate(data=Path("sim"), model=model, csv=True)
    assert found.figures["rmse"] < found.unaware["rmse"] - 2
    assert list(found.context) == ["assets without any", "after wash", "after overhaul", "after load"]
    free = found.context["assets without any"]
    assert free["rmse"] == free["rmse_unaware"], "nothing is withheld from them"
    assert found.context["after overhaul"]["rmse"] < found.context["after overhaul"]["rmse_unaware"]


@pytest.mark.slow
def test_context_removes_half_of_the_error_that_an_overhaul_adds(tmp_path: Path) -> None:
    """The table of docs/rul.md, with one seed."""
    errors, unseen = dict[tuple[str, str], float](), source.runs(Path("sim"), source.simulated(), seed=source.TEST_SEED)
    known = lives(unseen.table, unseen.config, intervals=unseen.intervals)
    for name, own in (("aware", source.simulated()), ("plain", source.simulated().without_context)):
        model = trained(tmp_path / name, own, SIMULATED["fading"])
        rul = model.predict(lives(unseen.table, model.config, intervals=unseen.intervals))["rul"]
        for part, which in (("after", after(known, 1, unseen.config)), ("free", without_any(known))):
            errors[name, part] = judged(rul[which], rul[which], rul[which], known.rul[which], 125)["rmse"]
    extra = errors["plain", "after"] - errors["plain", "free"]
    assert extra > 5
    assert errors["plain", "after"] - errors["aware", "after"] > 0.5 * extra


def test_a_model_with_context_is_refused_without_intervals(tmp_path: Path) -> None:
    own = RulConfig(key="unit", order="cycle", features=("a", "b"), settings=("load",), context=("wash",))
    timed().write_csv(tmp_path / "lives.csv")
    with pytest.raises(FileNotFoundError, match=r"expected intervals of wash, got none; add context\.csv"):
        source.runs(tmp_path, own)
    (tmp_path / "context.csv").write_text("asset,kind,from,to\n1,wash,1970-01-01T00:10:05Z,1970-01-01T00:10:10Z\n")
    found = source.runs(tmp_path, own)
    assert found.config.period == 60
    assert found.intervals is not None and found.intervals.rows() == [("1", "wash", 605_000, 610_000)]
    assert len(found.table) == len(timed())
