"""Measure the cost of a frame in a camera pipeline (decoding, network, all else) by number of cameras, and the age of alerts.

    OMP_NUM_THREADS=1 python -m benchmarks.frames [--pipeline touch] [--rounds 9] [--only machine,decoding,engine]

- machine: from decoded frames to results (`Machine.step`, 64 frames per step), against the network alone on the same frames, with
  1, 4, 16 and 64 cameras in turn; also the cost of each stage.
- decoding: from messages with a JPEG to Arrow batches, at a camera's usual sizes.
- engine: a shard and its reader in this process with Apache Kafka, at 640 x 360; then the age of alerts at 20 frames per second,
  from Kafka's timestamp to the commit of their transaction.

Frames come from a simulated scene, and the models are the shipped ones. `benchmarks.watches` defines what counts as the network.
Times are processor time of the process over all threads, except ages and times marked as wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import simplejpeg
import torch
from kafka.consumer.fetcher import ConsumerRecord
from torch import Tensor

from benchmarks.watches import WATCHES, Watch
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Declared, Store
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model, Plan, store_model
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.video import QUALITY, Frame
from tocsin.pipelines.runtime.kafka import feeder
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.process import KEEP_MEMORY

STEP = 64
"""Frames per step, as many as the pipeline takes from a backlog."""
CAMERAS = (1, 4, 16, 64)
SIZES = ((360, 640), (720, 1280), (1080, 1920))
LENGTH = 50
"""Frames of the scene, which then starts again."""
RATE, SENT, WARM, MEASURED = 20.0, 640, 60, 400
"""Frames per second for the age of alerts; frames in a backlog; frames at that rate for warming up; frames that are then timed."""


class Sent(NamedTuple):
    """A frame's JPEG file, and the frame itself."""

    file: bytes
    frame: Frame


class Timed:
    """A stage that measures the processor time of its last step."""

    def __init__(self, number: int, stage: Stage) -> None:
        self._stage, self.name, self.seconds = stage, f"{number}. {type(stage).__name__}", 0.0

    @property
    def state(self) -> Mapping[str, Declared]:
        return self._stage.state

    def step(self, rows: Rows, state: Mapping[str, Store], at: StepContext) -> Rows:
        began = time.process_time()
        out = self._stage.step(rows, state, at)
        self.seconds = time.process_time() - began
        return out


def alerting(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pipeline with a single rule that changes state on every frame: its alert is raised and cleared in turn."""
    rule = AlertRule(name="even", severity="info", when=pl.col("sequence") % 2 == 0, data=["sequence", "frame"])
    watch = WATCHES[options["of"]]
    return replace(watch.factory(options, model), rules=[rule])


def files(watch: Watch, size: tuple[int, int]) -> list[Sent]:
    """Return a camera's scaled frames as JPEG files."""
    sent = []
    for frame in islice(watch.frames(), LENGTH):
        picture = cv2.resize(frame.picture, size[::-1], interpolation=cv2.INTER_AREA)
        sent.append(Sent(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=QUALITY), frame))
    return sent


def shots(sent: Sequence[Sent], cameras: int, began: int, rate: float) -> Iterator[dict[str, Any]]:
    """Yield endless frames of the cameras in turn. Each camera has `rate` frames per second and its own place in the scene."""
    for n in count():
        number, camera = divmod(n, cameras)
        file, frame = sent[(number + camera) % len(sent)]
        at = began + round(1000 / rate * number)
        yield {"camera": f"camera-{camera}", "sequence": number, "time": at, **frame.facts, "jpeg": file}


def records(sent: Sequence[Sent], cameras: int, rate: float) -> Iterator[ConsumerRecord]:
    """Yield the same frames as Kafka records."""
    for offset, shot in enumerate(shots(sent, cameras, 0, rate)):
        headers = [(name, str(value).encode()) for name, value in shot.items() if name != "jpeg"]
        headers, file = [*headers, ("content-type", b"image/jpeg")], shot["jpeg"]
        yield ConsumerRecord("t", 0, None, offset, shot["time"], 0, None, file, headers, None, 0, len(file), 0)


def ready(batch: pa.RecordBatch, size: tuple[int, int]) -> Tensor:
    """Return a batch's decoded frames, `[B, 3, H, W]` uint8."""
    flat = np.frombuffer(batch["pixels"].buffers()[1], np.uint8)
    return torch.from_numpy(flat.reshape(len(batch), *size, 3).copy()).permute(0, 3, 1, 2)


