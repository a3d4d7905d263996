"""A room's adapter: learned from a few labelled days, stored with the model, and used for the room's rows alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.progress import Progress

from tocsin.models.adaptation import Adapted
from tocsin.models.adapters import Sites
from tocsin.models.champion import Registrar
from tocsin.models.domain import Adaptation
from tocsin.models.gate import refusal
from tocsin.models.imputer.model import beside
from tocsin.models.occupancy.adapt import RECIPE, Day, adapt, candidate, days, predict
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.model import OFFICES, OccupancyModel, load
from tocsin.models.occupancy.simulation.sensors import simulate
from tocsin.models.occupancy.train import Recipe, fit, rooms
from tocsin.operators.lora import Adapters, adaptable
from tocsin.pipelines import occupancy

CONFIG = OccupancyConfig(features=("level", "past", "slope"), window=10)
MINUTES = 1440
SHORT = replace(RECIPE, steps=60, learning_rate=1e-2)


def table(seed: int, *, count: int = 1, offset: float = 0.0, room: str = "hall") -> pl.DataFrame:
    """Labelled minutes of some days. The room is occupied every other hour, when its level is 2 higher than `offset`."""
    draw = torch.Generator().manual_seed(seed)
    at = pl.DataFrame({"minute": range(count * MINUTES)})
    noise = torch.randn(3, count * MINUTES, generator=draw).double() * 0.5
    return at.select(
        room=pl.lit(room),
        time=pl.col("minute") * 60_000,
        day=pl.from_epoch(pl.col("minute") // MINUTES, "d"),
        occupied=pl.col("minute") // 60 % 2 == 1,
        level=pl.Series(noise[0].numpy()) + 2.0 * (pl.col("minute") // 60 % 2) + offset,
        past=pl.Series(noise[1].numpy()),
        slope=pl.Series(noise[2].numpy()),
    )


@cache
def base() -> OccupancyModel:
    return fit([rooms(table(0), CONFIG.features), rooms(table(1), CONFIG.features)], CONFIG, Recipe(steps=150))


def labelled_days(seed: int, count: int, offset: float = -1.0) -> list[Day]:
    return days(table(seed, count=count, offset=offset), CONFIG)


@cache
def adapted() -> Adapted[OccupancyModel]:
    """A model with the adapters of two rooms; the first has been adapted twice."""
    one = adapt(base(), "hall", labelled_days(2, 1), recipe=replace(SHORT, steps=2)).model
    two = adapt(one, "yard", labelled_days(3, 1, offset=1.0), recipe=SHORT).model
    return adapt(two, "hall", labelled_days(4, 3), recipe=SHORT)


def wrong(model: OccupancyModel, known: list[Day]) -> float:
    truth = torch.cat([room.occupied[rows] > 0.5 for day in known for room, rows in day])
    return float(((predict(model, known) >= 0.5) != truth).float().mean())


def windows(count: int) -> torch.Tensor:
    return torch.randn(count, 10, 3, generator=torch.Generator().manual_seed(9))


def test_a_few_days_make_a_room_better_within_two_percent_of_the_weights() -> None:
    unseen = labelled_days(77, 2)
    assert wrong(adapted().model.at("hall"), unseen) < 0.5 * wrong(base(), unseen)
    assert adapted().size <= 0.02 * base().parameters
    assert adapted().figures["f1"] > adapted().figures["f1_shared"]


def test_an_untrained_adapter_is_the_shared_network_bit_for_bit() -> None:
    shared, given = load(OFFICES, "cpu"), torch.randn(64, 60, 19, generator=torch.Generator().manual_seed(2))
    adapters = Adapters(shared.network, adaptable(shared.network, share=0.02), sites=2)
    model = OccupancyModel(shared.config, shared.network, torch.device("cpu"), Sites(("a", "b"), adapters))
    site = torch.arange(64) % 3 - 1
    for name, value in shared(given).items():
        assert torch.equal(model(given, site)[name], value)
        assert torch.equal(model(given)[name], value)


def test_rows_of_several_rooms_are_judged_in_one_batch_each_by_its_own() -> None:
    model, given = adapted().model, windows(60)
    site = torch.randint(-1, 2, (60,), generator=torch.Generator().manual_seed(1))
    together = model(given, site)["probability"]
    for number, own in ((0, model.at("hall")), (1, model.at("yard")), (-1, base())):
        for row in (site == number).nonzero()[:, 0].tolist():
            alone = own(given[row : row + 1])["probability"]
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[site == 0], base()(given)["probability"][site == 0], atol=1e-2)
    assert len(model(given[:0], site[:0])["probability"]) == 0


def test_the_shared_network_and_other_rooms_stay_as_they_are() -> None:
    model, known = adapted().model, labelled_days(5, 1)
    assert torch.equal(predict(model, known), predict(base(), known))
    yard = adapt(base(), "yard", labelled_days(3, 1, offset=1.0), recipe=SHORT).model.at("yard")
    assert torch.equal(predict(model.at("yard"), known), predict(yard, known))


def test_a_model_with_rooms_is_stored_whole_and_its_adapters_go_with_it(tmp_path: Path) -> None:
    model, known = adapted().model, labelled_days(5, 1)
    model.save(tmp_path)
    again = load(tmp_path, "cpu")
    assert again.sites and again.sites.names == ("hall", "yard") and again.tensors == ("window", "site")
    assert torch.equal(predict(again.at("hall"), known), predict(model.at("hall"), known))
    with pytest.raises(ValueError, match="site shed: expected one of hall, yard, got another"):
        again.at("shed")
    again.shared.save(tmp_path)
    assert load(tmp_path, "cpu").sites is None
    with pytest.raises(ValueError, match="expected a model with adapters, got one without"):
        base().at("hall")


def test_an_adapter_that_does_not_help_does_not_become_champion(tmp_path: Path) -> None:
    known = labelled_days(6, 2, offset=0.0)  # as in training
    found = adapt(base(), "hall", known, recipe=replace(SHORT, steps=2))
    found.model.save(tmp_path)
    f1, shared = found.figures["f1"], found.figures["f1_shared"]

    def why(score: float) -> str:
        return refusal(candidate(tmp_path, "hall", known, score, shared), None)

    assert f"at least {shared + 0.02:.4g}, 0.02 above that of the shared network, got {f1:.4g}" in why(f1)
    assert why(shared + 0.03) == ""
    assert refusal(candidate(tmp_path, "hall", known, f1, shared), None, force=True) == ""
    champion = ("occupancy/1", tmp_path)
    assert "from the" in refusal(candidate(tmp_path, "hall", known, 0.5, 0.4), champion)  # its own adapter is better


def test_a_single_day_is_learned_and_nothing_judges_it() -> None:
    found = adapt(base(), "hall", labelled_days(8, 1), recipe=SHORT)
    assert found.figures.keys() == {"f1_shared"}
    assert wrong(found.model.at("hall"), labelled_days(8, 1)) < wrong(base(), labelled_days(8, 1))


def test_days_are_those_of_all_rooms_and_need_people_who_come_and_go() -> None:
    one, two = table(0, count=3), table(1, count=2, room="yard")
    two = two.with_columns(occupied=pl.when(pl.col("time") >= 60_000 * 1000).then("occupied"))
    found = days(pl.concat([two, one]), CONFIG)
    assert [[len(rows) for _, rows in day] for day in found] == [[1431, 440], [1440, 1440], [1440]]
    assert len(days(one, CONFIG, most=2)) == 2
    for occupied, got in ((True, "only occupied ones"), (False, "only empty ones"), (None, "none with a truth")):
        with pytest.raises(ValueError, match=f"expected minutes with people and minutes without any, got {got}"):
            days(one.with_columns(occupied=pl.lit(occupied, pl.Boolean)), CONFIG)


@pytest.mark.slow
def test_a_recording_of_a_room_is_adapted_to_and_the_imputer_goes_on_with_the_model(tmp_path: Path) -> None:
    events, truth = simulate(rooms=2, days=2, seed=3)
    wide = events.filter(property="co2").select("room", "time", co2="value").sort("time")
    wide = wide.join_asof(
        truth.select("room", "time", occupied="motion").sort("time"), on="time", by="room", check_sortedness=False
    )
    (tmp_path / "data").mkdir()
    times = pl.from_epoch("time", "ms").dt.strftime("%Y-%m-%d %H:%M:%S")
    wide.drop_nulls().with_columns(time=times).write_csv(tmp_path / "data" / "rooms.csv")
    force = Registrar(None, force=True)
    run = Adaptation(
        [str(tmp_path / "data")], "occupancy", tmp_path / "out", [0], force, Progress(), "room-001", OFFICES
    )
    trained = occupancy.domain.adapt(run, days=1)
    assert (
        "room-001: one day, so nothing judges its adapter (144 parameters, 1.8% of the network's)" in trained.lines[0]
    )
    model = load(tmp_path / "out", "cpu")
    assert model.sites and model.sites.names == ("room-001",)
    assert beside(OFFICES) and beside(tmp_path / "out")
