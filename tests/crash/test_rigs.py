"""The alignment pipeline on simulated rigs under repeated kills: each pair, alert and kept file is there once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.conftest import Once
from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.rigs import SEED
from tocsin.models.alignment.config import AlignmentConfig
from tocsin.models.alignment.domain import VIEWS
from tocsin.models.alignment.model import AlignmentModel, load
from tocsin.models.alignment.simulation.rig import Rig
from tocsin.models.alignment.watch import WatchConfig
from tocsin.models.domain import Shot
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
RIGS, PARTITIONS, STEP_MS, EVERY, SIZE = 3, 2, 100, 3, (96, 128)
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]
PUSHED = 12
"""Pairs after which a rig's second camera is pushed, and pushed back."""


class Sent(NamedTuple):
    """A sent frame: its rig, view, number, file, and what is wrong with it."""

    rig: int
    view: str
    sequence: int
    file: bytes
    fate: str = "good"


def quick_model(folder: Path) -> None:
    """Save the shipped weights over small frames, with a watch that trusts all it sees and rings for each push."""
    watch = WatchConfig(references=2, recent=1)
    config = AlignmentConfig(height=SIZE[0], width=SIZE[1], trust=(0, 0, 0, 3), watch=watch)
    AlignmentModel(config, load().network).save(folder)


def frames(seed: int) -> Iterator[Sent]:
    """Yield the rigs' frames in order. A few are lost, sent twice, late, cut off, or of a camera that no rig has."""
    rng = random.Random(seed)
    # Two cameras of one kind, since frames are small; the second one is pushed aside and back.
    sights = [sight.first for sight in Rig(SEED, pairs=4, every=1.0, start=12)]
    views = [
        (frame, cv2.warpAffine(frame, np.array([[1, 0, aside], [0, 1, 0]], float), frame.shape[::-1]))
        for aside in (0, 24)
        for frame in sights
    ]
    files = [[encoded(Shot(np.repeat(frame[..., None], 3, axis=2))) for frame in both] for both in views]
    for sequence in range(10_000):
        pushed = sequence // PUSHED % 2
        for rig in rng.sample(range(RIGS), RIGS):
            for view in rng.sample(range(2), 2):
                chance = rng.random()
                if chance < 0.03:
                    continue  # lost
                one = Sent(rig, VIEWS[view], sequence, files[4 * pushed + sequence % 4][view])
                if chance < 0.05:
                    yield one._replace(file=one.file[:-40], fate="cut off")
                    continue
                if chance < 0.06:
                    yield one._replace(view="third", fate="third")
                    continue
                yield one
                if 0.94 < chance < 0.97:
                    yield one._replace(fate="again")
                elif chance > 0.97 and sequence > 3:
                    yield one._replace(sequence=sequence - 3, fate="late")


