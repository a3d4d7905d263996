"""Storage of tables, snapshots, models and large dead letters: a local folder or an object store."""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NewType, cast
from urllib.parse import unquote, urlsplit

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.names import IN_SHADOW
from tocsin.pipelines.runtime.lake.object_store import object_store
from tocsin.pipelines.runtime.telemetry import progress

if TYPE_CHECKING:
    import polars as pl
    from pyarrow import fs

Uri = NewType("Uri", str)
"""A percent-encoded address. A path is a `str` or a `Path`, not encoded; `Lake.uri` converts a path to an address."""
UNFIT = r"[\x00-\x1f\x7f\ud800-\udfff\[\]^|]|%[0-9A-Fa-f]{2}" + (r"|\\" if os.sep == "/" else "")
"""What a local lake's name must not contain: Delta decodes it once too often, or can't handle it."""
FIT = r"a folder that Delta can open: no [ ] ^ | or \ in its name, no % before two hexadecimal digits, no control characters"
CHUNK = 32 << 20


@dataclass(frozen=True)
class Lake:
    """A folder on any file system that Arrow reads: `lake`, `/data/lake`, `s3://bucket/lake`.

    Args:
        options: of an object store, by Delta's names; they may hold secrets.
        store: the name of an `ObjectStore`; `root` is then its address. "": a store that Arrow and Delta support.
    """

    root: str
    options: dict[str, str] = field(default_factory=dict, repr=False)
    store: str = ""

    @property
    def folder(self) -> Path | None:
        """The folder's absolute path; None if the lake is in an object store."""
        return None if self.store else local(self.root)

    @property
    def files(self) -> fs.FileSystem:
        """The file system, rooted at the lake's folder."""
        from pyarrow import fs  # imported late: commands that open no lake check its name, too

        if self.store:
            system, path = object_store(self.store).files(self.root)
        elif (folder := self.folder) is None:
            from tocsin.pipelines.runtime.lake.object_files import object_files

            return object_files(self.root, self.options)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            system, path = fs.LocalFileSystem(), str(folder)
        return fs.SubTreeFileSystem(path, system)

    def place(self, *parts: str) -> str:
        """The name of something in the lake for display: its path, or an object store's address."""
        return posixpath.join(str(self.folder or self.root), *parts)

    def uri(self, *parts: str) -> Uri:
        """The address of something in the lake, as Delta takes it.

        Raises:
            ConfigError: Delta can't open a folder of that name.
        """
        if (folder := self.folder) is None:
            root = object_store(self.store).delta(self.root)[0] if self.store else self.root
            return Uri(posixpath.join(root, *parts))
        check_name(folder)
        return Uri(folder.joinpath(*parts).as_uri())

    def replace(self, path: str, content: bytes) -> None:
        """Write a file that may already exist.

        Guarantee: the file has its old content or all of the new, even after a kill, a full disk or a loss of power.
        """
        if (folder := self.folder) is None:
            write(self.files, path, content)  # an object store shows a file only once it is complete
        else:
            write_aside(folder / path, content)

    def scan(self, table: str, *, shadow: bool | None = False) -> pl.LazyFrame:
        """A table's rows. Nothing is read before they are collected. Each collection reads the last commit.

        Args:
            shadow: rows of shadows in place of the pipeline's own; None: both.
        """
        import polars as pl

        rows = self._rows(table)
        if shadow is None:
            return rows
        if not self.has_shadow(table):
            return rows.filter(False) if shadow else rows
        in_shadow = pl.col(IN_SHADOW).fill_null(False)
        return rows.filter(in_shadow) if shadow else rows.filter(~in_shadow).drop(IN_SHADOW)

    def has_shadow(self, table: str) -> bool:
        """Whether a table has had rows of a shadow."""
        return IN_SHADOW in self._rows(table).collect_schema()

    def _rows(self, table: str) -> pl.LazyFrame:
        import polars as pl
        from deltalake import DeltaTable

        uri = self.uri(table)
        if (folder := self.folder) is None or re.fullmatch(r"[\w./:-]*", str(folder.resolve()), re.ASCII):
            return pl.scan_delta(uri, storage_options=self.options or None)
        # `pl.defer` also accepts a lazy frame, and then pushes filters down to it.
        read = cast("Callable[[], pl.DataFrame]", partial(_files, uri))
        return pl.defer(read, schema=lambda: pl.Schema(DeltaTable(uri).schema()))


def _files(uri: Uri) -> pl.LazyFrame:
    """A local table's rows as of now, for folders of any name.

    `pl.scan_delta` does not decode the paths that Delta gives it, and takes a folder `site=1` above the table for a column.
    Here partition columns are parsed from the files' paths inside the table, so filters on them skip no files.
    """
    import polars as pl
    from deltalake import DeltaTable

    table = DeltaTable(uri)
    schema, columns = pl.Schema(table.schema()), table.metadata().partition_columns
    if not (paths := [unquote(path) for path in table.file_uris()]):
        return pl.LazyFrame(schema=schema)
    rows = pl.scan_parquet(
        paths,
        schema=pl.Schema({name: kind for name, kind in schema.items() if name not in columns}),
        hive_partitioning=False,
        missing_columns="insert",
        extra_columns="ignore",
        include_file_paths="\0path",
        glob=False,
    )
    relative_path = pl.col("\0path").str.slice(len(unquote(urlsplit(table.table_uri).path)))
    parts = [relative_path.str.extract(f"(?:^|/){c}=([^/]*)/").cast(schema[c]).alias(c) for c in columns]
    return rows.with_columns(parts).select(schema.names())


def local(place: str) -> Path | None:
    """The absolute path of a path or a `file://` address; None for any other address.

    Raises:
        ConfigError: a `file://` address names another machine, or has a query or a fragment.
    """
    if "://" not in place:
        return Path(place).expanduser().absolute()
    parts = urlsplit(place)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ConfigError(f"{place}: expected file:// and an absolute path, got another address; write the path alone")
    return Path(unquote(parts.path))


def check_name(folder: Path) -> None:
    """Check that Delta can open tables in this folder.

    Raises:
        ConfigError: its name contains something that Delta decodes wrongly or can't handle.
    """
    resolved = os.path.realpath(folder)  # Delta follows links, too
    if found := re.search(UNFIT, resolved):
        raise ConfigError(
            f"lake {resolved!r}: expected {FIT}; got {found[0]!r}; rename it, or set lake.path to another one"
        )


@contextmanager
def aside(file: Path) -> Iterator[BinaryIO]:
    """Write a temporary file, sync it to disk, and then rename it to `file`; after an error, delete it instead.

    A link keeps pointing to its file. A target that is not a regular file, such as `/dev/stdout`, is written directly.
    """
    file = file.resolve()
    if file.exists() and not file.is_file():
        with file.open("wb") as out:
            yield out
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_aside(file: Path, content: bytes) -> None:
    """Write a whole file; see `aside`."""
    with aside(file) as out:
        out.write(content)


def write(files: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    """Write a whole file, and create its folder."""
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
