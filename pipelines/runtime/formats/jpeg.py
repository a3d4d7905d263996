"""Frames: a JPEG in the message, or a reference to one. Files are checked first, then decoded in threads at reduced scale."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from tocsin.models.vision import picture
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.records import Headers, Records
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, media_type, show
from tocsin.pipelines.runtime.formats.volatile import ALTERED, MISSING, UNREACHABLE

JPEG = "image/jpeg"
JPEG_ALIASES = ("image/jpg", "image/pjpeg")
PIXELS, WHOLE = "pixels", "jpeg"
"""Sources in the metadata of a frame's fields: the decoded image, and the file as received."""
URI, SHA256 = "frame-uri", "frame-sha256"
ATTEMPTS, PAUSE_S = 3, 0.2
FACTS = [
    pa.field("camera", pa.string(), nullable=False, metadata={"from": "header:camera"}),
    pa.field("sequence", pa.int64(), nullable=False, metadata={"from": "header:sequence"}),
    pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"from": "header:time"}),
]
"""The fields that a camera's messages carry in headers; see `tocsin.pipelines.runtime.formats.video`."""


def frame_fields(height: int, width: int, *, roots: Sequence[str] = ()) -> list[pa.Field]:
    """The fields of a schema of frames: `jpeg`, the file as received, and `pixels`, `height * width * 3` bytes RGB.

    Args:
        height, width: the size that every frame is scaled to. Nothing is cropped, so another aspect ratio is distorted.
        roots: folders (paths or URIs) whose frames a message may reference; none: frames must be in their messages.
    """
    metadata = {"from": PIXELS, "height": str(height), "width": str(width), "roots": orjson.dumps(list(roots)).decode()}
    return [
        pa.field("jpeg", pa.binary(), nullable=False, metadata={"from": WHOLE}),
        pa.field("pixels", pa.binary(height * width * 3), nullable=False, metadata=metadata),
    ]


class FrameReader:
    """Reads records that are frames.

    A value is one JPEG, `content-type: image/jpeg`. Or the headers reference a file (a claim check): `frame-uri`, under one of
    the schema's roots, and `frame-sha256` in hexadecimal; the value is then ignored. A file that is not a JPEG, is truncated,
    damaged, larger than `picture.MAX_PIXELS` or in another colour space than grey and RGB is refused: `BadFrame`.

    Args:
        topic: the topic's name, for error messages.
        fields: the schema's fields from `jpeg` and `pixels`.
        max_bytes: the most bytes of a file.

    Raises:
        ConfigError: there are not one or two such fields, or a root is not an absolute path or a URI of a folder.
    """

    def __init__(self, topic: str, fields: Sequence[pa.Field], max_bytes: int) -> None:
        by_source = {(f.metadata or {})[b"from"].decode(): f for f in fields}
        if len(by_source) < len(fields) or PIXELS not in by_source:
            raise ConfigError(
                f"{topic}: expected one field from {PIXELS!r} and at most one from {WHOLE!r}, got {list(fields)}"
            )
        facts = {name.decode(): text.decode() for name, text in by_source[PIXELS].metadata.items()}
        self._fields, self._pixels, self._max_bytes = fields, by_source[PIXELS], max_bytes
        self._height, self._width = int(facts["height"]), int(facts["width"])
        self._roots: list[str] = orjson.loads(facts.get("roots", "[]"))
        for root in self._roots:
            _root(topic, root)

    def read(self, records: Records, out: DecodedPoll) -> None:
        """Decode a poll's frames, many at a time."""
        if not records:
            return
        pixels = np.empty((len(records), self._height, self._width, 3), np.uint8)
        files = list(self._threads.map(self._one, records.values, records.headers, pixels))
        valid = [i for i, file in enumerate(files) if not isinstance(file, RejectedError)]
        out.rejected += [(i, None, file) for i, file in enumerate(files) if isinstance(file, RejectedError)]
        if not valid:
            return
        image = _column(self._pixels, pixels if len(valid) == len(files) else pixels[valid])
        columns = {self._pixels.name: image}
        files_column = pa.array([files[i] for i in valid], pa.binary())
        positions = np.array(valid, np.int64)
        row = [columns.get(f.name, files_column) for f in self._fields]
        out.pieces.append((positions, np.zeros_like(positions), row))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        # The decoder and the scaler both release the GIL.
        return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    def _one(self, value: bytes | None, headers: Headers, pixels: NDArray[np.uint8]) -> bytes | RejectedError:
        """Decode a record's image into `pixels`. Returns its file, or the reason why the record is refused."""
        try:
            file = self._file(value, headers)
            decode(file, pixels)
        except RejectedError as why:
            return why
        return file

    def _file(self, value: bytes | None, headers: Headers) -> bytes:
        """The JPEG file of a record."""
        by_name = {name.lower(): content for name, content in headers}
        if uri := by_name.get(URI):
            return self._fetched(uri.decode("utf-8", "replace"), by_name.get(SHA256))
        kind = media_type(headers)
        if kind not in (JPEG, *JPEG_ALIASES):
            raise RejectedError(
                "UnknownContentType",
                f"expected content-type {JPEG}, or a header {URI}, got {show(kind or None)}",
            )
        if not value:
            raise RejectedError("EmptyValue", f"expected a JPEG, got {'null' if value is None else 'no bytes'}")
        self._check_size(len(value))
        return value

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RejectedError("TooLarge", f"expected at most {self._max_bytes} bytes, got {size}")

    def _fetched(self, uri: str, sha256: bytes | None) -> bytes:
        """The file that a message references, checked against its SHA-256."""
        if sha256 is None:
            raise RejectedError("SchemaMismatch", f"missing header {SHA256}, which {URI} requires")
        files, path = self._place(uri)
        for attempt in range(ATTEMPTS):
            try:
                with files.open_input_stream(path) as stream:
                    content = stream.read(self._max_bytes + 1)
                break
            except FileNotFoundError:
                raise RejectedError(MISSING, f"expected a file at {uri}, got none") from None
            except OSError as reason:
                if attempt == ATTEMPTS - 1:
                    raise RejectedError(UNREACHABLE, f"expected the file at {uri}, got {reason}") from None
                time.sleep(PAUSE_S)
        self._check_size(len(content))
        if (digest := hashlib.sha256(content).hexdigest()) != sha256.decode("ascii", "replace").lower():
            raise RejectedError(ALTERED, f"expected a file with SHA-256 {sha256[:64]!r} at {uri}, got {digest}")
        return content

    def _place(self, uri: str) -> tuple[fs.FileSystem, str]:
        """The file system and path of a URI inside a root. A message must not make the reader open other files."""
        place = _decoded(uri)
        steps = {*place.split("/"), *unquote(place).split("/")}
        if not {"..", "."} & steps and "\\" not in unquote(place):
            for root, (files, path) in self._stores.items():
                if place.startswith(f"{root}/"):
                    return files, path + place[len(root) :]
        inside = f"inside {' or '.join(self._roots)}" if self._roots else "inside `roots`, which is not set"
        raise RejectedError("ForbiddenPlace", f"{URI}: expected a file {inside}, got {show(uri)}")

    @cached_property
    def _stores(self) -> Mapping[str, tuple[fs.FileSystem, str]]:
        # A URI's query has the options of its store.
        bare = {root: root.partition("?")[0] if "://" in root else root for root in self._roots}
        return {_decoded(bare[root]).rstrip("/"): _root("", root) for root in self._roots}


