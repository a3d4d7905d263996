"""Evaluation of paths: drift, alignment, other odometries, and the table of true paths."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.films import ROOM, film
from tocsin.models.pose.evaluate import aligned, compared, followed
from tocsin.models.pose.model import SHIPPED, load
from tocsin.models.pose.odometry import Followed, flowed, orb
from tocsin.models.pose.paths import TRUTH, paths
from tocsin.models.pose.simulation.film import Film
from tocsin.models.pose.simulation.path import Path as Way
from tocsin.models.pose.simulation.path import turned
from tocsin.models.vision.flow import grey_frame
from tocsin.pipelines.pose import domain


def way(frames: int = 220) -> Way:
    """A long true path."""
    return Film(ROOM, seconds=frames / 10).path


def test_the_truth_itself_does_not_drift_and_its_scale_does_not_matter() -> None:
    turns, shifts = (part[1:] for part in way().steps())
    errors = compared(Followed(turns, 7 * shifts), way())
    assert len(errors.drift) == 3 and errors.drift.max() < 1e-9 and errors.scaled.max() < 1e-9
    assert errors.turn.max() < 1e-3 and errors.direction.max() < 1e-3 and errors.aligned < 1e-9


def test_a_constant_error_of_the_turn_drifts_by_what_it_adds_up_to() -> None:
    """On a straight way, 0.1 degrees a step lead 5 degrees astray on average over 100 steps."""
    straight = Way(np.arange(101.0)[:, None] * [0, 0, 0.1], np.tile(np.eye(3), (101, 1, 1)))
    turns, shifts = (part[1:] for part in straight.steps())
    off = turned(np.array([np.radians(0.1)]), np.zeros(1), np.zeros(1))
    errors = compared(Followed(turns @ off, shifts), straight)
    assert errors.drift == pytest.approx([np.radians(0.1) * 50], rel=0.05)
    assert errors.turn == pytest.approx(np.full(100, 0.1), rel=1e-3)


def test_the_alignment_takes_away_a_turn_a_shift_and_a_scale_and_nothing_else() -> None:
    true = way().place
    turn = turned(np.array([1.0]), np.array([0.4]), np.array([-2.0]))[0]
    assert aligned(3 * true @ turn.T + [1, 2, 3], true) < 1e-9
    assert aligned(true * [1, 1, -1], true) > 0.01
    bent = true + 0.5 * np.sin(np.linspace(0, 6, len(true)))[:, None]
    assert aligned(bent, true) > 0.01


def test_two_frames_and_a_camera_that_stands_have_no_alignment() -> None:
    true = way().place
    assert np.isnan(aligned(true[:2], true[:2])) and np.isnan(aligned(true, np.zeros_like(true)))


def test_clips_without_a_step_and_a_wrong_lens_are_refused(tmp_path: Path) -> None:
    folder = clips(tmp_path, "clip,frame,x,y,z\na,0,0,0,0\n")
    with pytest.raises(ValueError, match="expected clips of two frames or more with a known path, got none"):
        domain.evaluate(SHIPPED, "1", str(folder))
    with pytest.raises(ValueError, match="--focal: expected a length in frame widths above 0, got -1"):
        domain.evaluate(SHIPPED, "1", str(folder), focal=-1.0)


def test_the_steps_of_a_path_lead_along_it() -> None:
    true = way()
    turns, shifts = (part[1:] for part in true.steps())
    place = followed(Followed(turns, shifts)) @ true.turn[0].T + true.place[0]
    assert np.allclose(place, true.place)


def test_the_odometries_follow_a_film() -> None:
    frames, path, focal = film(ROOM, 25)
    model = load()
    greys = [grey_frame(frame, model.size) for frame in frames]
    for odometry, most in ((orb, 2.0), (flowed, 1.0)):
        found = odometry(greys, model.lens(focal))
        assert found.turn.shape == (24, 3, 3) and np.median(compared(found, path).turn) < most
    blank = orb([np.zeros(model.size, np.uint8)] * 3, model.lens())
    assert np.array_equal(blank.turn, np.tile(np.eye(3), (2, 1, 1)))


def clips(folder: Path, table: str, names: tuple[str, ...] = ("a",)) -> Path:
    for name in names:
        (folder / name).mkdir()
        for number in range(2):
            cv2.imwrite(str(folder / name / f"{number}.png"), np.zeros((12, 16), np.uint8))
    (folder / TRUTH).write_text(table)
    return folder


def test_a_table_of_paths_is_read_with_and_without_turns(tmp_path: Path) -> None:
    rows = "clip,frame,x,y,z,qw,qx,qy,qz,focal\na,0,0,0,0,1,0,0,0,0.9\na,1,0,0,0.5,0.7071068,0,0.7071068,0,0.9\n"
    ((path, known),) = paths(clips(tmp_path, rows, ("a", "b"))).items()
    assert path.name == "a" and known.turned and known.focal == 0.9
    assert np.allclose(known.way.turn[1] @ [0, 0, 1], [1, 0, 0], atol=1e-6)  # it has turned to the right
    (tmp_path / TRUTH).write_text("clip,frame,x,y,z\na,0,0,0,0\na,1,0,0,0.5\n")
    ((_, known),) = paths(tmp_path).items()
    assert not known.turned and known.focal is None and known.way.place[1].tolist() == [0, 0, 0.5]


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("clip,frame,x,y\na,0,0,0\n", r"columns \['z'\] missing"),
        ("clip,frame,x,y,z\nc,0,0,0,0\n", "no clip 'c' in .*; it has a"),
        (
            "clip,frame,x,y,z,qw,qx,qy,qz\na,0,0,0,0,90,0,0,0\n",
            "line 2, column 'qw': expected a quaternion .*, got '90'",
        ),
        ("clip,frame,x,y,z,focal\na,0,0,0,0,0\n", "line 2, column 'focal': expected a length .*, got '0'"),
        ("clip,frame,x,y,z\na,1,0,0,0\n", "clip a: expected a row for each frame, 0, 1, ..."),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, table: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as refused:
        paths(clips(tmp_path, table))
    assert "\n" not in str(refused.value)
    (tmp_path / TRUTH).unlink()
    with pytest.raises(ValueError, match=r"has no paths\.csv; expected one with the columns clip, frame, x, y, z"):
        paths(tmp_path)
