"""Delta tables of the lake: opened, and committed to under a condition."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction
from pyarrow import fs

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake

log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 20
PARTITION = "event_date"


def exists(lake: Lake, name: str) -> bool:
    """Whether the lake has this table."""
    return DeltaTable.is_deltatable(lake.uri(name), lake.options or None)


def delta_table(lake: Lake, name: str) -> DeltaTable | None:
    """A table of the lake at its newest version; None if it does not exist.

    Raises:
        DeltaError: its log can't be read.
    """
    return DeltaTable(lake.uri(name), storage_options=lake.options or None) if exists(lake, name) else None


def absent(table: DeltaTable, files: fs.FileSystem, folder: str, limit: int | None = None) -> list[str]:
    """The files that a table names but that do not exist.

    Args:
        files: the lake's file system; `folder`: the table's in it.
        limit: how many to check, spread over the whole table; None: all.
    """
    listed = [unquote(path) for path in pa.table(table.get_add_actions())["path"].to_pylist()]
    step = max(-(-len(listed) // limit), 1) if limit else 1
    paths = [posixpath.join(folder, path) for path in listed[::step]]
    return [info.path for info in files.get_file_info(paths) if info.type == fs.FileType.NotFound]


def commit_fenced(
    attempt: Callable[[], T],
    *,
    newest: Callable[[], object],
    what: str,
    is_committed: Callable[[], bool] = lambda: False,
) -> T | None:
    """Make a commit; after a conflict, try again from the newest version.

    Args:
        attempt: makes the commit, from the version that was read last.
        newest: reads the newest version. It raises if the commit must not be made from there, such as
            `Fenced` where the shard has a new owner.
        what: is done, for the log and the error.
        is_committed: whether the version that was read last has the commit already: only its reply was lost.

    Returns:
        What `attempt` returns; None if the commit was made but its reply was lost.

    Raises:
        Unavailable: there was a conflict each time.
    """
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except (CommitFailedError, OSError) as reason:
            newest()
            if is_committed():
                return None
            if isinstance(reason, OSError):
                raise
            log.info("%s: conflict, trying again: %s", what, reason)
    raise Unavailable(f"{what}: expected to commit within {ATTEMPTS} attempts, got a conflict each time; try again")


def commit(table: DeltaTable, files: Sequence[AddAction], txn: Mapping[str, int]) -> None:
    """Commit files and numbers in one step. Fails if one of these numbers has changed since the version that `table` is at."""
    table.create_write_transaction(
        list(files),
        mode="append",
        schema=table.schema(),
        partition_by=[PARTITION],
        commit_properties=properties(txn),
    )


def properties(txn: Mapping[str, int]) -> CommitProperties:
    """Numbers that a commit stores, each under its id."""
    return CommitProperties(app_transactions=[Transaction(k, v) for k, v in txn.items()])
