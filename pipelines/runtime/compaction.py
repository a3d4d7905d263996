"""Compaction: a table's small files made into large ones, and what nobody needs any more deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from pyarrow import fs

from pipelines.runtime.errors import ConfigError, Unavailable
from pipelines.runtime.lake import FRAMES, Lake
from pipelines.runtime.units import milliseconds

LEAST_MS = 24 * 3_600_000
"""Shards write files first and commit them later: younger ones may belong to a commit under way."""


@dataclass(frozen=True)
class Compacted:
    """What was done: small files that were there, large ones that took their place, old ones deleted."""

    table: str
    files_before: int
    files_after: int
    vacuumed: int


def compact(lake: Lake, name: str, vacuum: str | None = None) -> Compacted:
    """Rewrite a table's small files as few large ones; safe beside running shards, and readers see the same rows.

    Args:
        vacuum: also delete files that no version of this age needs, 24h at least.

    Raises:
        ConfigError: too short an age.
        Unavailable: there is no table, or another compaction was at work.
    """
    if vacuum and milliseconds(vacuum) < LEAST_MS:
        raise ConfigError(
            f"vacuum {vacuum}: expected 24h at least, or it would take files that shards are about to commit"
        )
    uri, options, place = lake.uri(name), lake.options or None, lake.place(name)
    if not DeltaTable.is_deltatable(uri, storage_options=options):
        raise Unavailable(f"{place}: expected a table, got none; start its pipeline with `tocsin up`")
    table = DeltaTable(uri, storage_options=options)
    try:
        done = table.optimize.compact()
        hours = milliseconds(vacuum) // 3_600_000 if vacuum else 0
        gone = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True) if vacuum else []
        table.cleanup_metadata()
    except CommitFailedError as reason:
        raise Unavailable(f"{place}: compaction met another one: {reason}; nothing has changed, try again") from reason
    return Compacted(place, done["numFilesRemoved"], done["numFilesAdded"], len(gone))


def drop_frames(lake: Lake, pipeline: str, age: str) -> int:
    """Delete the days of kept frames that are over for longer than `age`. Returns how many days were deleted."""
    files, folder = lake.files, f"{FRAMES}/{pipeline}"
    oldest = (datetime.now(UTC) - timedelta(milliseconds=milliseconds(age))).date().isoformat()
    days = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    old = [day.path for day in days if day.type == fs.FileType.Directory and day.base_name < oldest]
    for path in old:
        files.delete_dir(path)
    return len(old)


def tidy(lake: Lake, names: Sequence[str], vacuum: str, frames: tuple[str, str]) -> list[Compacted]:
    """Compact tables that are there by now, and drop the frames of a pipeline that are older than an age."""
    drop_frames(lake, *frames)
    there = [n for n in names if DeltaTable.is_deltatable(lake.uri(n), storage_options=lake.options or None)]
    return [compact(lake, name, vacuum) for name in there]
