"""Recorded clips and their ground truth.

A directory for `tocsin evaluate touch --data DIR` holds clips, see `tocsin.models.vision.video`, and one file of labels. Either it
is `touches.csv`, with a header and the columns

    clip        the file's or directory's name, as it is in DIR
    hand        left or right; empty: unknown
    contact     the first frame in which the hand touches a thing, counted from 0
    release     the first frame in which it no longer does; empty: the clip ends before

It has one row per touch, in any order; a clip without a row has no touches. Or the file is JSON, in one of two forms:

- an object that maps a clip's name without its suffix to `{"contact": 3, "separation": 26}`, as in EgoLoc's labels. Clips without a
  label, or with one that lacks a contact or a separation, are ignored;
- an object whose `clips` maps a clip's file name to `{"labelled_span": [84, 251], "events": [{"object": "jug", "event": "contact",
  "frame": 91, "hand": "right"}, ...]}`. An event is a contact, a separation, or something else, which is ignored. The hand may be
  `both`; if it is not left, right or both, it is unknown. Only what lies in the span, both ends included, is scored. Clips that
  are not listed are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from tocsin.models.folders import listed, named
from tocsin.models.tables import Sheet, read
from tocsin.models.touch.truth import HANDS, Touch
from tocsin.models.vision.video import is_clip

TRUTH = "touches.csv"
ENDS = ("contact", "separation")
"""Names of a touch's two events in JSON."""
BOTH = "both"
UNKNOWN = "right"
"""The hand that is given where none is known."""


@dataclass(frozen=True)
class Labelled:
    """A clip's touches, and whether their hands are known. An unknown hand is given as the right one.

    Args:
        span: frames in which all touches are labelled; None: the whole clip.
    """

    touches: tuple[Touch, ...]
    hands: bool
    span: range | None = None


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
        touches[clip].append(Touch(HANDS.index(hand or UNKNOWN), contact, release))
    known = not hands.null_count()
    return {path: Labelled(tuple(sorted(touches[path.name], key=lambda t: t.contact)), known) for path in paths}


def _labels(file: Path, paths: list[Path]) -> dict[Path, Labelled]:
    try:
        labels = orjson.loads(file.read_bytes())
        spans = labels.get("clips")
        known = in_spans(spans) if isinstance(spans, dict) else _with_both_ends(labels)
    except (ValueError, TypeError, AttributeError, LookupError) as reason:
        wanted = "expected contact and separation of each clip, or its labelled_span and events"
        raise ValueError(f"{file}: {reason}; {wanted}") from None
    labelled = {path: known[path.stem] for path in paths if path.stem in known}
    if not labelled:
        raise ValueError(f"{file}: no label of {', '.join(path.name for path in paths)}; it has {', '.join(known)}")
    return labelled


def _with_both_ends(labels: dict[str, Any]) -> dict[str, Labelled]:
    """The clips, by name, whose label has a contact and a separation."""
    return {
        name: Labelled((_touch(name, _frame(label["contact"]), _frame(label["separation"])),), hands=False)
        for name, label in labels.items()
        if isinstance(label, dict) and label.get("contact") is not None and label.get("separation") is not None
    }


def in_spans(labels: dict[str, Any]) -> dict[str, Labelled]:
    """The clips, by name, whose events are labelled in a span."""
    known = dict[str, Labelled]()
    for name, label in labels.items():
        first, last = (_frame(end) for end in label["labelled_span"])
        ends = [(_frame(event["frame"]), event) for event in label["events"] if event["event"] in ENDS]
        for frame, event in ends:
            if not first <= frame <= last:
                raise ValueError(
                    f"clip {name!r}: {event['event']} {frame} is not in its labelled_span {first} to {last}"
                )
        events = [event | {"frame": frame} for frame, event in sorted(ends, key=lambda end: end[0])]
        hands = all(event.get("hand") in (*HANDS, BOTH) for event in events)
        known[Path(name).stem] = Labelled(_joined(events, first), hands, range(first, last + 1))
    return known


def _joined(events: list[dict[str, Any]], first: int) -> tuple[Touch, ...]:
    """Touches from events in order, each from a hand's contact with an object to its separation."""
    touching, touches = dict[tuple[int, str], Touch](), list[Touch]()
    for event in events:
        side, frame = event.get("hand"), event["frame"]
        for hand in range(len(HANDS)) if side == BOTH else (HANDS.index(side if side in HANDS else UNKNOWN),):
            held = hand, str(event.get("object"))
            if event["event"] == ENDS[0]:
                touching[held] = Touch(hand, frame, None)
            else:  # a touch without a contact began before the span
                touches.append(replace(touching.pop(held, Touch(hand, first - 1, None)), release=frame))
    return tuple(sorted([*touches, *touching.values()], key=lambda touch: (touch.contact, touch.hand)))


def _touch(clip: str, contact: int, separation: int) -> Touch:
    if separation <= contact:
        raise ValueError(f"clip {clip!r}: contact {contact}, separation {separation}: expected contact < separation")
    return Touch(HANDS.index(UNKNOWN), contact, separation)


def _frame(label: Any) -> int:
    """Parse a frame number, which may be written 3.0."""
    if isinstance(label, bool) or not isinstance(label, int | float) or label != int(label) or label < 0:
        raise ValueError(f"{label!r} is not a frame")
    return int(label)
