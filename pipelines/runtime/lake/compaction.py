"""Compaction: merges a table's small files into large ones, and deletes files that are no longer needed."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deltalake.exceptions import CommitFailedError, DeltaError
from pyarrow import fs

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.lake.delta import delta_table, exists
from tocsin.pipelines.runtime.lake.storage import Lake

log = logging.getLogger(__name__)
DAY = r"\d{4}-\d\d-\d\d"
CONTEXT_AGE = timedelta(days=30)
MIN_AGE_MS = 24 * 3_600_000
"""Shards write files first and commit them later. A younger file may belong to a commit in progress."""


@dataclass(frozen=True)
class Compacted:
    """Result of a compaction: small files replaced, large files that replaced them, old files deleted."""

    table: str
    files_before: int
    files_after: int
    vacuumed: int


def compact(lake: Lake, name: str, vacuum: str | None = None) -> Compacted:
    """Rewrite a table's small files as few large ones.

    Safe beside running shards. Readers see the same rows.

    Args:
        vacuum: also delete files that only versions older than this need; at least 24h.

    Raises:
        ConfigError: `vacuum` is too short.
        Unavailable: there is no table, another compaction was running, or the lake failed.
    """
    if vacuum and milliseconds(vacuum) < MIN_AGE_MS:
        raise ConfigError(
            f"vacuum {vacuum}: expected at least 24h: a shorter age deletes files that shards are about to commit"
        )
    place = lake.place(name)
    try:
        if (table := delta_table(lake, name)) is None:
            raise Unavailable(f"{place}: expected a table, got none; start its pipeline with `tocsin up`")
        metrics = table.optimize.compact()
        hours = milliseconds(vacuum) // 3_600_000 if vacuum else 0
        try:
            deleted = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True) if vacuum else []
        finally:
            table.cleanup_metadata()
    except CommitFailedError as reason:
        raise Unavailable(
            f"{place}: conflict with another compaction: {reason}; nothing has changed, retry"
        ) from reason
    except (DeltaError, OSError) as reason:
        raise Unavailable(
            f"{place}: expected to compact small files and delete old ones, got {str(reason).splitlines()[0]}; "
            "no rows are lost; grant this user the right to delete there, and retry"
        ) from reason
    return Compacted(place, metrics["numFilesRemoved"], metrics["numFilesAdded"], len(deleted))


def drop_frames(lake: Lake, pipeline: str, age: str) -> int:
    """Delete the days of kept frames that ended more than `age` ago. Returns how many days were deleted.

    A day that can't be deleted is logged and kept; the next call retries it. Folders not named by a date are kept, too.
    """
    files, folder = lake.files, f"{names.FRAMES}/{pipeline}"
    oldest = (datetime.now(UTC) - timedelta(milliseconds=milliseconds(age))).date().isoformat()
    days = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    deleted = 0
    for day in days:
        if day.type != fs.FileType.Directory or not re.fullmatch(DAY, day.base_name) or day.base_name >= oldest:
            continue
        try:
            files.delete_dir(day.path)
            deleted += 1
        except (OSError, ValueError) as reason:
            log.warning("%s: these old frames could not be deleted, so they stay: %s", day.path, reason)
    return deleted


def drop_contexts(lake: Lake, current: str) -> int:
    """Delete states of a pipeline's context that are older than `CONTEXT_AGE`. Returns how many were deleted.

    A shard takes up the current one within seconds, so none needs these any more. One that can't be deleted is logged and kept.

    Args:
        current: the file with the current one.
    """
    deleted, oldest = 0, datetime.now(UTC) - CONTEXT_AGE
    for file in lake.files.get_file_info(fs.FileSelector(posixpath.dirname(current), allow_not_found=True)):
        if file.path == current or not file.mtime or file.mtime > oldest:
            continue
        try:
            lake.files.delete_file(file.path)
            deleted += 1
        except (OSError, ValueError) as reason:
            log.warning("%s: this old context could not be deleted, so it stays: %s", file.path, reason)
    return deleted


def tidy(lake: Lake, names: Sequence[str], vacuum: str, frames: tuple[str, str], context: str = "") -> list[Compacted]:
    """Compact the tables that exist, and delete a pipeline's frames that are older than an age, and old states of its context.

    Args:
        context: see `drop_contexts`; "": the pipeline has none.
    """
    drop_frames(lake, *frames)
    if context:
        drop_contexts(lake, context)
    existing = [n for n in names if exists(lake, n)]
    reports = []
    for name in existing:
        try:
            reports.append(compact(lake, name, vacuum))
        except Unavailable as reason:  # one table must not hold up the others
            log.warning("%s", reason)
    return reports
