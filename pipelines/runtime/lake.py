"""Where tables, snapshots, models and large dead letters lie: a local folder or an object store."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs

from pipelines.runtime import progress

CHUNK = 32 << 20
FRAMES = "frames"
"""The folder of frames that rows name: `frames/<pipeline>/<day>/`, the day by Kafka's timestamps."""


@dataclass(frozen=True)
class Lake:
    """A folder on any file system that Arrow reads: `lake`, `/data/lake`, `s3://bucket/lake`."""

    root: str
    options: dict[str, str] = field(default_factory=dict, repr=False)  # for Delta's own store; may hold secrets

    @property
    def files(self) -> fs.FileSystem:
        """The file system, rooted at the lake's folder."""
        if "://" in self.root:
            system, path = fs.FileSystem.from_uri(self.root)
        else:
            system, path = fs.LocalFileSystem(), str(Path(self.root).absolute())
            Path(path).mkdir(parents=True, exist_ok=True)
        return fs.SubTreeFileSystem(path, system)

    def uri(self, *parts: str) -> str:
        """The address of something in the lake, as Delta and Polars take it."""
        base = self.root if "://" in self.root else str(Path(self.root).absolute())
        return posixpath.join(base, *parts)


def write(files: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    """Write a file whole, making its folder."""
    files.create_dir(posixpath.dirname(path), recursive=True)
    with files.open_output_stream(path) as out:
        for start in range(0, len(content), CHUNK):
            out.write(memoryview(content)[start : start + CHUNK])
            progress.made()


def read(files: fs.FileSystem, path: str) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError
    """
    parts = []
    with files.open_input_stream(path) as source:
        while part := source.read(CHUNK):
            parts.append(part)
            progress.made()
    return parts[0] if len(parts) == 1 else b"".join(parts)
