"""Kept frames on one sheet, what surprised drawn over them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

WIDTH = 320
"""Pixels of a frame on the sheet."""
COLUMNS = 4
LINE = 18
"""Pixels of the line of text under a frame."""


def frames(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Such as surprise.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the sheet goes [PIPELINE.png].")] = None,
    camera: Annotated[str | None, typer.Option(help="Of this one only.")] = None,
    last: Annotated[int, typer.Option(min=1, max=200, help="How many frames.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Write the last kept frames to a contact sheet (PNG), newest last; the brighter a place, the more it surprised."""
    import cv2
    import polars as pl

    from pipelines.cli.console import out as console
    from pipelines.cli.console import say_json
    from pipelines.query import results
    from pipelines.runtime.errors import ConfigError
    from pipelines.runtime.lake import read

    lake, file = context.obj.settings().lake, out or Path(f"{pipeline}.png")
    table = results(pipeline, lake=lake.open())
    if "frame" not in table.collect_schema().names():
        raise ConfigError(
            f"pipeline {pipeline}: expected one that keeps frames, got a table without a column frame; name another"
        )
    kept = table.filter(pl.col("frame").is_not_null())
    if camera is not None:
        kept = kept.filter(pl.col("key") == camera)
    rows = kept.sort("event_time").tail(last).collect().to_dicts()
    if not rows:
        raise ConfigError(f"pipeline {pipeline}: expected kept frames, got none yet; wait for an alarm")
    files, gone, drawn = lake.open().files, 0, []
    for row in rows:
        try:
            drawn.append(_drawn(read(files, row["frame"]), row))
        except FileNotFoundError:  # older than `forget_after`
            gone += 1
    if not drawn:
        raise ConfigError(
            f"pipeline {pipeline}: expected {len(rows)} kept frames in the lake, got none; they are forgotten"
        )
    written, png = cv2.imencode(".png", _sheet(drawn))
    assert written
    file.write_bytes(png.tobytes())
    if json:
        say_json({"file": str(file), "frames": len(drawn), "forgotten": gone})
    else:
        console.print(f"{len(drawn)} frames on {file}" + (f", {gone} are forgotten" if gone else ""))


def _drawn(file: bytes, row: dict[str, Any]) -> Image:
    """A frame as wide as its place on the sheet, its map over it and a line under it."""
    import cv2
    import numpy as np

    whole = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert whole is not None  # it has been decoded before it was kept
    height = round(whole.shape[0] * WIDTH / whole.shape[1])
    image = cv2.resize(whole, (WIDTH, height), interpolation=cv2.INTER_AREA)
    if places := row.get("map"):
        grid = np.asarray(places, np.float32)
        heat = cv2.resize(grid, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
        share = np.clip(heat / max(float(grid.max()), 1e-6), 0, 1)
        coloured = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        strength = (0.7 * share**1.5)[..., None]
        image = (image * (1 - strength) + coloured * strength).astype(np.uint8)
    line = np.zeros((LINE, WIDTH, 3), np.uint8)
    score = "" if row.get("score") is None else f"  {row['score']:.2f}"
    text = f"{row['key'][:20]}  {row['event_time']:%Y-%m-%d %H:%M:%S}{score}"
    cv2.putText(line, text, (4, LINE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([image, line])


def _sheet(drawn: list[Image]) -> Image:
    """Frames in rows, from the top left."""
    import numpy as np

    height = max(len(image) for image in drawn)
    columns = min(COLUMNS, len(drawn))
    places = -(-len(drawn) // columns) * columns
    sheet = np.zeros((places // columns * height, columns * WIDTH, 3), np.uint8)
    for n, image in enumerate(drawn):
        y, x = n // columns * height, n % columns * WIDTH
        sheet[y : y + len(image), x : x + WIDTH] = image
    return sheet
