"""Real footage: its table of novelties."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tocsin.models.surprise.clips import clips, intervals
from tocsin.models.surprise.simulation.novelties import Novelty


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
