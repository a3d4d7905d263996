"""The files of a lake in an object store, by Delta's own client: the options and variables that open its tables open them, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs


def object_files(root: str, options: Mapping[str, str]) -> fs.FileSystem:
    """The file system of an address such as `s3://bucket/lake`, rooted there.

    Args:
        options: by Delta's names.
    """
    return fs.PyFileSystem(_Handler(root, dict(options) or None))


class _Handler(DeltaStorageHandler):
    """Delta's handler, whose streams also take Arrow's buffers."""

    def open_output_stream(self, path: str, metadata: Mapping[str, str] | None = None) -> pa.PythonFile:
        return pa.PythonFile(_Stream(self._handler.open_output_stream(path, metadata)), "w")


class _Stream:
    """A stream that is written in bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
