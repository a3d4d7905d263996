"""Novelties composited into real pictures: they are where the truth says, and their clip is the same without them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tocsin.models.surprise.composites import covered, cut_out, injected, panned, patch
from tocsin.models.surprise.simulation.novelties import View, appear
from tocsin.models.surprise.simulation.vehicle import drive
from tocsin.models.vision.video import read


def textured(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(90, 160, (rows // 8, columns // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def test_novelties_are_drawn_into_footage_within_their_intervals() -> None:
    still = textured(90, 160)
    made = injected([still] * 300, 1, kinds=("diver", "reef fish"), often=(6, 6))
    changed = np.array([(np.abs(frame.astype(int) - still) > 12).any(2).mean() for frame in made.frames])
    new = np.zeros(300, bool)
    for novelty in made.novelties:
        new[novelty.first : novelty.last + 1] = True
    assert len(made.novelties) >= 2 and made.motion is None
    assert changed[new].min() > 0.001
    assert np.median(changed[~new]) == 0
    assert np.array_equal(made.frames, injected([still] * 300, 1, kinds=("diver", "reef fish"), often=(6, 6)).frames)


def test_a_thing_stays_where_it_lies_while_the_footage_moves() -> None:
    wide = textured(90, 1000)
    moving = [wide[:, 4 * at : 4 * at + 160] for at in range(200)]
    made = injected(moving, 3, kinds=("tyre",), often=(6, 6))
    novelty = made.novelties[0]
    centres = []
    for at in range(novelty.first, novelty.last + 1):
        columns = np.nonzero((np.abs(made.frames[at].astype(int) - moving[at]) > 12).any(2))[1]
        if len(columns) and columns.min() > 12 and columns.max() < 148:  # entirely in the picture
            centres.append((at, (columns.min() + columns.max()) / 2))
    at, centre = np.array(centres).T
    assert len(at) > 10
    assert np.polyfit(at, centre, 1)[0] == pytest.approx(-4, abs=0.1)


def test_drawing_into_too_much_or_nothing_is_refused() -> None:
    frame = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="more than 5 frames"):
        injected([frame] * 6, 0, max_frames=5)
    with pytest.raises(ValueError, match="no frames"):
        injected([], 0)


def test_a_still_is_panned_over_without_its_edges_and_as_the_motion_says() -> None:
    still = textured(360, 640)
    still[:1], still[-1:], still[:, :1], still[:, -1:] = ([255, 0, 0],) * 4  # a red edge
    made = panned(still, 2, seconds=20, weather=False)
    assert made.novelties == () and made.motion is not None and len(made.frames) == 200
    red = (made.frames[..., 0] > 230) & (made.frames[..., 1:] < 25).all(-1)
    assert not red.any()
    fast = np.argsort(np.hypot(*made.motion[:, :2].T))[-30:]
    window = cv2.createHanningWindow((320, 180), cv2.CV_32F)
    for at in fast[::6]:
        before, after = (cv2.cvtColor(made.frames[n], cv2.COLOR_RGB2GRAY).astype(np.float32) for n in (at - 1, at))
        found, _ = cv2.phaseCorrelate(before, after, window)
        assert np.hypot(*(found - made.motion[at, :2])) < 1.5


def test_what_is_new_on_a_pan_is_there_when_the_truth_says_and_covers_its_places() -> None:
    still = textured(360, 640)
    new, bare = (
        panned(still, 5, seconds=30, kinds=("crate", "reef fish"), often=(6, 6), drawn=drawn) for drawn in (True, False)
    )
    assert len(new.novelties) >= 2 and bare.novelties == ()
    shares = np.stack([covered(a, b, (18, 32)) for a, b in zip(new.frames, bare.frames, strict=True)]).max((1, 2))
    inside = np.zeros(300, bool)
    for novelty in new.novelties:
        inside[novelty.first : novelty.last + 1] = True
        assert shares[novelty.first : novelty.last + 1].max() > 0.5
    assert shares[inside].mean() > 10 * shares[~inside].mean()
    again = panned(still, 5, seconds=30, kinds=("crate", "reef fish"), often=(6, 6))
    assert np.array_equal(new.frames, again.frames)


def test_the_light_over_a_still_changes_unless_the_weather_is_off() -> None:
    still = np.full((360, 640, 3), 120, np.uint8)
    calm, rough = (panned(still, 4, seconds=20, weather=weather).frames.mean((1, 2, 3)) for weather in (False, True))
    assert np.ptp(calm) < 1 < np.ptp(rough)


def test_a_thing_is_cut_out_along_its_mask_and_faces_right() -> None:
    picture = np.zeros((60, 100, 3), np.uint8)
    picture[20:40, 10:60] = 80, 160, 240
    picture[20:40, 10:20] = 250, 0, 0  # its head, at the left
    mask = picture.any(2)
    cut = cut_out(picture, mask, bend=0.04, flip=True)
    rows, columns = cut.size
    assert cut.bend == 0.04 and columns / rows == pytest.approx(50 / 20, rel=0.2)
    color = cut.levels[0][rows // 2]
    assert color[-20, 0] > 200 and color[20, 2] > 200 and color[80, 3] == pytest.approx(1, abs=0.01)
    assert cut.levels[0][0, 0, 3] < 0.3
    tall = cut_out(picture.transpose(1, 0, 2), mask.T)
    assert tall.size[1] > tall.size[0] and not tall.bend
    with pytest.raises(ValueError, match="at least one pixel, got an empty one"):
        cut_out(picture, mask & False)


def test_cutouts_swim_if_they_bend_and_lie_on_the_bottom_if_not() -> None:
    rng = np.random.default_rng(6)
    view = View(drive(300, 10, rng, tilt=(0.0, 0.0)).cameras((180, 320)), (180, 320), 10, 0.4)
    for bend, lies in ((0.0, True), (0.04, False)):
        cut = {"thing": [cut_out(np.full((40, 80, 3), 255, np.uint8), np.ones((40, 80), bool), bend=bend)]}
        found = appear(view, rng, kinds=("thing",), often=(8, 8), empty=0.0, cutouts=cut)
        assert found and {novelty.kind for novelty, _ in found} == {"thing"}
        assert {actor.floor for _, actors in found for actor in actors} == {lies}


def test_a_patch_is_a_piece_of_its_picture() -> None:
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[:] = 10, 200, 30
    for seed in range(5):
        cut = patch(picture, np.random.default_rng(seed))
        opaque = cut.levels[0][..., 3] > 0.99
        assert 0.3 < opaque.mean() < 0.95
        assert np.allclose(cut.levels[0][opaque][:, :3], (10, 200, 30), atol=2)


def test_the_real_recordings_can_be_read_drawn_into_and_panned_over(data: Path) -> None:
    frames = list(read(data / "underwater_fish" / "fish.mp4"))
    assert len(frames) == pytest.approx(223, abs=2) and frames[0].shape == (180, 320, 3)
    made = injected(frames, 3, kinds=("diver",), often=(6, 6))
    assert made.novelties
    still = next(read(data / "underwater_subvo" / "frames_640x360", size=(360, 640)))
    assert panned(still, 1, seconds=2).frames.shape == (20, 180, 320, 3)
