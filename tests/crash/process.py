"""One shard in a process of its own, to be killed."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from pipelines.runtime import crash
from pipelines.runtime.codec import Codec
from pipelines.runtime.errors import TocsinError
from pipelines.runtime.reader import Reader
from pipelines.runtime.shard import Shard
from pipelines.runtime.spec import Spec
from tests.crash import flaws

ANYWHERE = "anywhere"
"""A crash point that is not in the code: it fires at a random moment with rows and alarms in flight."""

LIVE = "live"
"""The file by which a process says that its takeover is over."""

COUNTS = "counts"
"""The file in which a process leaves what it counted, as JSON, if it ends by itself."""


def run(spec: Spec, folder: Path, flaw: str | None) -> None:
    """Run a shard until SIGTERM; SIGUSR1 has it say where its threads stand.

    Args:
        folder: of armed crash points; what the process says goes to `stderr` in it.
        flaw: a guard of the recovery rule to leave out.
    """
    os.environ["TOCSIN_CRASH"] = str(folder)
    with (folder / "stderr").open("wb") as said:
        os.dup2(said.fileno(), 2)
    faulthandler.register(signal.SIGUSR1)
    torch.set_num_threads(1)
    if flaw:
        flaws.FLAWS[flaw]()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_anywhere, daemon=True).start()
    pipeline = spec.plan.build(spec.lake)
    codec = Codec(topic=pipeline.topic, schema=pipeline.schema)
    try:
        shard = Shard(spec, Reader(spec.kafka, pipeline.topic, spec.partitions, codec, 500, spec.on_gap))
        (folder / LIVE).touch()
        shard.run(stop)
        (folder / COUNTS).write_text(json.dumps(shard.stats.window().counts))
    except TocsinError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _anywhere() -> None:
    while True:
        time.sleep(random.uniform(0, 0.02))
        if all(crash.in_flight()):
            crash.point(ANYWHERE)
