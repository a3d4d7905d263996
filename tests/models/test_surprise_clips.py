"""Real footage: it is read at the rate and size asked for, within limits, and what is drawn into it is where the truth says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.surprise.clips import clips, injected, intervals, panned, read
from models.surprise.novelties import Novelty


def film(path: Path, *, frames: int = 30, rate: int = 15, size: tuple[int, int] = (48, 64)) -> Path:
    """A video whose frame n has the grey level 8 n."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * number, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode(None))
    return path


def textured(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(90, 160, (rows // 8, columns // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("rate", [5, 15, 30])
def test_a_video_is_sampled_at_the_rate_asked_for(tmp_path: Path, rate: int) -> None:
    levels = [frame.mean() / 8 for frame in read(film(tmp_path / "a.mp4"), rate=rate, size=(24, 32))]
    wanted = [int(at / rate * 15 + 1e-6) for at in range(2 * rate) if at / rate <= 29 / 15]  # to the moment of the last
    assert np.abs(np.array(levels) - wanted).max() < 0.6


def test_a_frame_is_cut_to_the_aspect_and_not_squeezed(tmp_path: Path) -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    cv2.circle(picture, (150, 50), 40, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (frame,) = read(tmp_path, size=(50, 50))
    across, down = (frame[25, :, 0] > 128).sum(), (frame[:, 25, 0] > 128).sum()
    assert across == down == pytest.approx(40, abs=1)


def test_pictures_come_in_the_order_of_their_names_in_rgb(tmp_path: Path) -> None:
    for name, color in (("b.png", (0, 0, 255)), ("a.png", (255, 0, 0))):  # OpenCV writes BGR
        cv2.imwrite(str(tmp_path / name), np.full((20, 20, 3), color, np.uint8))
    assert [frame[5, 5].tolist() for frame in read(tmp_path, size=(10, 10))] == [[0, 0, 255], [255, 0, 0]]


def test_reading_is_lazy_and_stops_at_the_limits(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    frames = read(path, rate=15, max_frames=3)
    assert [next(frames) is not None for _ in range(3)] == [True] * 3
    with pytest.raises(ValueError, match="more than 3 frames"):
        next(frames)
    with pytest.raises(ValueError, match="64 x 48, over 3000 pixels"):
        next(read(path, max_pixels=3000))


def test_what_is_no_clip_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    for path, words in (
        (tmp_path / "broken.mp4", "can decode"),
        (tmp_path / "none.mp4", "not there"),
        (tmp_path, "no pictures"),
    ):
        with pytest.raises(ValueError, match=words):
            next(read(path))


def test_a_truncated_video_gives_what_it_has(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mkv")
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert 0 < len(list(read(tmp_path / "cut.mkv", rate=15))) < 30


def test_the_table_gives_each_clip_its_intervals(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "1.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "novelties.csv").write_text("clip,start_s,end_s,kind\na.mp4,7,8.5,diver\na.mp4,1,2,\n")
    found = clips(tmp_path)
    assert found == {tmp_path / "a.mp4": ((1, 2, "unknown"), (7, 8.5, "diver")), tmp_path / "stills": ()}
    assert intervals(found[tmp_path / "a.mp4"], 10) == (Novelty(10, 20, "unknown"), Novelty(70, 85, "diver"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "no novelties.csv"),
        ("clip,start_s,end_s\na.mp4,1,2\n", "expected the columns"),
        ("clip,start_s,end_s,kind\nb.mp4,1,2,fish\n", "line 2: no clip 'b.mp4'"),
        ("clip,start_s,end_s,kind\na.mp4,1,2,fish\na.mp4,3,2,fish\n", "line 3: from 3.0 to 2.0 s"),
        ("clip,start_s,end_s,kind\na.mp4,soon,2,fish\n", "soon"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(tmp_path: Path, table: str | None, words: str) -> None:
    film(tmp_path / "a.mp4")
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
        if len(columns) and columns.min() > 12 and columns.max() < 148:  # whole in the picture
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