class Mast:
    """A job of the alignment pipeline, and the frames sent to it."""

    def __init__(self, make_job: MakeJob, weights: Path, *, seed: int) -> None:
        self.job = make_job(
            factory="tocsin.pipelines.alignment:pipeline",
            partitions=PARTITIONS,
            rows=16,
            every="500ms",
            pace=f"{EVERY * STEP_MS}ms",
            patience="9999d",  # a slow restart must not end the wait for a partner
        )
        stored = store_model(self.job.lake, weights, name="alignment", version="1")
        self.job.plan = replace(self.job.plan, model=stored, device="cpu")
        self._stream, self._start = frames(seed), int(time.time() * 1000) - 3_600_000
        self.sent = list[Sent]()

    def send(self, count: int) -> None:
        """Send the rigs' next frames."""
        some = list(islice(self._stream, count))
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """Send the rigs' next frames until the process dies. They raise alerts."""
        for _ in range(20):
            self.send(24)
            worker.process.join(1)
            if not worker.process.is_alive():
                break

    def _message(self, sent: Sent) -> Message:
        facts = {"rig": f"rig{sent.rig}", "view": sent.view, "sequence": sent.sequence}
        facts["time"] = self._start + STEP_MS * sent.sequence
        headers = [("content-type", b"image/jpeg"), *((name, str(value).encode()) for name, value in facts.items())]
        return Message(sent.rig % PARTITIONS, sent.file, headers, round(time.time() * 1000), b"k")

    def came(self) -> list[tuple[ConsumerRecord, Sent]]:
        """Return the topic's records and their frames, by partition and offset."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Sent]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [one for one in self.sent if one.rig % PARTITIONS == p], strict=True)
        return both


@pytest.mark.slow
def test_each_pair_is_aligned_once_and_each_push_said_once_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls, once: Once
) -> None:
    rng, mast = random.Random(5), Mast(make_job, once("alignment-quick", quick_model), seed=5)
    flights = []
    for fall in falls(rng, FALLS):
        worker = mast.job.start()
        mast.send(72)
        worker.arm(fall)
        mast.go_on(worker)
        flights.append(worker.fell(fall))
    mast.send(72)
    mast.job.finish(mast.job.start())
    print(f"rows and alerts in flight: {flights}; {len(mast.sent)} frames")
    assert any(rows for rows, _ in flights)
    _see(mast)


def _see(mast: Mast) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    job, came = mast.job, mast.came()
    table = pl.read_delta(job.lake.uri(job.name))
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    rows, dead = _plainly(came)
    found = Counter((row["rig"], row["sequence"], row["paired"]) for row in table.to_dicts())
    newest = {f"rig{rig}": max(s.sequence for _, s in came if s.rig == rig) for rig in range(RIGS)}
    assert max(found.values()) == 1
    assert {r for r in found if r[1] < newest[r[0]] - 2} == {r for r in rows if r[1] < newest[r[0]] - 2}
    assert Counter((x.partition, x.offset) for x in letters) == Counter(dead)
    assert {one.fate for one in mast.sent} >= {"good", "again", "late", "cut off", "third"}

    codec, tables, alerts = Codec(topic=job.topic, schema=_pipeline(mast).schema), list[pl.DataFrame](), list[Alert]()
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        replayed, rang = replay(_pipeline(mast), pa.Table.from_batches([batch]))
        tables.append(replayed)
        alerts += rang
    both = (frame.drop("processed_at", "topic").sort("rig", "sequence") for frame in (table, pl.concat(tables)))
    assert_frame_equal(*both, rel_tol=1e-3, abs_tol=1e-2, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    assert sum(a.rule == "moved" and a.transition == "raised" for a in said) >= RIGS

    files = {(f"rig{s.rig}", s.sequence): s.file for _, s in came if s.fate == "good" and s.view == VIEWS[0]}
    kept = {frame: files[rig, n] for rig, n, frame in table.select("rig", "sequence", "frame").rows() if frame}
    there = {
        str(p.relative_to(job.lake.place())): p.read_bytes() for p in Path(job.lake.place("frames")).rglob("*.jpg")
    }
    assert there == kept and len(there) >= RIGS
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def _pipeline(mast: Mast):  # type: ignore[no-untyped-def]
    return mast.job.plan.build(mast.job.lake)


def _plainly(
    came: Sequence[tuple[ConsumerRecord, Sent]],
) -> tuple[set[tuple[str, int, bool]], list[tuple[int, int]]]:
    """Return rows (rig, number, paired) and dead letters by a plain loop, without the runtime's code."""
    dead, good = list[tuple[int, int]](), dict[tuple[int, str], list[int]]()
    for record, sent in came:
        seen = good.setdefault((sent.rig, sent.view), [])
        if sent.fate in ("cut off", "third") or (seen and sent.sequence < seen[-1]):
            dead.append((record.partition, record.offset))
        elif not seen or sent.sequence > seen[-1]:
            seen.append(sent.sequence)
    rows = set[tuple[str, int, bool]]()
    for rig in range(RIGS):
        firsts, seconds = ([*good.get((rig, view), [])] for view in VIEWS)
        last = {True: -EVERY, False: -EVERY}
        for sequence in firsts:
            paired = sequence in seconds
            if sequence - last[paired] >= EVERY:
                last[paired] = sequence
                rows.add((f"rig{rig}", sequence, paired))
    return rows, dead
