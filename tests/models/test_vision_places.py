"""Places: frames of one place are known again, those of another one are not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.support.films import ROOM, SEA, film
from tocsin.models.vision.flow import grey_frame
from tocsin.models.vision.places import FEATURES, SAME, View, common, recognised, view


def views(seed: int) -> list[View]:
    return [view(grey_frame(frame, (120, 160))) for frame in film(seed, 20)[0][::6]]


@pytest.mark.slow
def test_frames_near_each_other_show_one_place_and_those_of_another_world_do_not() -> None:
    for own, other in ((ROOM, SEA), (SEA, ROOM)):
        here, there = views(own), views(other)
        assert all(common(a, b) >= SAME for a, b in pairwise(here))
        assert not any(common(a, b) for a in here for b in there)


def test_a_place_is_found_among_others() -> None:
    known = [views(SEA)[0], views(ROOM)[0]]
    marks, points = np.stack([v.marks for v in known]), np.stack([v.points for v in known])
    counts = np.array([v.number for v in known])
    assert recognised(views(ROOM)[1], marks, points, counts) == 1
    assert recognised(views(SEA)[1], marks, points, counts) == 0
    assert recognised(views(ROOM)[1], marks, points, counts * [1, 0]) is None
    assert recognised(views(ROOM)[1], marks[:0], points[:0], counts[:0]) is None


def test_a_picture_without_anything_in_it_shows_no_place() -> None:
    nothing = view(np.full((120, 160), 90, np.uint8))
    assert nothing.number == 0 and nothing.marks.shape == (FEATURES, 32) and not nothing.marks.any()
    assert common(nothing, views(ROOM)[0]) == common(nothing, nothing) == 0
    known = views(ROOM)[0]
    assert recognised(nothing, known.marks[None], known.points[None], np.array([known.number])) is None
