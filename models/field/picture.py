"""A map as a small PNG: colours, walls, sensors, and the highest place that no sensor watches."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tocsin.models.field.hall import COLUMNS, KINDS, ROWS, Array, Hall

LONGER, MARGIN, FOOT = 288, 6, 14
"""Length of the longer side of a hall, and the margins, pixels."""
COLOURS = 240
WHITE, BLACK, RED = range(COLOURS, COLOURS + 3)
ANCHORS = np.array(
    [(48, 18, 59), (65, 105, 225), (40, 187, 200), (120, 220, 90), (245, 200, 50), (235, 100, 30), (122, 4, 3)]
)
"""Colours from the lowest to the highest value."""


def png(hall: Hall, field: NDArray[np.float32], live: NDArray[np.bool_], mark: Array | None = None) -> bytes:
    """The picture of a map.

    Args:
        field: `[ROWS * COLUMNS]`; NaN outside.
        live: which of the hall's sensors have a reading; the others are drawn hollow.
        mark: x, y of a cross.
    """
    scale = LONGER / hall.size.max()
    width, height = (max(round(side), 1) for side in hall.size * scale)
    known = field[np.isfinite(field)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    share = (field - low) / max(high - low, 1e-6)
    index = np.where(np.isfinite(field), np.clip(np.nan_to_num(share) * (COLOURS - 1), 0, COLOURS - 1), WHITE)
    rows = (np.arange(height)[::-1] * ROWS) // height  # y goes up
    columns = (np.arange(width) * COLUMNS) // width
    cells = np.rint(index).astype(np.uint8).reshape(ROWS, COLUMNS)[np.ix_(rows, columns)]
    sheet = np.full((height + 2 * MARGIN + FOOT, width + 2 * MARGIN), WHITE, np.uint8)
    sheet[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = cells
    image = Image.fromarray(sheet)
    image.putpalette(_palette())
    pen = ImageDraw.Draw(image)

    def at(x: float, y: float) -> tuple[float, float]:
        left, bottom = hall.corner
        return MARGIN + (x - left) * scale, MARGIN + height - (y - bottom) * scale

    for a, b, c, d in hall.segments:
        pen.line([at(a, b), at(c, d)], fill=BLACK, width=2)
    for place, is_live in zip(hall.sensors.values(), live, strict=True):
        x, y = at(*place)
        pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=WHITE if is_live else None, outline=BLACK if is_live else RED)
    if mark is not None:
        x, y = at(*mark)
        pen.line([(x - 4, y - 4), (x + 4, y + 4)], fill=RED, width=2)
        pen.line([(x - 4, y + 4), (x + 4, y - 4)], fill=RED, width=2)
    unit = KINDS[hall.kind].unit.replace("°", "")
    text = f"{low:.1f} to {high:.1f} {unit}" if len(known) else "no map"
    pen.text((MARGIN, height + 2 * MARGIN), text, fill=BLACK)
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _palette() -> list[int]:
    at = np.linspace(0, len(ANCHORS) - 1, COLOURS)
    ramp = np.stack([np.interp(at, np.arange(len(ANCHORS)), ANCHORS[:, channel]) for channel in range(3)], axis=1)
    fixed = [(255, 255, 255), (0, 0, 0), (220, 20, 20)]
    return [int(value) for colour in (*np.rint(ramp), *fixed) for value in colour]
