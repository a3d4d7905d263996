"""The dive that comes back: the same things are in sight on both ways, and what is new on the way back was not there before."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.surprise.simulation.novelties import THINGS
from tocsin.models.surprise.simulation.returns import AWAY, SEEP, TEST_SEEDS, VALIDATION_SEEDS, Return, Sight, retraced
from tocsin.models.surprise.simulation.scene import TEST, Scene
from tocsin.models.surprise.simulation.vehicle import drive

SIZE = (90, 160)
STILL = Scene(speed=1.0, jerks=0, flicker=(0, 0), particles=(0, 0), grain=(0, 0), caustics=(0, 0), quality=None)


@pytest.mark.parametrize("turn", [0.0, np.pi])
def test_the_way_back_passes_the_same_places_in_reverse(turn: float) -> None:
    out = drive(400, 10, np.random.default_rng(3), jerks=0)
    path = retraced(out, 460, 10, np.random.default_rng(4), turn=turn, speed=1.0, jerks=0)
    assert len(path.place) == 860 and np.array_equal(path.place[:400], out.place)
    apart = np.linalg.norm(path.place[460:][::-1] - out.place, axis=1)
    assert np.median(apart) < 40  # of a picture 320 wide
    turned = np.angle(np.exp(1j * (path.heading[460:][::-1] - out.heading - turn)))
    assert np.abs(turned).max() < 0.5
    assert np.linalg.norm(np.diff(path.place, axis=0), axis=1).max() < 25  # it does not jump


@pytest.fixture(scope="module")
def dive() -> Return:
    return Return(5, scene=STILL, leg=40, size=SIZE)


def test_things_are_seen_twice_and_animals_once(dive: Return) -> None:
    by_thing: dict[int, list[Sight]] = {}
    for sight in dive.novelties:
        by_thing.setdefault(sight.thing, []).append(sight)
    assert any(len(sights) == 2 for sights in by_thing.values())
    for sights in by_thing.values():
        first = sights[0]
        stays = first.kind in (*THINGS, SEEP)
        assert len(sights) == (2 if stays and first.first < dive.back else 1)
        if len(sights) == 2:
            assert sights[1].kind == first.kind and sights[1].first >= dive.back
            assert sights[1].first - first.last >= AWAY * 10
    firsts = [sight.first for sight in dive.novelties]
    assert firsts == sorted(firsts)


def test_what_lies_there_on_the_way_back_only_is_not_drawn_before(dive: Return) -> None:
    twice = {sight.thing for sight in dive.novelties if sum(s.thing == sight.thing for s in dive.novelties) == 2}
    for sight in dive.novelties:
        if sight.kind in THINGS and sight.thing not in twice:
            assert sight.first >= dive.back


def test_the_same_seed_gives_the_same_frames(dive: Return) -> None:
    other = Return(5, scene=STILL, leg=40, size=SIZE)
    assert dive.novelties == other.novelties
    for _, a, b in zip(range(3), dive, other, strict=False):
        assert np.array_equal(a, b)


def test_seeds_of_test_and_validation_are_disjoint() -> None:
    assert not {*TEST_SEEDS} & {*VALIDATION_SEEDS} and TEST.kinds