def decode(file: bytes, pixels: NDArray[np.uint8]) -> None:
    """Decode a JPEG into `pixels`, `[H, W, 3]` uint8 RGB, upright by its EXIF orientation and scaled to their size.

    Raises:
        RejectedError: the file is not a complete JPEG, too large, or in another colour space.
    """
    size = pixels.shape[:2]
    try:
        image = picture.decode_jpeg(file, min_size=size)
    except ValueError as reason:
        raise RejectedError("BadFrame", str(reason)) from None
    pixels[:] = picture.scaled(image, size)


def readings(schema: pa.Schema, files: Sequence[bytes], facts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Frames as the rows of a schema with both `frame_fields`, for `replay`.

    Args:
        files: JPEG files.
        facts: the other fields of each frame, by name; a missing one is null.

    Raises:
        RejectedError: a file is not a complete JPEG, see `decode`.
    """
    kind = next(f for f in schema if (f.metadata or {}).get(b"from") == PIXELS.encode())
    pixels = np.empty((len(files), int(kind.metadata[b"height"]), int(kind.metadata[b"width"]), 3), np.uint8)
    for file, image in zip(files, pixels, strict=True):
        decode(file, image)
    rows = [{**fact, WHOLE: file} for fact, file in zip(facts, files, strict=True)]
    columns = [
        _column(f, pixels) if f.name == kind.name else pa.array([row.get(f.name) for row in rows], f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def _column(field: pa.Field, pixels: NDArray[np.uint8]) -> pa.Array:
    """Images `[B, H, W, 3]` as a column."""
    return pa.FixedSizeBinaryArray.from_buffers(field.type, len(pixels), [None, pa.py_buffer(pixels)])


def _decoded(place: str) -> str:
    """A path or a URI in a form that can be compared: a path as it is, a URI decoded once, `file:///data` as the path `/data`."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
    host, slash, path = rest.partition("/")
    decoded = unquote(f"{slash}{path}")
    return decoded if scheme == "file" and host in ("", "localhost") else f"{scheme}://{host}{decoded}"


def _root(topic: str, root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a root, and the path in it."""
    try:
        if "://" not in root and not root.startswith("/"):
            raise pa.ArrowInvalid("a relative path")
        files, path = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, OSError) as reason:
        raise ConfigError(
            f"{topic}: roots: expected absolute paths or URIs of folders, got {root!r}: {reason}"
        ) from None
    return files, path.rstrip("/")
