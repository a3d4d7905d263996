"""Decode still pictures upright: the single decoder for messages, folders and training data."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

MAX_PIXELS = 36_000_000
"""A little more than 8K. A larger image is refused by its header, before any of it is decoded."""
COLOURS = ("Gray", "YCbCr", "RGB")
_JPEG, _EXIF = b"\xff\xd8", b"Exif\0\0"
_ORIENTATION = 0x0112
_BEGINNING = 1 << 18
"""Bytes at the start of a JPEG that are searched for EXIF, which comes before the image."""


class Turn(NamedTuple):
    """How to turn a stored picture upright: swap rows and columns, then reverse columns, then rows."""

    swap: bool = False
    columns: bool = False
    rows: bool = False

    def __call__(self, picture: Picture) -> Picture:
        """Turn a picture `[H, W, 3]` upright."""
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
"""Turns by EXIF orientation; 1 is upright."""


def decode(file: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a JPEG, PNG, BMP or WebP file to `[H, W, 3]` uint8 RGB, turned upright by its EXIF orientation.

    Raises:
        ValueError: the file is incomplete, of another format, too large or in another colour space.
    """
    return decode_jpeg(file, max_pixels=max_pixels) if file[:2] == _JPEG else _decode_other(file, max_pixels)


def decode_jpeg(file: bytes, *, min_size: tuple[int, int] = (0, 0), max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a JPEG file to `[H, W, 3]` uint8 RGB, turned upright by its EXIF orientation.

    Args:
        min_size: rows and columns that are enough. Decoding scales by eighths at almost no cost, but not below it.

    Raises:
        ValueError: the file is not a complete JPEG, too large, or in another colour space.
    """
    import simplejpeg

    turn = _turn(file)
    rows, columns = min_size[::-1] if turn.swap else min_size
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


def scaled(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture in another size, rows and columns: `[H, W, 3]` -> `[*size, 3]`. Nothing is cropped."""
    import cv2

    if picture.shape[:2] == size:
        return picture
    shrinks = picture.shape[0] >= size[0] and picture.shape[1] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=method), np.uint8)


def shape_of(file: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG, turned upright by its EXIF orientation, without decoding it."""
    import simplejpeg

    height, width, _, _ = simplejpeg.decode_jpeg_header(file)
    return (width, height) if _turn(file).swap else (height, width)


def _turn(file: bytes) -> Turn:
    """Read the orientation from a JPEG's EXIF; upright if EXIF is missing or cannot be read."""
    if file.find(_EXIF, 0, _BEGINNING) < 0:
        return Turn()
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            return TURNS.get(image.getexif().get(_ORIENTATION, 1), Turn())
    except Exception:  # damaged EXIF is ignored; the decoder decides whether the picture is valid
        return Turn()


def _decode_other(file: bytes, max_pixels: int) -> Picture:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "BMP", "WEBP")) as image:
            _check_size(image.height, image.width, max_pixels)
            image.load()
            turn = TURNS.get(image.getexif().get(_ORIENTATION, 1), Turn())
            if image.mode.startswith("I;16"):  # Pillow's conversion to RGB would clip it, not scale it
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return turn(np.repeat(grey[:, :, None], 3, axis=2))
            return turn(np.asarray(image.convert("RGB")))
    except Image.UnidentifiedImageError:
        raise ValueError(f"expected a whole JPEG, PNG, BMP or WebP, got {len(file)} bytes of something else") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as reason:
        raise ValueError(f"expected a whole JPEG, PNG, BMP or WebP, got {len(file)} bytes: {reason}") from None


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(f"expected at most {max_pixels} pixels, got {width} x {height}")
