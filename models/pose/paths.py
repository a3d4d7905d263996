"""Footage with a known path.

A directory for `tocsin evaluate pose --data DIR` holds clips (see `tocsin.models.vision.video`) and one table, `paths.csv`, with
a header and these columns:

    clip            the name of the file or directory in DIR
    frame           number of the frame, from 0
    x, y, z         where the camera was, m: right, down and ahead of any point
    qw, qx, qy, qz  its turn, a quaternion from its axes (right, down, ahead) to those of x, y and z; all or none
    focal           focal length, in frame widths; may be absent, or empty for some clips

The table has one row for each frame. Where turns are absent, only `aligned` is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tocsin.models.folders import listed, named
from tocsin.models.pose.evaluate import matrices
from tocsin.models.pose.simulation.path import Path as Way
from tocsin.models.tables import Sheet, read
from tocsin.models.vision.video import VIDEOS, is_clip

TRUTH = "paths.csv"
UNIT = 0.01
"""By how much a quaternion's length may be off 1."""
PLACES, TURNS = ("x", "y", "z"), ("qw", "qx", "qy", "qz")


@dataclass(frozen=True)
class Known:
    """The true path of a clip.

    Args:
        turned: whether its turns are known; otherwise they are the identity.
        focal: of its lens, in frame widths; None: not known.
    """

    way: Way
    turned: bool
    focal: float | None


def paths(directory: Path) -> dict[Path, Known]:
    """The clips of a directory that the table names, in name order, with their paths.

    Raises:
        ValueError: there is no table or no clip, a column is missing, the table names an unknown clip, or a clip's frames are not
            0, 1, ...
    """
    table = named(directory, TRUTH)
    if table is None:
        raise ValueError(f"{directory} has no {TRUTH}; expected one with the columns clip, frame, x, y, z")
    found = {path.name: path for path in listed(directory) if is_clip(path)}
    if not found:
        raise ValueError(f"{directory} has no clips; expected files {', '.join(VIDEOS)} or directories of pictures")
    sheet = read(table)
    sheet.require("clip", "frame", *PLACES)
    names, numbers = sheet.texts("clip").to_list(), sheet.integers("frame").to_numpy()
    turned, has_focal = all(name in sheet.cells.columns for name in TURNS), "focal" in sheet.cells.columns
    columns = np.stack([sheet.numbers(name).to_numpy() for name in (*PLACES, *(TURNS if turned else ()))], 1)
    if turned:
        length = pl.Series(np.linalg.norm(columns[:, 3:], axis=1))
        sheet.refuse((length - 1).abs() > UNIT, TURNS[0], "a quaternion whose four numbers have length 1")
    focals = _focals(sheet) if has_focal else None
    known: dict[Path, Known] = {}
    for name in sorted(set(names)):
        if name not in found:
            raise ValueError(f"{table}: no clip {name!r} in {directory}; it has {', '.join(found)}")
        rows = np.array([row for row, clip in enumerate(names) if clip == name])
        if not np.array_equal(numbers[rows], np.arange(len(rows))):
            raise ValueError(f"{table}: clip {name}: expected a row for each frame, 0, 1, ..., got others; sort them")
        turns = matrices(columns[rows, 3:]) if turned else np.tile(np.eye(3), (len(rows), 1, 1))
        focal = focals[rows[0]] if focals else None
        known[found[name]] = Known(Way(columns[rows, :3], turns), turned, focal)
    return known


def _focals(sheet: Sheet) -> list[float | None]:
    """The focal length of each row; None where it is not known."""
    focals = sheet.numbers("focal", empty=True)
    sheet.refuse(focals <= 0, "focal", "a length in frame widths above 0")
    return focals.to_list()
