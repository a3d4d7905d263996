"""Labelled clips: both kinds of table, and the errors that name their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tocsin.models.touch.clips import Labelled, clips
from tocsin.models.touch.truth import Touch

HEADER = "clip,hand,contact,release\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a video, a directory of pictures, and a file that is not a clip."""
    (tmp_path / "b.mp4").touch()
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "1.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_the_table_gives_each_clip_its_touches_in_order(folder: Path) -> None:
    (folder / "touches.csv").write_text(HEADER + "b.mp4,right,30,\nb.mp4,left,0,12\n")
    touches = (Touch(0, 0, 12), Touch(1, 30, None))
    assert list(clips(folder).items()) == [
        (folder / "a", Labelled((), True)),
        (folder / "b.mp4", Labelled(touches, True)),
    ]


def test_a_hand_that_nobody_knows_makes_all_hands_unknown_and_its_touch_the_rights(folder: Path) -> None:
    (folder / "touches.csv").write_text(HEADER + "b.mp4,,3,26\na,left,1,2\n")
    found = clips(folder)
    assert found[folder / "b.mp4"] == Labelled((Touch(1, 3, 26),), False)
    assert found[folder / "a"] == Labelled((Touch(0, 1, 2),), False)


def test_whole_frames_may_be_floats_and_hidden_files_and_blank_lines_do_not_count(folder: Path) -> None:
    (folder / "._b.mp4").touch()
    (folder / "._labels.json").write_text("{}")
    (folder / "labels.json").write_text('{"a": {"contact": 3.0, "separation": 26}}')
    assert clips(folder) == {folder / "a": Labelled((Touch(1, 3, 26),), hands=False)}
    (folder / "Touches.csv").write_text(HEADER + "a,left,3.0,26.0\n\n,,,\n")
    assert clips(folder)[folder / "a"] == Labelled((Touch(0, 3, 26),), True)


def test_columns_are_found_by_name_beside_others(folder: Path) -> None:
    (folder / "touches.csv").write_text("who,release,contact,clip,hand\nme,26,3,a,left\n")
    assert clips(folder)[folder / "a"].touches == (Touch(0, 3, 26),)


def test_labels_are_taken_of_clips_that_are_there_and_have_both_ends(folder: Path) -> None:
    labels: dict[str, Any] = {
        "b": {"contact": 3, "separation": 26, "verb": "take"},
        "a": {"contact": 3, "separation": None},
        "elsewhere": {"contact": 1, "separation": 2},
        "version": "1.0",
    }
    (folder / "labels.json").write_text(json.dumps(labels))
    assert clips(folder) == {folder / "b.mp4": Labelled((Touch(1, 3, 26),), hands=False)}
    (folder / "touches.csv").write_text(HEADER)  # takes precedence over labels.json
    assert clips(folder) == dict.fromkeys([folder / "a", folder / "b.mp4"], Labelled((), True))


def test_events_in_a_labelled_span_are_touches_of_their_hands(folder: Path) -> None:
    def event(what: str, frame: int, thing: str, hand: str) -> dict[str, Any]:
        return {"object": thing, "event": what, "frame": frame, "u": 2, "hand": hand}

    events = [
        event("separation", 30, "lid", "left"),  # it was held before the span
        event("contact", 35, "jug", "right"),
        event("motion", 37, "jug", "right"),
        event("contact", 40, "doors", "both"),
        event("separation", 52, "jug", "right"),
    ]
    labels = {
        "elsewhere/b.mp4": {"labelled_span": [25, 60], "events": events},
        "a": {"labelled_span": [0, 9], "events": [event("contact", 3, "block", "image-right")]},
        "gone.mp4": {"labelled_span": [0, 9], "events": []},
    }
    (folder / "labels.json").write_text(json.dumps({"note": "by eye", "clips": labels}))
    touches = (Touch(0, 24, 30), Touch(1, 35, 52), Touch(0, 40, None), Touch(1, 40, None))
    assert clips(folder) == {
        folder / "a": Labelled((Touch(1, 3, None),), False, range(10)),
        folder / "b.mp4": Labelled(touches, True, range(25, 61)),
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("clip,hand,contact\na,left,1\n", "expected the columns clip, hand, contact, release"),
        (HEADER + "a,left,soon,2\n", "line 2, column 'contact': expected a whole number, got 'soon'"),
        (HEADER + "a,left,1.5,2\n", "line 2, column 'contact': expected a whole number, got '1.5'"),
        (HEADER + "\na,left,1,nan\n", "line 3, column 'release': expected a whole number, got 'nan'"),
        (HEADER + "c.mp4,left,1,2\n", "touches.csv, line 2: no clip 'c.mp4' in .*; it has a, b.mp4"),
        (HEADER + "a,left,1,2\na,both,1,2\n", "line 3: hand 'both'; expected left or right, or nothing"),
        (HEADER + "a,left,-1,2\n", "line 2: contact -1, release 2; expected 0 <= contact < release"),
        (HEADER + "a,left,2,2\n", "line 2: contact 2, release 2"),
        (HEADER + "a,left,,2\n", "line 2, column 'contact': expected a value, got an empty cell"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(folder: Path, table: str, words: str) -> None:
    (folder / "touches.csv").write_text(table)
    with pytest.raises(ValueError, match=words):
        clips(folder)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("{", "expected contact and separation of each clip"),
        ("[1, 2]", "expected contact and separation of each clip"),
        ('{"a": {"contact": "soon", "separation": 2}}', "soon.*expected contact and separation"),
        ('{"a": {"contact": 1.5, "separation": 2}}', "1.5 is not a frame; expected contact and separation"),
        ('{"a": {"contact": [1], "separation": 2}}', "expected contact and separation"),
        ('{"a": {"contact": 4, "separation": 4}}', "clip 'a': contact 4, separation 4: expected contact < separation"),
        ('{"c": {"contact": 1, "separation": 2}}', "no label of a, b.mp4; it has c"),
        ('{"clips": {"a": {"labelled_span": [0, 9]}}}', "'events'; .*, or its labelled_span and events"),
        ('{"clips": {"a": {"labelled_span": [0], "events": []}}}', "; .*, or its labelled_span and events"),
        (
            '{"clips": {"a": {"labelled_span": [0, 9], "events": [{"event": "contact", "frame": 12}]}}}',
            "clip 'a': contact 12 is not in its labelled_span 0 to 9",
        ),
        ('{"clips": {"c": {"labelled_span": [0, 9], "events": []}}}', "no label of a, b.mp4; it has c"),
    ],
)
def test_wrong_labels_are_refused_in_words(folder: Path, labels: str, words: str) -> None:
    (folder / "labels.json").write_text(labels)
    with pytest.raises(ValueError, match=f"labels.json: .*{words}"):
        clips(folder)


def test_a_directory_without_clips_or_truth_or_with_two_truths_is_refused(folder: Path, tmp_path: Path) -> None:
    expected = "expected clips and touches.csv, or one JSON file of labels, got"
    with pytest.raises(ValueError, match=f"{expected} 2 clips and 0 JSON files"):
        clips(folder)
    for name in ("one.json", "two.json"):
        (folder / name).write_text('{"a": {"contact": 1, "separation": 2}}')
    with pytest.raises(ValueError, match=f"{expected} 2 clips and 2 JSON files"):
        clips(folder)
    (empty := tmp_path / "empty").mkdir()
    (empty / "touches.csv").write_text(HEADER)
    with pytest.raises(ValueError, match=f"{expected} 0 clips"):
        clips(empty)
