"""A site's adapter: learned from a few runs, stored with the model, and used for the site's rows alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.progress import Progress

from tests.models.test_rul_model import CONFIG, small, table
from tests.models.test_rul_network import KINDS
from tocsin.models import adapters
from tocsin.models.adaptation import Adapted
from tocsin.models.adapters import ADAPTERS_FILE, SITES_FILE
from tocsin.models.champion import Registrar
from tocsin.models.domain import Adaptation
from tocsin.models.imputer.model import beside
from tocsin.models.rul.adapt import RECIPE, adapt
from tocsin.models.rul.data import Lives, lives
from tocsin.models.rul.domain import Rul
from tocsin.models.rul.model import FD001, RulModel, load
from tocsin.models.rul.simulation import fleet

SHIFTED = {"s4": 25.0, "s11": 0.7, "s12": -2.0}
"""Nearly three standard deviations of three sensors: another build."""
SHORT = replace(RECIPE, epochs=4, steps=10, batch=256)


@cache
def base() -> RulModel:
    return load(FD001, "cpu")


def runs(engines: int, *, seed: int = 11) -> Lives:
    """Runs to failure at a site whose sensors read otherwise."""
    table = fleet.run_to_failure(engines=engines, seed=seed)
    return lives(table.with_columns(pl.col(name) + by for name, by in SHIFTED.items()), base().config)


@cache
def adapted() -> Adapted[RulModel]:
    """The shipped model with the adapters of two sites; the second has been adapted twice."""
    one = adapt(base(), "hall", runs(2, seed=1), recipe=SHORT).model
    two = adapt(one, "yard", runs(2, seed=2), recipe=SHORT).model
    return adapt(two, "hall", runs(3), recipe=SHORT)


def rmse(model: RulModel, known: Lives) -> float:
    found = model.predict(known)["rul"]
    return float((found - known.rul.clamp(max=model.config.cap)).square().mean().sqrt())


def test_a_few_runs_make_a_site_better_within_two_percent_of_the_weights() -> None:
    unseen, model = runs(4, seed=77), adapted().model
    assert rmse(model.at("hall"), unseen) < 0.7 * rmse(base(), unseen)
    assert adapted().size <= 0.02 * base().parameters
    assert adapted().figures["rmse"] < adapted().figures["rmse_shared"]


def test_the_shared_network_and_other_sites_stay_as_they_are() -> None:
    known, model = runs(2, seed=5), adapted().model
    torch.testing.assert_close(model.predict(known), base().predict(known))
    yard = adapt(
        adapt(base(), "hall", runs(2, seed=1), recipe=SHORT).model, "yard", runs(2, seed=2), recipe=SHORT
    ).model
    torch.testing.assert_close(model.at("yard").predict(known), yard.at("yard").predict(known))


def test_rows_of_several_sites_are_judged_in_one_batch_each_by_its_own() -> None:
    model = adapted().model
    torch.manual_seed(0)
    sums, latest = torch.rand(9, 1, 8, 15, dtype=torch.float64), torch.rand(9, 17, dtype=torch.float64)
    scaling = model.scaling
    latest[:, 3:] = scaling.mean[0] + scaling.deviation[0] * (latest[:, 3:] - 0.5)
    sums[..., :14] = latest[:, None, None, 3:] * sums[..., 14:]
    latest[:, :3], age = scaling.centres[0], torch.arange(1.0, 10, dtype=torch.float64)
    site = torch.tensor([0, -1, 1, 1, 0, -1, 0, 1, -1])
    together = model(sums, latest, age, site)
    for number, own in ((0, model.at("hall")), (1, model.at("yard")), (-1, base())):
        rows = site == number
        alone = own(sums[rows], latest[rows], age[rows])
        torch.testing.assert_close({name: value[rows] for name, value in together.items()}, alone, atol=1e-3, rtol=1e-4)
    assert {len(value) for value in model(sums[:0], latest[:0], age[:0], site[:0]).values()} == {0}


def test_a_sites_own_readings_are_in_its_domain() -> None:
    far = fleet.run_to_failure(engines=2, seed=1).with_columns(pl.col("s4") + 80)
    known = lives(far, base().config)
    before = base().predict(known)["in_domain"]
    assert before.float().mean() < 0.9
    model = adapt(base(), "hall", known, recipe=SHORT).model
    assert model.at("hall").predict(known)["in_domain"].all()
    assert torch.equal(model.predict(known)["in_domain"], before)


def test_a_model_with_sites_is_stored_whole_and_its_adapters_go_with_it(tmp_path: Path) -> None:
    model, known = adapted().model, runs(1, seed=5)
    model.save(tmp_path)
    again = load(tmp_path, "cpu")
    assert again.sites and again.sites.names == ("hall", "yard")
    torch.testing.assert_close(again.at("yard").predict(known), model.at("yard").predict(known))
    with pytest.raises(ValueError, match="site shed: expected one of hall, yard, got another"):
        again.at("shed")
    base().save(tmp_path)
    assert not (tmp_path / SITES_FILE).exists() and not (tmp_path / ADAPTERS_FILE).exists()
    assert load(tmp_path, "cpu").sites is None
    with pytest.raises(ValueError, match="expected a model with adapters, got one without"):
        base().at("hall")


def test_damaged_adapters_are_named(tmp_path: Path) -> None:
    adapted().model.save(tmp_path)
    (tmp_path / SITES_FILE).write_text((tmp_path / SITES_FILE).read_text().replace('"yard"', '"yard", "shed"'))
    with pytest.raises(ValueError, match=r"expected head/layers/0/weight.down of shape"):
        load(tmp_path, "cpu")


def test_a_single_run_is_learned_and_nothing_judges_it() -> None:
    found = adapt(base(), "hall", runs(1), recipe=SHORT)
    assert found.figures.keys() == {"rmse_shared"}
    assert rmse(found.model.at("hall"), runs(1)) < rmse(base(), runs(1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_can_be_adapted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = small(kind), lives(table(), CONFIG)
    monkeypatch.setattr(adapters, "SHARE", 0.5)
    found = adapt(model, "hall", known, recipe=replace(SHORT, epochs=1, steps=2, batch=16)).model
    assert found.tensors[-1] == "site"
    assert found.at("hall").predict(known).keys() == model.predict(known).keys()
    assert found.sites and any(value.any() for key, value in found.sites.adapters.values.items() if key.endswith("up"))


def test_a_network_may_be_too_small() -> None:
    with pytest.raises(ValueError, match="expected a network with room for an adapter of 2 %, got one of 8 parameters"):
        adapters.OneSite(torch.nn.Linear(3, 2))


@pytest.mark.slow
def test_the_imputer_of_the_model_goes_on_with_it(tmp_path: Path) -> None:
    table = fleet.run_to_failure(engines=2, seed=3).with_columns(pl.col("s4") + 25)
    (tmp_path / "data").mkdir()
    table.select(*base().config.types).write_csv(tmp_path / "data" / "runs.csv")
    run = Adaptation([str(tmp_path / "data")], "rul", tmp_path / "out", [0], Registrar(None), Progress(), "hall", FD001)
    assert Rul().adapt(run).folder == tmp_path / "out"
    assert beside(FD001) and beside(tmp_path / "out")
    assert load(tmp_path / "out", "cpu").sites
