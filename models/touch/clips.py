"""Recorded clips and their ground truth.

A directory for `tocsin evaluate touch --data DIR` holds clips, see `tocsin.models.vision.video`, and one file of labels. Either it
is `touches.csv`, with a header and the columns

    clip        the file's or directory's name, as it is in DIR
    hand        left or right; empty: unknown
    contact     the first frame in which the hand touches a thing, counted from 0
    release     the first frame in which it no longer does; empty: the clip ends before

It has one row per touch, in any order; a clip without a row has no touches. Or the file is JSON: an object that maps a clip's name
without its suffix to `{"contact": 3, "separation": 26}`, as in EgoLoc's labels. Clips without a label, or with one that
lacks a contact or a separation, are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tocsin.models.folders import listed, named
from tocsin.models.tables import Sheet, read
from tocsin.models.touch.truth import HANDS, Touch
from tocsin.models.vision.video import is_clip

TRUTH = "touches.csv"


@dataclass(frozen=True)
class Labelled:
    """A clip's touches, and whether their hands are known. An unknown hand is given as the right one."""

    touches: tuple[Touch, ...]
    hands: bool


def clips(directory: Path, *, decimal_comma: bool = False) -> dict[Path, Labelled]:
    """Read the clips of a directory, ordered by name, each with its truth.

    Raises:
        ValueError: there are no clips, there is no file of labels or more than one, or the file is invalid.
    """
    paths = [path for path in listed(directory) if is_clip(path)]
    table, others = named(directory, TRUTH), listed(directory, ".json")
    if not paths or not (table or len(others) == 1):
        raise ValueError(
            f"{directory}: expected clips and {TRUTH}, or one JSON file of labels, got {len(paths)} clips and "
            f"{len(others)} JSON files"
        )
    return _table(read(table, decimal_comma=decimal_comma), paths) if table else _labels(others[0], paths)


def _table(sheet: Sheet, paths: list[Path]) -> dict[Path, Labelled]:
    sheet.require("clip", "hand", "contact", "release")
    clips, hands = sheet.texts("clip"), sheet.texts("hand", empty=True)
    contacts, releases = sheet.integers("contact"), sheet.integers("release", empty=True)
    touches: dict[str, list[Touch]] = {path.name: [] for path in paths}
    for row, (clip, hand, contact, release) in enumerate(zip(clips, hands, contacts, releases, strict=True)):
        wrong = ""
        if clip not in touches:
            wrong = f"no clip {clip!r} in {sheet.path.parent}; it has {', '.join(touches)}"
        elif hand not in (None, *HANDS):
            wrong = f"hand {hand!r}; expected {' or '.join(HANDS)}, or nothing"
        elif contact < 0 or (release is not None and release <= contact):
            wrong = f"contact {contact}, release {release}; expected 0 <= contact < release"
        if wrong:
            raise ValueError(f"{sheet.path}, line {sheet.line(row)}: {wrong}")
        touches[clip].append(Touch(HANDS.index(hand or "right"), contact, release))
    known = not hands.null_count()
    return {path: Labelled(tuple(sorted(touches[path.name], key=lambda t: t.contact)), known) for path in paths}


def _labels(file: Path, paths: list[Path]) -> dict[Path, Labelled]:
    try:
        labels = orjson.loads(file.read_bytes())
        touches = {
            name: (_touch(name, _frame(label["contact"]), _frame(label["separation"])),)
            for name, label in labels.items()
            if isinstance(label, dict) and label.get("contact") is not None and label.get("separation") is not None
        }
    except (ValueError, TypeError, AttributeError) as reason:
        raise ValueError(f"{file}: {reason}; expected contact and separation of each clip") from None
    labelled = {path: touches[path.stem] for path in paths if path.stem in touches}
    if not labelled:
        raise ValueError(f"{file}: no label of {', '.join(path.name for path in paths)}; it has {', '.join(touches)}")
    return {path: Labelled(touch, hands=False) for path, touch in labelled.items()}


def _touch(clip: str, contact: int, separation: int) -> Touch:
    if separation <= contact:
        raise ValueError(f"clip {clip!r}: contact {contact}, separation {separation}: expected contact < separation")
    return Touch(1, contact, separation)


def _frame(label: Any) -> int:
    """Parse a frame number, which may be written 3.0."""
    if isinstance(label, bool) or not isinstance(label, int | float) or label != int(label) or label < 0:
        raise ValueError(f"{label!r} is not a frame")
    return int(label)
