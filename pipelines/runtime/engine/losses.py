"""What recovery needs but may find gone. Recovery and `tocsin check` share these conditions and their errors."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import (
    FrameLost,
    JournalLost,
    LakeLost,
    PositionLost,
    SchemaLost,
    StateMismatch,
    TopicReplaced,
)
from tocsin.pipelines.runtime.engine.journal import checkpoint_name
from tocsin.pipelines.runtime.formats.volatile import SCHEMA_UNKNOWN
from tocsin.pipelines.runtime.kafka.reader import TopicState


def topic_replaced(topic: str, stored: str, log: TopicState) -> TopicReplaced | None:
    """The error if the topic's id is not the one that stored offsets belong to."""
    if log.topic_id == stored:
        return None
    return TopicReplaced(
        f"topic {topic}: expected id {stored}, got {log.topic_id}: it was deleted and made again, so stored offsets mean other "
        "records; restore it, or continue from its start with `--on-gap skip`"
    )


def position_lost(topic: str, partition: int, position: int, log: TopicState) -> PositionLost | None:
    """The error if the next offset is outside the log."""
    begin, end = log.begin[partition], log.end[partition]
    if begin <= position <= end:
        return None
    return PositionLost(
        f"{topic}[{partition}]@{position}: expected an offset in the log's {begin}..{end}, got one outside: "
        "records were deleted before they were processed; restore the topic, or continue from "
        f"{min(max(position, begin), end)} with `--on-gap skip`"
    )


def log_shorter(topic: str, partition: int, end: int, log: TopicState) -> PositionLost | None:
    """The error if the log ends before `end`, the offset after the journal's last record."""
    if end <= log.end[partition]:
        return None
    return PositionLost(
        f"{topic}[{partition}]@{end}: expected the log to reach as far as the journal, got its end at {log.end[partition]}: "
        "processed records are gone; restore the topic, or continue with `--on-gap skip`"
    )


def journal_lost(pipeline: str, shard: int, checkpoint: int) -> JournalLost:
    """The error for a checkpoint without a journal."""
    return JournalLost(
        f"topic {names.journal_topic(pipeline)}[{shard}]: expected the journal that goes with checkpoint "
        f"{checkpoint_name(checkpoint)}, got none: alerts since then may be raised twice; restore the topic, or accept that with "
        "`--on-gap skip`"
    )


def table_unknown(place: str, pipeline: str, shard: int, known_to: str) -> LakeLost:
    """The error for a shard that has run but that its table does not know.

    Args:
        place: the table.
        known_to: what knows of the shard.
    """
    return LakeLost(
        f"lake {place}: expected a table that knows of {pipeline}/{shard}, as {known_to} does, got none: this is another lake, or "
        f"it was emptied, or its drive is not mounted; bring it back, then `tocsin resume {pipeline}`, or start over with "
        "`--on-gap skip`: records are processed again from `start`, and their alerts are raised again"
    )


def table_older(place: str, pipeline: str, shard: int, base: int, checkpoint: int) -> LakeLost | None:
    """The error if the table lacks `base`, the checkpoint on which the journal builds.

    Args:
        checkpoint: the table's newest.
    """
    if base <= checkpoint:
        return None
    return LakeLost(
        f"lake {place}: expected {pipeline}/{shard} at checkpoint {checkpoint_name(base)} or later, on which its journal builds, "
        f"got {checkpoint_name(checkpoint)}: this is an old copy, or another lake; bring back the right one, then `tocsin resume "
        f"{pipeline}`, or continue from this one with `--on-gap skip`: alerts since then are raised again"
    )


def files_missing(place: str, pipeline: str, missing: Sequence[str]) -> LakeLost | None:
    """The error if files of the table are gone."""
    if not missing:
        return None
    return LakeLost(
        f"lake {place}: expected the files that the table's log names, got none at {missing[0]} and {len(missing) - 1} other "
        f"places; bring them back, then `tocsin resume {pipeline}`, or continue without their rows with `--on-gap skip`"
    )


def source_lost(topic: str, partition: int, offset: int, error: str) -> FrameLost | SchemaLost:
    """The error for a record that was processed before, and that lacks a frame or a schema outside the log now."""
    where, skip = f"{topic}[{partition}]@{offset}", "or continue without it with `--on-gap skip`"
    if error == SCHEMA_UNKNOWN:
        return SchemaLost(
            f"{where}: expected the schema that it was decoded with before, got {error}; restore it in the registry, {skip}"
        )
    return FrameLost(
        f"{where}: expected the frame that was processed before, got {error}; put it back where its message says, {skip}"
    )


def state_mismatch(pipeline: str, shard: int, stored: str, current: str) -> StateMismatch | None:
    """The error if a snapshot's state is not the pipeline's.

    Args:
        stored, current: signatures of both.
    """
    if stored == current:
        return None
    return StateMismatch(
        f"{pipeline}/{shard}: expected state {stored}, got {current}; raise state_version, or change the pipeline back"
    )
