"""Real footage and its ground truth.

A directory for `tocsin evaluate surprise --data DIR` holds clips (see `tocsin.models.vision.video`) and one table, `novelties.csv`,
with a header and these columns:

    clip        the name of the file or directory in DIR
    start_s     when something new comes into sight, s from the clip's first frame
    end_s       when it was last in sight, s, not before start_s
    kind        what it is, any text

The table has one row per interval, in any order. Every clip in DIR takes part. A clip without a row has nothing new, and every
alert in it is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tocsin.models.folders import listed, named
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.tables import read as read_table
from tocsin.models.vision.video import VIDEOS, is_clip

TRUTH = "novelties.csv"


def clips(directory: Path, *, decimal_comma: bool = False) -> dict[Path, tuple[tuple[float, float, str], ...]]:
    """The clips of a directory in name order, each with its intervals (start s, end s, kind) in order of start.

    Raises:
        ValueError: there is no table or no clip, a column is missing, the table names an unknown clip, or an interval is invalid.
    """
    table = named(directory, TRUTH)
    if table is None:
        raise ValueError(f"{directory} has no {TRUTH}; expected one with the columns clip, start_s, end_s, kind")
    found = {path.name: path for path in listed(directory) if is_clip(path)}
    if not found:
        raise ValueError(f"{directory} has no clips; expected files {', '.join(VIDEOS)} or directories of pictures")
    sheet = read_table(table, decimal_comma=decimal_comma)
    sheet.require("clip", "start_s", "end_s", "kind")
    columns = sheet.texts("clip"), sheet.numbers("start_s"), sheet.numbers("end_s"), sheet.texts("kind", empty=True)
    truth: dict[str, list[tuple[float, float, str]]] = {name: [] for name in found}
    for row, (clip, start, end, kind) in enumerate(zip(*columns, strict=True)):
        if clip not in truth:
            raise ValueError(
                f"{table}, line {sheet.line(row)}: no clip {clip!r} in {directory}; it has {', '.join(found)}"
            )
        if not 0 <= start <= end:
            raise ValueError(
                f"{table}, line {sheet.line(row)}: from {start} to {end} s; expected 0 <= start_s <= end_s"
            )
        truth[clip].append((start, end, kind or "unknown"))
    return {found[name]: tuple(sorted(intervals)) for name, intervals in truth.items()}


def intervals(truth: Sequence[tuple[float, float, str]], rate: float) -> tuple[Novelty, ...]:
    """Convert intervals in seconds to frames, at `rate` frames a second."""
    return tuple(Novelty(int(start * rate), int(end * rate), kind) for start, end, kind in truth)
