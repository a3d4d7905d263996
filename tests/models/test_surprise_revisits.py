"""Events are followed, remembered within bounds, and known again after some time at the same place only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from tocsin.models.surprise.domain import Surprise
from tocsin.models.surprise.repeats import Repeats, events, repeats
from tocsin.models.surprise.revisits import (
    FOLLOWED,
    OF_EVENT,
    SEEN,
    VIEWS,
    Bank,
    Frame,
    Watch,
    blank,
    blank_bank,
)
from tocsin.models.surprise.simulation.returns import Sight

CHANNELS, GRID = 8, (12, 16)
STILL = torch.eye(2, 3)


def scene(seed: int, thing: int | None = None, at: int = 8) -> Tensor:
    """A place, and a thing in it."""
    picture = torch.randn(CHANNELS, *GRID, generator=torch.Generator().manual_seed(seed))
    if thing is not None:
        look = 2 * torch.randn(CHANNELS, 1, 1, generator=torch.Generator().manual_seed(thing))
        picture[:, 4:8, at : at + 4] = look
    return picture


class Camera:
    """A camera's frames, ten a second."""

    def __init__(self, away: int = 10_000) -> None:
        self.bank = Bank(blank_bank(CHANNELS, GRID))
        self.watch = Watch(blank(CHANNELS, GRID), lambda: self.bank, away=away)
        self.time = 0
        for place in range(300):
            self.frame(scene(1000 + place % 25))

    def frame(
        self, picture: Tensor, *, mask: Tensor | None = None, begins: bool = False, moves: float = 0.0
    ) -> bool | None:
        self.time += 100
        places = torch.full(GRID, 0.01) if mask is None else mask + 0.01
        action = torch.tensor([moves, *[0.0] * 7])
        return self.watch.step(
            Frame(self.time, picture, STILL, action, places, novel=mask is not None, begins=begins, fresh=False)
        )

    def event(self, place: int, thing: int, *, at: int = 8, frames: int = 12, moves: float = 0.0) -> list[bool | None]:
        """What it says of each frame of an event."""
        mask = torch.zeros(GRID)
        mask[4:8, at : at + 4] = 3.0
        picture = scene(place, thing, at)
        said = [self.frame(picture, mask=mask, begins=n == 0, moves=moves) for n in range(frames)]
        for _ in range(FOLLOWED):
            assert self.frame(scene(1000 + self.time // 100 % 25)) is None
        return said

    @property
    def remembered(self) -> int:
        return int((self.bank._last > 0).sum())


def test_the_same_thing_at_the_same_place_is_known_again_and_says_since_when() -> None:
    camera = Camera()
    begun = camera.time + 100
    assert camera.event(1, 50) == [False] * 12
    assert camera.event(1, 50) == [None] * (SEEN - 1) + [True] * (12 - SEEN + 1)
    assert camera.watch.since == begun
    assert camera.event(1, 50)[-1] is True and camera.watch.since == begun


def test_another_place_is_new_at_once_and_another_thing_or_another_spot_once_it_has_been_seen() -> None:
    camera = Camera()
    camera.event(1, 50)
    assert camera.event(2, 51) == [False] * 12
    waited = [None] * (SEEN - 1) + [False] * (12 - SEEN + 1)
    assert camera.event(1, 52) == waited
    assert camera.event(1, 50, at=1) == waited


def test_what_was_in_sight_just_now_is_not_seen_again() -> None:
    camera = Camera(away=60_000)
    camera.event(1, 50)
    assert camera.event(1, 50) == [False] * 12
    camera = Camera(away=0)
    camera.event(1, 50)
    assert camera.event(1, 50)[-1] is True


def test_an_event_that_is_over_soon_is_decided_at_its_end() -> None:
    camera = Camera()
    camera.event(1, 50)
    mask = torch.zeros(GRID)
    mask[4:8, 8:12] = 3.0
    picture = scene(1, 50)
    assert [camera.frame(picture, mask=mask, begins=n == 0) for n in range(2)] == [None, None]
    assert camera.frame(picture) is True
    assert camera.frame(picture) is None


def test_an_event_is_remembered_from_a_few_sides_and_the_least_recently_seen_is_forgotten() -> None:
    camera = Camera()
    camera.event(1, 50, moves=0.1, frames=60)
    assert camera.remembered == OF_EVENT
    for n in range(VIEWS - OF_EVENT + 1):
        camera.bank.add(scene(100 + n), torch.zeros(GRID), camera.time, camera.time)
    assert camera.remembered == VIEWS
    assert camera.event(1, 50)[-1] is True  # the other sides are still there
    for n in range(VIEWS):
        camera.bank.add(scene(300 + n), torch.zeros(GRID), camera.time, camera.time)
    assert camera.remembered == VIEWS and camera.event(1, 50) == [False] * 12


def test_only_what_has_changed_is_written() -> None:
    bank = Bank(blank_bank(CHANNELS, GRID))
    assert not bank.changed()
    bank.add(scene(1, 50), torch.ones(GRID), 5, 7)
    assert set(bank.changed()) == {"views", "masks", "first", "last"}
    again = Bank(bank.changed())
    assert again.seen_again(torch.tensor([0]), 90) == 5 and set(again.changed()) == {"last"}


def test_repeats_and_first_sights_are_counted_with_revisits_and_without() -> None:
    sights = [
        Sight(10, 20, "crate", 0),
        Sight(40, 50, "fish", 1),
        Sight(60, 70, "crate", 2),
        Sight(110, 120, "crate", 0),
    ]
    found = events(
        [n in (*range(12, 18), *range(32, 36), *range(45, 50), *range(112, 118), 119) for n in range(130)],
        [True if 47 <= n < 50 or 115 <= n < 118 else None for n in range(130)],
    )
    assert found == [(12, False), (32, False), (45, True), (112, True), (119, False)]
    counted = repeats(found, sights, rate=10)
    assert counted == Repeats(repeated=2, repeated_with=1, found=2, found_with=1, sights=3, false=1, false_with=1)
    assert counted.figures() == {"repeats_silenced": 0.5, "first_recall": 1 / 3, "first_recall_without": 2 / 3}
    missed = repeats([(112, False)], sights, rate=10)  # it did not ring on the way out: on the way back it is new
    assert missed.repeated == 0 and missed.found == 1 and (missed + counted).sights == 3 + len(sights)


def test_the_figures_of_dives_that_come_back_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Dives:
        def __init__(self, seed: int, **_: object) -> None:
            self.novelties = [Sight(1, 3, "crate", 0), Sight(60, 63, "crate", 0)]

        def __iter__(self) -> Iterator[int]:
            return iter(range(70))

    novel = [n in (2, 3, 61, 62) for n in range(70)]
    again = [n == 62 or (None if n > 3 else False) for n in range(70)]
    monkeypatch.setattr("tocsin.models.surprise.simulation.returns.Return", Dives)
    domain = Surprise(lambda shots, *_: (pl.DataFrame({"novel": novel[: len([*shots])], "again": again}), [], 0))
    figures = domain._repeats(tmp_path, "1", 2)
    assert (figures["repeated"], figures["repeated_with"], figures["found"], figures["sights"]) == (2, 0, 2, 2)
    assert figures["repeats_silenced"] == 1.0
