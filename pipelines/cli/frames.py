"""The command `frames`: kept frames on one sheet, each with its map, or in a line around each event."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
    from pyarrow.fs import FileSystem

    Image = NDArray[np.uint8]

WIDTH = 320
"""Width of a frame on the sheet, in pixels."""
TALLEST = 2 * WIDTH
"""Height of a frame on the sheet, at most; a taller one is squeezed."""
COLUMNS = 4
AROUND = 4
"""Frames before and after an event, on its line of the sheet."""
LINE = 18
"""Height of the line of text under a frame, in pixels."""


def frames(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline that keeps frames.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File for the sheet [PIPELINE.png].")] = None,
    camera: Annotated[str | None, typer.Option(help="Only frames of this camera.")] = None,
    last: Annotated[int, typer.Option(min=1, max=200, help="Number of frames, or of events.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Write the last kept frames to a contact sheet (PNG), newest last.

    If the pipeline gives a map of each frame, the map is drawn over it: a brighter place has a higher score. If it gives events,
    each event has a line with the frames around it.
    """
    import cv2
    import polars as pl

    from tocsin.pipelines.cli.console import out as console
    from tocsin.pipelines.cli.console import say_json
    from tocsin.pipelines.query import results
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.lake.storage import write_aside

    lake, file = context.obj.settings().lake, out or Path(f"{pipeline}.png")
    table = results(pipeline, lake=lake.open())
    if "frame" not in table.collect_schema().names():
        raise ConfigError(
            f"pipeline {pipeline}: expected one that keeps frames, got a table without a column frame; name another"
        )
    frame_rows = table.filter(pl.col("frame").is_not_null())
    if camera is not None:
        frame_rows = frame_rows.filter(pl.col("key") == camera)
    row_lines = _lines(frame_rows, last)
    if not row_lines:
        of = "" if camera is None else f" of {camera}"
        raise ConfigError(f"pipeline {pipeline}: expected kept frames{of}, got none yet; wait until one is kept")
    files = lake.open().files
    lines = [[_drawn(content, row) for row in line if (content := _file(files, row["frame"]))] for line in row_lines]
    drawn = sum(map(len, lines))
    expired = sum(map(len, row_lines)) - drawn
    if not drawn:
        raise ConfigError(
            f"pipeline {pipeline}: expected {expired} kept frames in the lake, got none: they expired; raise forget_after"
        )
    written, png = cv2.imencode(".png", _sheet([line for line in lines if line]))
    assert written
    write_aside(file, png.tobytes())
    if json:
        say_json({"file": str(file), "frames": drawn, "forgotten": expired})
    else:
        console.print(f"{drawn} frames written to {file}" + (f", {expired} have expired" if expired else ""))


def _lines(frame_rows: pl.LazyFrame, last: int) -> list[list[dict[str, Any]]]:
    """The rows for each line of the sheet: the frames around each of the last events, or `COLUMNS` of the last frames."""
    import polars as pl

    names = [name for name in frame_rows.collect_schema().names() if name.endswith("_event")]
    if not names:
        rows = frame_rows.sort("event_time").tail(last).collect().to_dicts()
        return [rows[n : n + COLUMNS] for n in range(0, len(rows), COLUMNS)]
    has_event = pl.any_horizontal(pl.col(names).is_not_null())
    events = frame_rows.filter(has_event).sort("event_time").tail(last).collect().to_dicts()
    if not events:
        return []
    rows = (
        frame_rows.filter(pl.col("event_time") > events[0]["event_time"] - timedelta(seconds=1))
        .sort("event_time")
        .collect()
        .to_dicts()
    )
    return [
        [row for row in rows if row["key"] == event["key"] and abs(row["sequence"] - event["sequence"]) <= AROUND]
        for event in events
    ]


def _file(files: FileSystem, path: str) -> bytes | None:
    """A kept frame; None if it is gone because it is older than `forget_after`."""
    from tocsin.pipelines.runtime.lake.storage import read

    try:
        return read(files, path)
    except FileNotFoundError:
        return None


def _drawn(file: bytes, row: dict[str, Any]) -> Image:
    """A frame scaled to `WIDTH`, with its map over it and a line of text under it."""
    import cv2
    import numpy as np

    from tocsin.models.vision.picture import decode

    picture = decode(file)[..., ::-1]  # OpenCV draws in BGR
    height = min(max(round(picture.shape[0] * WIDTH / picture.shape[1]), 1), TALLEST)
    image = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    if places := row.get("map"):
        grid = np.asarray(places, np.float32)
        heat = cv2.resize(grid, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
        share = np.clip(heat / max(float(grid.max()), 1e-6), 0, 1)
        coloured = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        strength = (0.7 * share**1.5)[..., None]
        image = (image * (1 - strength) + coloured * strength).astype(np.uint8)
    line = np.zeros((LINE, WIDTH, 3), np.uint8)
    events = [f"{name.removesuffix('_event')} {row[name]}" for name in row if name.endswith("_event") and row[name]]
    labels = [f"{row['score']:.2f}"] if row.get("score") is not None else events
    text = "  ".join([row["key"][:20], f"{row['event_time']:%Y-%m-%d %H:%M:%S}", *labels])
    if events:
        cv2.rectangle(image, (0, 0), (WIDTH - 1, height - 1), (80, 200, 255), 3)
    cv2.putText(line, text, (4, LINE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([image, line])


def _sheet(lines: list[list[Image]]) -> Image:
    """Put lines of frames on one sheet, from the top left."""
    import numpy as np

    height = max(len(image) for line in lines for image in line)
    sheet = np.zeros((len(lines) * height, max(map(len, lines)) * WIDTH, 3), np.uint8)
    for n, line in enumerate(lines):
        for m, image in enumerate(line):
            sheet[n * height : n * height + len(image), m * WIDTH : (m + 1) * WIDTH] = image
    return sheet
