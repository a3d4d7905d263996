"""A tampering model: the same verdict in any batch, storage, one view alone; figures and series beside plain counts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tocsin.models.tampering.baselines import NAMES, baselines
from tocsin.models.tampering.config import TamperingConfig
from tocsin.models.tampering.evaluate import Scored, by_kind, figures, rung
from tocsin.models.tampering.footage import Recording
from tocsin.models.tampering.interval import Interval
from tocsin.models.tampering.measures import GRID
from tocsin.models.tampering.memory import FEATURES, UNITS, Evidence
from tocsin.models.tampering.model import TOGETHER, TamperingModel, load
from tocsin.models.tampering.network import NetworkConfig, TamperingNetwork
from tocsin.models.tampering.samples import CLEAN, UNSURE, WARM, evidence, series, targets, truth
from tocsin.models.tampering.simulation.attacks import KINDS
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.tampering.train import Recipe, lessons, settled, train

SMALL = NetworkConfig(width=8)


def untrained(network: NetworkConfig = SMALL) -> TamperingModel:
    torch.manual_seed(0)
    return TamperingModel(TamperingConfig(network=network), TamperingNetwork(network))


def some_evidence(count: int) -> Evidence:
    generator = torch.Generator().manual_seed(1)
    return Evidence(torch.randn(count, len(UNITS), len(FEATURES), *GRID, generator=generator), torch.arange(count))


@pytest.mark.parametrize(
    "network",
    [SMALL, NetworkConfig(width=8, heads=2, fusion="attention"), NetworkConfig(width=8, views=("motion",))],
)
def test_a_frame_is_judged_the_same_alone_and_in_any_batch(network: NetworkConfig) -> None:
    model, given = untrained(network), some_evidence(TOGETHER + 3)
    whole = model(given)
    assert whole.places.shape == (TOGETHER + 3, *GRID) and bool(((whole.score > 0) & (whole.score < 1)).all())
    for at in (0, 41, TOGETHER, TOGETHER + 2):
        alone = model(Evidence(given.features[at : at + 1], given.seen[at : at + 1]))
        torch.testing.assert_close(alone.score[0], whole.score[at], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.places[0], whole.places[at], atol=1e-5, rtol=1e-4)
        assert alone.kind[0] == whole.kind[at]
    empty = model(model.unseen())
    assert empty.score.shape == (0,) and empty.places.shape == (0, *GRID) and empty.kind.shape == (0,)


def test_a_view_alone_sees_only_its_measures() -> None:
    model, given = untrained(NetworkConfig(width=8, views=("appearance",))), some_evidence(3)
    changed = given.features.clone()
    changed[:, 10:] += 1
    torch.testing.assert_close(model(given).score, model(Evidence(changed, given.seen)).score)
    changed[:, 9] += 1
    assert (model(given).score - model(Evidence(changed, given.seen)).score).abs().max() > 1e-5


def test_it_is_stored_whole(tmp_path: Path) -> None:
    model, given = untrained(), some_evidence(2)
    model.save(tmp_path)
    other = load(tmp_path)
    assert other.config == model.config and other.parameters == model.parameters
    torch.testing.assert_close(other(given).places, model(given).places)


def test_a_film_is_watched_as_its_series_is_judged() -> None:
    model, frames = untrained(), [*Camera(seed=1, frames=6, size=model_size(), things=1)]
    verdict = model.watch(frames)
    from tocsin.models.tampering.samples import measure

    seen = evidence(measure("clip", CLEAN, frames, [None] * 6), model.config.memory)
    torch.testing.assert_close(verdict.score, model(seen).score)
    assert model.watch([]).score.shape == (0,)


def model_size() -> tuple[int, int]:
    return TamperingModel.size


def test_the_truth_of_a_series_leaves_out_where_it_is_uncertain() -> None:
    marks = truth(np.arange(60) // 10 == 1)
    assert marks[:10].tolist() == [0] * 10 and marks[10:12].tolist() == [UNSURE] * 2 and marks[12:20].min() == 1
    assert marks[20:50].tolist() == [UNSURE] * 30 and marks[50:].tolist() == [0] * 10
    frames = [*Camera(seed=2, frames=WARM + 30, size=(90, 160), things=0)]
    some = series(np.random.default_rng(1), Recording("camera", frames), "splice", Recording("other", frames[:5]))
    of_frames, places = targets(some)
    covered = some.covers > 0
    region = covered.any(0)
    assert covered[:WARM].sum() == 0 and 0 < region.sum() < region.size and covered.any((1, 2)).sum() >= 20
    assert bool((places[of_frames == 1][:, ~region] <= 0).all()) and (places == 1).any()
    assert {*of_frames.tolist()} <= {0.0, 1.0, UNSURE} and KINDS[some.kinds] == "splice"


def test_figures_are_what_a_plain_count_gives() -> None:
    nan = math.nan
    clean = Scored("a", CLEAN, np.array([nan, 0.1, 0.9, 0.9, 0.9, 0.2]), np.zeros(6, np.float32))
    marks = np.array([0, 0, UNSURE, 1, 1, 1], np.float32)
    frozen = Scored("b", "frozen", np.array([nan, 0.3, 0.2, 0.8, 0.95, 0.95]), marks)
    painted = Scored("b", "painted", np.array([nan, 0.3, 0.2, 0.05, 0.05, 0.2]), marks)
    found = figures([clean, frozen, painted], Interval(level=0.8, hold=2))
    assert (found["false_alerts"], found["found"], found["delay"], found["clean_frames"]) == (1, 0.5, 1, 7)
    against = [0.1, 0.9, 0.9, 0.9, 0.2, 0.3, 0.3]
    pairs = [(s > c) + 0.5 * (s == c) for s in (0.8, 0.95, 0.95) for c in against]
    assert found["auroc_seen"] == pytest.approx(sum(pairs) / len(pairs)) and by_kind([clean, frozen])["frozen"] > 0.7
    assert rung(clean, Interval(level=0.8, hold=4)).false == 0 and rung(clean, Interval(level=0.8, hold=1)).false == 1
    alone = figures([clean], Interval(level=1, hold=1))
    assert math.isnan(alone["auroc"] or 0) and alone["found"] is None


def test_an_interval_holds_on_only_once_it_rings() -> None:
    def lengths(scores: list[float]) -> list[int]:
        interval, found = Interval(level=0.8, ease=0.5, hold=3), [0]
        for score in scores:
            found.append(interval.length(found[-1], score))
        return found[1:]

    assert lengths([0.9, 0.5, 0.9, 0.9, 0.9, 0.5, 0.39, 0.5]) == [1, 0, 1, 2, 3, 4, 0, 0]
    assert lengths([math.nan, 0.8, math.nan]) == [0, 1, 0]


def test_the_level_is_the_lowest_at_which_clean_series_hardly_ring() -> None:
    flash, lamp = np.zeros(100), np.zeros(100)
    flash[50:54], lamp[50:70] = 0.97, 0.803
    marks = np.zeros(100, np.float32)

    def level(*clean: np.ndarray, apart: int = 1000) -> float:
        return settled(untrained(), [Scored("a", CLEAN, some, marks) for some in clean], apart).config.level

    assert [level(flash), level(lamp), level(lamp / 4), level(lamp + 0.19)] == [0.5, 0.805, 0.5, 0.99]
    assert level(lamp, lamp, apart=200) == 0.805 and level(lamp, flash, apart=200) == 0.5


def test_baselines_ring_for_what_they_know() -> None:
    frames = [*Camera(seed=7, frames=60, size=(90, 160), things=3, motion="carried")]
    frozen = baselines([*frames, *[frames[-1]] * 10])
    assert {*frozen} == {*NAMES}
    assert frozen["frame differences"][61:].min() > 3 > np.median(frozen["frame differences"][30:60])
    assert np.isfinite(np.stack([*frozen.values()])).all()


@pytest.mark.slow
def test_a_model_learns_to_tell_a_frozen_camera() -> None:
    rng, config = np.random.default_rng(0), TamperingConfig(network=SMALL)
    other = Recording("other", [*Camera(seed=99, frames=20, size=(90, 160))])

    def some(first: int) -> list:
        return [
            series(
                rng,
                Recording(f"{n}", [*Camera(seed=first + n, frames=80, size=(90, 160), things=2)]),
                ("frozen", CLEAN)[n % 2],
                other,
            )
            for n in range(6)
        ]

    taught = lessons(some(0), config.memory, warm=config.warm)
    unseen = [(evidence(one, config.memory), one) for one in some(100)]
    outcome = train(taught, unseen, config, Recipe(steps=60), seed=0)
    assert outcome.figures["auroc"] > 0.95 and 0.5 <= outcome.model.config.level < 1
