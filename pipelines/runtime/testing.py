"""Helpers for testing pipelines without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import polars as pl
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.formats.codec import Codec, FormatOptions


def decode(
    pipeline: Pipeline,
    values: Sequence[bytes | None],
    *,
    content_type: str = "application/json",
    options: FormatOptions = MappingProxyType({}),
) -> tuple[pl.DataFrame, list[DeadLetter]]:
    """Decode messages as a reader decodes a poll: into rows, and a dead letter for each message or row that is refused.

    Args:
        values: the values of messages on partition 0, from offset 0 on.
        content_type: the `content-type` header of every message.
        options: of formats, by their section of the settings.
    """
    headers = [("content-type", content_type.encode())]
    records = [
        ConsumerRecord(pipeline.topic, 0, 0, offset, 0, 0, None, value, headers, None, -1, len(value or b""), 0)
        for offset, value in enumerate(values)
    ]
    batch, dead_letters = Codec.of(pipeline, options).decode(records)
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame, dead_letters
