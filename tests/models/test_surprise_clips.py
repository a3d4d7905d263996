"""Real footage: objects are drawn into it where the truth says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tocsin.models.surprise.clips import clips, injected, intervals, panned
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.vision.video import read


def textured(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(90, 160, (rows // 8, columns // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def test_the_table_gives_each_clip_its_intervals(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "1.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "novelties.csv").write_text("clip,start_s,end_s,kind\na.mp4,7,8.5,diver\na.mp4,1,2,\n")
    found = clips(tmp_path)
    assert found == {tmp_path / "a.mp4": ((1, 2, "unknown"), (7, 8.5, "diver")), tmp_path / "stills": ()}
    assert intervals(found[tmp_path / "a.mp4"], 10) == (Novelty(10, 20, "unknown"), Novelty(70, 85, "diver"))


def test_hidden_files_and_blank_lines_do_not_count_and_commas_do_where_meant(tmp_path: Path) -> None:
    for name in ("dive10.MP4", "dive9.mp4", "._dive9.mp4", "._novelties.csv"):
        (tmp_path / name).touch()
    (tmp_path / "Novelties.CSV").write_text("clip;start_s;end_s;kind\n\ndive10.MP4;1,5;2;\n;;;\n\n")
    assert list(clips(tmp_path, decimal_comma=True).items()) == [
        (tmp_path / "dive9.mp4", ()),
        (tmp_path / "dive10.MP4", ((1.5, 2, "unknown"),)),
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "no novelties.csv"),
        ("clip,start_s,end_s\na.mp4,1,2\n", "expected the columns"),
        ("clip,start_s,end_s,kind\nb.mp4,1,2,fish\n", "line 2: no clip 'b.mp4'"),
        ("clip,start_s,end_s,kind\na.mp4,1,2,fish\na.mp4,3,2,fish\n", "line 3: from 3.0 to 2.0 s"),
        ("clip,start_s,end_s,kind\na.mp4,soon,2,fish\n", "line 2, column 'start_s': .* got 'soon'"),
        ("clip,start_s,end_s,kind\n\na.mp4,1,nan,fish\n", "line 3, column 'end_s': .* got 'nan'"),
        ("clip,start_s,end_s,kind\na.mp4,1,inf,fish\n", "line 2, column 'end_s': .* got 'inf'"),
        ("clip,start_s,end_s,kind\na.mp4,,2,fish\n", "line 2, column 'start_s': .* got an empty cell"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(tmp_path: Path, table: str | None, words: str) -> None:
    (tmp_path / "a.mp4").touch()
    if table is not None:
        (tmp_path / "novelties.csv").write_text(table)
    with pytest.raises(ValueError, match=words):
        clips(tmp_path)


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
    made = panned(still, 2, seconds=20, grain=0)
    assert made.novelties == () and made.motion is not None and len(made.frames) == 200
    red = (made.frames[..., 0] > 230) & (made.frames[..., 1:] < 25).all(-1)
    assert not red.any()
    fast = np.argsort(np.hypot(*made.motion[:, :2].T))[-30:]
    window = cv2.createHanningWindow((320, 180), cv2.CV_32F)
    for at in fast[::6]:
        before, after = (cv2.cvtColor(made.frames[n], cv2.COLOR_RGB2GRAY).astype(np.float32) for n in (at - 1, at))
        found, _ = cv2.phaseCorrelate(before, after, window)
        assert np.hypot(*(found - made.motion[at, :2])) < 1.5


def test_the_real_recordings_can_be_read_drawn_into_and_panned_over(data: Path) -> None:
    frames = list(read(data / "underwater_fish" / "fish.mp4"))
    assert len(frames) == pytest.approx(223, abs=2) and frames[0].shape == (180, 320, 3)
    made = injected(frames, 3, kinds=("diver",), often=(6, 6))
    assert made.novelties
    still = next(read(data / "underwater_subvo" / "frames_640x360", size=(360, 640)))
    assert panned(still, 1, seconds=2).frames.shape == (20, 180, 320, 3)
