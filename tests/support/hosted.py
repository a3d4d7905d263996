"""A shard as a worker hosts it, but in the test's own process and without Ray: kafka-python's reader is a plain object."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tocsin.pipelines.runtime.control import worker
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import librdkafka
from tocsin.pipelines.runtime.kafka.reader import Reader, RecordSource


@contextmanager
def hosted(config: ShardConfig) -> Iterator[worker.HostedShard]:
    """Host a shard until the end of the block. A shard that would end its process ends only its thread."""
    readers, record_source = list[Reader](), worker.record_source

    def source(config: ShardConfig, pipeline: Pipeline, codec: Codec, _: Any) -> RecordSource:
        if librdkafka.chosen(config.kafka):
            return record_source(config, pipeline, codec)
        reads = config.kafka, pipeline.topic, config.partitions, codec, pipeline.batch.rows, config.on_gap
        readers.append(Reader(*reads))
        return readers[-1]

    with patch.object(worker, "record_source", source), patch.object(worker.os, "_exit", _end):
        shard = worker.HostedShard(config, lambda why: None)
        try:
            yield shard
        finally:
            shard.release()
            shard.thread.join(30)
            for opened in readers:
                if "_consumer" in vars(opened):  # otherwise it was never used, and closing it would open one
                    opened.close()
            assert not shard.thread.is_alive()


def reaches(shard: worker.HostedShard, state: str, seconds: float = 30) -> str:
    """Wait until the shard is in a state. Returns its error line."""
    give_up = time.monotonic() + seconds
    while shard.state != state:
        assert shard.thread.is_alive(), f"expected it to be {state}, got its end in state {shard.state}: {shard.error}"
        assert time.monotonic() < give_up, f"expected it to be {state}, got {shard.state}: {shard.error}"
        time.sleep(0.02)
    return shard.error


def _end(code: int) -> None:
    raise SystemExit(code)