def cost(run: Callable[[], Any]) -> float:
    """Return the processor time of a call in seconds."""
    began = time.process_time()
    run()
    return time.process_time() - began


def as_worker() -> None:
    """Apply the torch settings that a worker applies to its thread."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def machine(name: str, rounds: int) -> None:
    """Print a line per number of cameras, then a line per stage: medians over rounds, each of which runs all numbers in turn."""
    as_worker()
    watch = WATCHES[name]
    declared, network = watch.declared(), watch.network(watch.model)
    size = _size(declared)
    sent, codec = files(watch, size), Codec(topic="t", schema=declared.schema)
    stages = {n: [Timed(at, stage) for at, stage in enumerate(declared.stages, 1)] for n in CAMERAS}
    machines = {n: Machine(replace(declared, stages=stages[n])) for n in CAMERAS}
    sources = {n: records(sent, n, watch.rate) for n in CAMERAS}
    frames = [sent[n % LENGTH].frame for n in range(STEP)]
    alone: dict[int, list[float]] = {n: [] for n in CAMERAS}
    whole: dict[int, list[float]] = {n: [] for n in CAMERAS}
    parts: dict[tuple[int, str], list[float]] = {(n, s.name): [] for n in CAMERAS for s in stages[n]}
    for n in CAMERAS:
        for _ in range(watch.ahead * n // STEP):
            messages = [*islice(sources[n], STEP)]
            machines[n].step(codec.decode(messages)[0], max(record.timestamp for record in messages))
    for turn in range(rounds + 1):
        for n in CAMERAS:
            messages = [*islice(sources[n], STEP)]
            batch, _ = codec.decode(messages)
            by_itself = cost(partial(network, ready(batch, size), frames))
            seconds = cost(partial(machines[n].step, batch, max(record.timestamp for record in messages)))
            if turn:  # the first turn warms up
                alone[n].append(by_itself / STEP)
                whole[n].append(seconds / STEP)
                for stage in stages[n]:
                    parts[n, stage.name].append(stage.seconds / STEP)
    print("| cameras | network alone, frames/s | whole step, frames/s | ratio | of the cost with 1 camera |")
    print("|---|---|---|---|---|")
    for n in CAMERAS:
        ratio = statistics.median(a / w for a, w in zip(alone[n], whole[n], strict=True))
        share = statistics.median(w / o for w, o in zip(whole[n], whole[1], strict=True))
        rates = " | ".join(f"{1 / statistics.median(side[n]):.1f}" for side in (alone, whole))
        print(f"| {n} | {rates} | {ratio:.2f} | {share:.2f} |", flush=True)
    print(f"\n| ms a frame | {' | '.join(f'{n} cameras' for n in CAMERAS)} |\n|---|{'---|' * len(CAMERAS)}")
    each = {(n, "Network alone"): alone[n] for n in CAMERAS} | parts | {(n, "Whole step"): whole[n] for n in CAMERAS}
    for name in dict.fromkeys(name for _, name in each):
        print(
            f"| {name} | {' | '.join(f'{1e3 * statistics.median(each[n, name]):.2f}' for n in CAMERAS)} |", flush=True
        )


def decoding(name: str, rounds: int) -> None:
    """Print a line per size of the JPEG files in the messages."""
    as_worker()
    watch = WATCHES[name]
    codec = Codec(topic="t", schema=watch.declared().schema)
    print("| JPEG | KB a frame | ms a frame | frames/s a thread |\n|---|---|---|---|")
    for height, width in SIZES:
        sent = files(watch, (height, width))
        messages = [*islice(records(sent, 1, watch.rate), STEP)]
        each = statistics.median([cost(partial(codec.decode, messages)) / STEP for _ in range(rounds + 1)][1:])
        size = statistics.mean(len(file) for file, _ in sent) / 1e3
        print(f"| {width} x {height} | {size:.0f} | {1e3 * each:.2f} | {1 / each:,.0f} |", flush=True)


def engine(name: str, rounds: int) -> None:
    """Print frames per second from a backlog, then the age of alerts at a moderate rate."""
    as_worker()
    watch = WATCHES[name]
    sent, network = files(watch, SIZES[0]), watch.network(watch.model)
    height, width = _size(watch.declared())
    scaled = [cv2.resize(s.frame.picture, (width, height), interpolation=cv2.INTER_AREA) for s in sent]
    frames, pixels = [s.frame for s in sent], torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        kafka, lake = {"bootstrap_servers": server.bootstrap_servers}, Lake(str(Path(folder) / "lake"))
        backlog = _shard("backlog", name, kafka, lake, send=(sent, 16, SENT))
        rates, shares, walls = [], [], []
        _read(backlog, STEP)
        while (at := _at(backlog)) < SENT:
            began, spent = time.perf_counter(), time.process_time()
            _read(backlog, min(at + 2 * STEP, SENT))
            processed, spent = _at(backlog) - at, time.process_time() - spent
            walls.append(processed / (time.perf_counter() - began))
            rates.append(processed / spent)
            shares.append(cost(partial(network, pixels, frames)) / len(pixels) / (spent / processed))
        backlog.close()
        print(
            f"a backlog of 16 cameras, decoding included: {statistics.median(rates):.1f} frames/s of processor time, "
            f"{statistics.median(shares):.2f} of the network alone; {statistics.median(walls):.1f} frames/s wall",
            flush=True,
        )
        paced = _shard("live", name, kafka, lake)
        for first, some in ((0, WARM), (WARM, MEASURED)):
            paced.stats.window()
            feed = partial(_feed, kafka, "live", watch, sent, 4, first, some, RATE)
            sender = threading.Thread(target=feed)
            sender.start()
            _read(paced, first + some)
            sender.join()
            paced.turn()  # completes the last transaction
        seen = paced.stats.window()
        paced.close()
        ages = ", ".join(f"{name} {ms:.0f}" for name, ms in seen.latency_ms.items())
        print(f"{seen.counts['alerts']} alerts of 4 cameras at {RATE:.0f} frames/s in all, age in ms: {ages}")


def _size(declared: Pipeline) -> tuple[int, int]:
    """Return height and width of the frames that the pipeline processes."""
    facts = declared.schema.field("pixels").metadata
    return int(facts[b"height"]), int(facts[b"width"])


def _shard(
    topic: str, of: str, kafka: dict[str, Any], lake: Lake, send: tuple[list[Sent], int, int] | None = None
) -> Shard:
    """Create a shard of `alerting` on a topic, to which the frames of `send` are fed first."""
    options, watch = {"name": topic, "topic": topic, "of": of}, WATCHES[of]
    model = store_model(lake, watch.model, name=of, version="1")
    plan = Plan("benchmarks.frames:alerting", options, model, "cpu")
    pipeline = plan.build(lake)
    provision(kafka, pipeline, shards=1, create_input=1)
    if send:
        sent, cameras, frames = send
        _feed(kafka, topic, watch, sent, cameras, 0, frames, None)
    reader = Reader(kafka, topic, [0], Codec(topic=topic, schema=pipeline.schema), pipeline.batch.rows)
    return Shard(ShardConfig(plan, lake, kafka, 0, [0]), reader)


def _feed(
    kafka: dict[str, Any],
    topic: str,
    watch: Watch,
    sent: list[Sent],
    cameras: int,
    first: int,
    frames: int,
    rate: float | None,
) -> None:
    began = round(1000 * time.time()) - (0 if rate else round(1000 / watch.rate * frames))
    rows = islice(shots(sent, cameras, began, watch.rate), first, first + frames)
    feeder.feed(map(pl.DataFrame, rows), kafka=kafka, topic=topic, key="camera", rate=rate, format="jpeg")


def _at(shard: Shard) -> int:
    return int(shard.facts()["read"].get(0, 0))


def _read(shard: Shard, end: int) -> None:
    while _at(shard) < end:
        shard.turn()


PARTS = {part.__name__: part for part in (machine, decoding, engine)}


def main() -> None:
    """Run each part in its own process with a worker's memory settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--pipeline", choices=WATCHES, default="surprise")
    args = parser.parse_args()
    os.environ.update(KEEP_MEMORY)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for part in args.only.split(","):
            pool.apply(PARTS[part], (args.pipeline, args.rounds))
            print(flush=True)


if __name__ == "__main__":
    main()
