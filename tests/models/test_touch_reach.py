"""Scores of scripted cues: hands that reach, stop, carry, leave, and vanish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tocsin.models.touch.config import DecodeConfig, ReachConfig, TouchConfig
from tocsin.models.touch.cues import Cues
from tocsin.models.touch.reach import GAP, ReachModel, load

CONFIG = ReachConfig()
MODEL = ReachModel(CONFIG, (288, 512))
SIZE = 40.0
EMPTY, FULL = (0.02, 0.95), (0.7, 0.2)
"""What moves along and what stands still around an empty hand, and around one that holds something."""
LENGTH = CONFIG.past + 1 + CONFIG.ahead


def stroke(frames: int, speed: float, around: tuple[float, float] = EMPTY) -> list[Cues]:
    """Frames of a hand at a speed, in its sizes per frame."""
    moves = speed > 0.05
    return [Cues(1, speed * SIZE, SIZE, float(moves), *(around if moves else (0.0, 0.0)))] * frames


ABSENT = Cues(0, 0, 0, 0, 0, 0)


def scores(frames: Sequence[Cues]) -> Tensor:
    """Contact and release of the right hand in each frame, `[T, 2]`, as a stream scores it; the left hand is absent."""
    rows = torch.zeros(len(frames), 2, len(Cues._fields))
    rows[:, 1] = torch.tensor(frames)
    none = rows.new_zeros(CONFIG.past, MODEL.width), rows.new_zeros(CONFIG.ahead, MODEL.width)
    line = torch.cat(
        [none[0] + torch.nan, rows.flatten(1), none[1] + torch.nan]
    )  # the values of absent frames do not count
    there = torch.zeros(len(line), dtype=torch.bool)
    there[CONFIG.past : CONFIG.past + len(rows)] = True
    windows = line.unfold(0, LENGTH, 1).mT
    said = MODEL.predict(windows, there.unfold(0, LENGTH, 1))
    assert said.shape == (len(frames), 2, 2, 2) and not said[:, 1].any() and not said[:, 0, 0].any()
    assert said.min() >= 0 and said.max() <= 1
    return said[:, 0, 1]


def events(frames: Sequence[Cues], kind: int) -> list[int]:
    """The frames of contacts (0) or releases (1) with a score of at least one half."""
    return (scores(frames)[:, kind] >= 0.5).nonzero()[:, 0].tolist()


REACH = [*stroke(20, 0.3), *stroke(20, 0.02)]


def test_an_empty_hand_that_moves_and_stops_has_touched() -> None:
    (at,) = events(REACH, 0)
    assert at in (20, 21) and events(REACH, 1) == []
    assert scores(REACH)[at, 0] > 0.9


def test_a_hand_that_moves_what_it_holds_neither_touches_nor_lets_go() -> None:
    carry = [*stroke(10, 0.02), *stroke(20, 0.3, FULL), *stroke(20, 0.02)]
    assert events(carry, 0) == events(carry, 1) == []


@pytest.mark.parametrize(("speed", "touches"), [(CONFIG.moving + 0.02, True), (CONFIG.moving - 0.02, False)])
def test_a_slow_hand_is_no_reaching_hand(speed: float, touches: bool) -> None:
    assert bool(events([*stroke(20, speed), *stroke(20, 0.02)], 0)) is touches


def test_a_hand_that_stops_for_a_moment_only_has_not_touched() -> None:
    assert events([*stroke(20, 0.3), *stroke(2, 0.02), *stroke(20, 0.3)], 0) == []


def test_a_hand_that_starts_to_move_empty_has_let_go() -> None:
    leave = [*stroke(20, 0.02), *stroke(20, 0.3)]
    (at,) = events(leave, 1)
    assert at in (20, 21) and events(leave, 0) == []


def test_a_hand_that_is_lost_for_as_long_as_a_window_looks_ahead_has_let_go() -> None:
    gone = [*stroke(20, 0.02), *[ABSENT] * 20]
    assert events(gone, 1) == [20]
    assert events([*stroke(20, 0.02), *[ABSENT] * CONFIG.ahead, *stroke(20, 0.02)], 1) == []


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    for gap, found in ((GAP - 1, True), (GAP + 5, False)):
        reach = [*stroke(20, 0.3), *[ABSENT] * gap, *stroke(20, 0.02)]
        assert bool(events(reach, 0)) is found


def test_a_single_wild_speed_does_not_count() -> None:
    wild = [*stroke(20, 0.02), *stroke(1, 2.0), *stroke(20, 0.02)]
    assert events(wild, 0) == events(wild, 1) == []


def test_speeds_count_in_sizes_of_the_hand() -> None:
    near = [c._replace(speed=3 * c.speed, size=3 * c.size) for c in REACH]
    assert torch.equal(scores(near), scores(REACH))


def test_the_first_frame_of_a_stream_and_streams_shorter_than_a_window_are_judged() -> None:
    assert events([*stroke(4, 0.3), *stroke(4, 0.02)], 0) in ([4], [5])
    assert not scores(stroke(1, 0.3)).any()


def test_windows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        MODEL.predict(torch.zeros(1, LENGTH - 1, MODEL.width), torch.ones(1, LENGTH - 1, dtype=torch.bool))


def test_its_constants_come_with_a_models_config_and_thresholds_replace_them(tmp_path: Path) -> None:
    config = TouchConfig(reach=ReachConfig(moving=0.2, decode=DecodeConfig(radius=0, contact=0.7)))
    config.save(tmp_path)
    model = load(tmp_path)
    assert model.config == config.reach and model.size == (288, 512) and model.delay == 15
    other = model.with_thresholds(release=0.2)
    assert other.config.decode.thresholds == (0.7, 0.2)
    assert replace(other.config, decode=config.reach.decode) == config.reach
