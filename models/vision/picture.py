"""Still pictures and the way up they are: the one decoder for what comes as a message, lies in a folder or is trained on."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

MAX_PIXELS = 36_000_000
"""8K, and a little more: a header that says more is refused before a byte of the image is decoded."""
COLOURS = ("Gray", "YCbCr", "RGB")
_JPEG, _EXIF = b"\xff\xd8", b"Exif\0\0"
_ORIENTATION = 0x0112
_BEGINNING = 1 << 18
"""Bytes of a JPEG in which its orientation is looked for; EXIF comes before the image."""


class Turn(NamedTuple):
    """How stored rows and columns become upright ones: swap them, then reverse columns, then rows."""

    swap: bool = False
    columns: bool = False
    rows: bool = False

    def __call__(self, picture: Picture) -> Picture:
        """`[H, W, 3]` as it was seen."""
        picture = picture.swapaxes(0, 1) if self.swap else picture
        return np.ascontiguousarray(picture[:: -1 if self.rows else 1, :: -1 if self.columns else 1])


TURNS = {
    2: Turn(columns=True),
    3: Turn(columns=True, rows=True),
    4: Turn(rows=True),
    5: Turn(swap=True),
    6: Turn(swap=True, columns=True),
    7: Turn(swap=True, columns=True, rows=True),
    8: Turn(swap=True, rows=True),
}
"""By EXIF's orientation; 1 is upright."""


def decode(file: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A JPEG, PNG, BMP or WebP file as `[H, W, 3]` uint8 RGB, the way up that its EXIF says.

    Raises:
        ValueError: it is not whole, none of these, too large or in another colour space.
    """
    return decode_jpeg(file, max_pixels=max_pixels) if file[:2] == _JPEG else _decode_other(file, max_pixels)


def decode_jpeg(file: bytes, *, least: tuple[int, int] = (0, 0), max_pixels: int = MAX_PIXELS) -> Picture:
    """A JPEG file as `[H, W, 3]` uint8 RGB, the way up that its EXIF says.

    Args:
        least: rows and columns that are enough; the decoder scales by eighths for next to nothing, and stays above.

    Raises:
        ValueError: it is no whole JPEG, too large, or in another colour space.
    """
    import simplejpeg

    turn = _turn(file)
    rows, columns = least[::-1] if turn.swap else least
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError as reason:
        raise ValueError(f"expected a whole JPEG, got {len(file)} bytes: {reason}") from None
    _check_size(height, width, max_pixels)
    if colours not in COLOURS:
        raise ValueError(f"expected colours in one of {', '.join(COLOURS)}, got {colours}")
    try:
        picture: Picture = simplejpeg.decode_jpeg(file, "RGB", min_height=rows, min_width=columns)
    except ValueError as reason:
        raise ValueError(f"expected a whole JPEG, got {len(file)} bytes: {reason}") from None
    return turn(picture)


def _turn(file: bytes) -> Turn:
    """What a JPEG says of its orientation; EXIF that can't be read says nothing."""
    if file.find(_EXIF, 0, _BEGINNING) < 0:
        return Turn()
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            return TURNS.get(image.getexif().get(_ORIENTATION, 1), Turn())
    except Exception:  # whatever is wrong with it, the decoder has the last word on the picture
        return Turn()


def _decode_other(file: bytes, max_pixels: int) -> Picture:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "BMP", "WEBP")) as image:
            _check_size(image.height, image.width, max_pixels)
            image.load()
            turn = TURNS.get(image.getexif().get(_ORIENTATION, 1), Turn())
            if image.mode.startswith("I;16"):  # to RGB it would be clipped, not scaled
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return turn(np.repeat(grey[:, :, None], 3, axis=2))
            return turn(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, Image.DecompressionBombError) as reason:
        raise ValueError(f"expected a whole JPEG, PNG, BMP or WebP, got {len(file)} bytes: {reason}") from None


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(f"expected at most {max_pixels} pixels, got {width} x {height}")
