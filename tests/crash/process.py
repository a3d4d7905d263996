"""Functions that run, reset, move or backfill a shard in a process that a test can kill."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.crash import broker_faults, flaws
from tocsin.pipelines.runtime.admin.backfill import Span, backfill
from tocsin.pipelines.runtime.admin.reset import To, reset
from tocsin.pipelines.runtime.admin.reshard import reshard
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.declare.errors import TocsinError
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.telemetry import failpoints

ANYWHERE = "anywhere"
"""A crash point that is not in the code: it fires at a random moment with rows and alerts in flight."""

LIVE = "live"
"""The file that a process creates when its recovery is over."""

COUNTS = "counts"
"""The file to which a process writes its counts as JSON if it ends by itself."""


def run(folder: Path, config: ShardConfig, flaw: str | None) -> None:
    """Run a shard until SIGTERM; on SIGUSR1, print the stacks of its threads.

    Args:
        folder: of armed crash points; the file `stderr` in it receives the process's stderr.
        flaw: a flaw of `tests.crash.flaws`, a fault of `tests.crash.broker_faults`, or `short-chains`, to apply.
    """
    _settle(folder)
    if flaw:
        ({**flaws.FLAWS, **broker_faults.FAULTS, "short-chains": flaws.short_chains})[flaw]()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_anywhere, daemon=True).start()
    pipeline = config.plan.build(config.lake)
    codec = Codec(topic=pipeline.topic, schema=pipeline.schema)
    try:
        shard = Shard(config, Reader(config.kafka, pipeline.topic, config.partitions, codec, 500, config.on_gap))
        (folder / LIVE).touch()
        shard.run(stop)
        (folder / COUNTS).write_text(json.dumps(shard.stats.window().counts))
    except TocsinError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def start_over(folder: Path, configs: Sequence[ShardConfig], to: To) -> None:
    """Reset a job; `folder` is as in `run`."""
    _settle(folder)
    try:
        reset(configs, to)
    except TocsinError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def move(folder: Path, deployment: Deployment) -> None:
    """Move a job's state to the deployment's number of shards; `folder` is as in `run`."""
    _settle(folder)
    try:
        reshard(deployment)
    except TocsinError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def judge_again(folder: Path, config: ShardConfig, span: Span, into: str, overwrite: bool) -> None:
    """Process a span of a job's topic again; `folder` and `config` are as in `run`."""
    _settle(folder)
    backfill(config.plan.build(config.lake), config.kafka, config.lake, span, into, overwrite=overwrite)


def _settle(folder: Path) -> None:
    os.environ["TOCSIN_CRASH"] = str(folder)
    with (folder / "stderr").open("wb") as said:
        os.dup2(said.fileno(), 2)
    faulthandler.register(signal.SIGUSR1)
    torch.set_num_threads(1)


def _anywhere() -> None:
    while True:
        time.sleep(random.uniform(0, 0.02))
        if all(failpoints.in_flight()):
            failpoints.point(ANYWHERE)
