"""Recorded clips and the truth about them.

A directory for `tocsin evaluate touch --data DIR` holds clips, see `models.vision.video`, and one table. Either `touches.csv`, with
a header and the columns

    clip        the file's or directory's name, as it is in DIR
    hand        left or right; empty: nobody knows
    contact     the first frame in which the hand touches a thing, counted from 0
    release     the first frame in which it no longer does; empty: the clip ends before

one row a touch, in any order; a clip without a row has none. Or one JSON file, an object with the name of a clip without its suffix
for a key, and `{"contact": 3, "separation": 26}` for its value, as EgoLoc's labels are; others of its clips count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson
import polars as pl

from models.touch.truth import HANDS, Touch
from models.vision.video import is_clip

TRUTH = "touches.csv"


@dataclass(frozen=True)
class Labelled:
    """A clip's touches, and whether their hands are known; unknown ones are given as the right."""

    touches: tuple[Touch, ...]
    hands: bool


def clips(directory: Path) -> dict[Path, Labelled]:
    """The clips of a directory in the order of their names, each with its truth.

    Raises:
        ValueError: there is no table, or more than one; or it is not as it should be.
    """
    found = [path for path in sorted(directory.iterdir()) if is_clip(path)]
    table, others = directory / TRUTH, sorted(directory.glob("*.json"))
    if not found or not (table.is_file() or len(others) == 1):
        raise ValueError(
            f"{directory}: expected clips and {TRUTH}, or one JSON file of labels, got {len(found)} clips and "
            f"{len(others)} JSON files"
        )
    return _table(table, found) if table.is_file() else _labels(others[0], found)


def _table(table: Path, found: list[Path]) -> dict[Path, Labelled]:
    wanted = {"clip": pl.String, "hand": pl.String, "contact": pl.Int64, "release": pl.Int64}
    try:
        rows = pl.read_csv(table, schema_overrides=wanted).select(list(wanted))
    except pl.exceptions.PolarsError as reason:
        raise ValueError(f"{table}: {reason}; expected the columns {', '.join(wanted)}") from None
    told: dict[str, list[Touch]] = {path.name: [] for path in found}
    for line, (clip, hand, contact, release) in enumerate(rows.iter_rows(), 2):
        where = f"{table}, line {line}"
        if clip not in told:
            raise ValueError(f"{where}: no clip {clip!r} in {table.parent}; it has {', '.join(told)}")
        if hand not in (None, *HANDS):
            raise ValueError(f"{where}: hand {hand!r}; expected {' or '.join(HANDS)}, or nothing")
        if contact is None or contact < 0 or (release is not None and release <= contact):
            raise ValueError(f"{where}: contact {contact}, release {release}; expected 0 <= contact < release")
        told[clip].append(Touch(HANDS.index(hand or "right"), contact, release))
    known = not rows["hand"].null_count()
    return {path: Labelled(tuple(sorted(told[path.name], key=lambda t: t.contact)), known) for path in found}


def _labels(file: Path, found: list[Path]) -> dict[Path, Labelled]:
    try:
        said = orjson.loads(file.read_bytes())
        touches = {
            name: (Touch(1, int(label["contact"]), int(label["separation"])),)
            for name, label in said.items()
            if isinstance(label, dict) and label.get("contact") is not None and label.get("separation") is not None
        }
    except (ValueError, TypeError, AttributeError) as reason:
        raise ValueError(f"{file}: {reason}; expected contact and separation of each clip") from None
    labelled = {path: touches[path.stem] for path in found if path.stem in touches}
    if not labelled:
        raise ValueError(f"{file}: no label of {', '.join(path.name for path in found)}; it has {', '.join(touches)}")
    return {path: Labelled(one, hands=False) for path, one in labelled.items()}
