"""A pipeline of cameras under kills: sends frames, and what must have come of them by a plain loop and by an offline replay."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.harness import PARTITIONS, Job, Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original

KILLS = 20
POINTS = ("alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE)
"""Where the process is killed: with alerts half published or just published, in a checkpoint, or by chance."""
CUT_OFF, NO_JPEG, BOMB = "cut off", "no JPEG", "bomb"
BROKEN = (CUT_OFF, NO_JPEG, BOMB)


class Sent(NamedTuple):
    """A sent frame: the number of its camera, its own number, its file, further headers, and what is wrong with it."""

    camera: int
    sequence: int
    file: bytes
    facts: Mapping[str, Any] = {}
    fate: str = "good"


Came = Sequence[tuple[ConsumerRecord, Sent]]
"""The topic's records and their frames, by partition and offset."""


def broken(sent: Sent, how: str) -> Sent:
    """A frame that no decoder takes."""
    file = sent.file[:-40]
    if how == NO_JPEG:
        file = b"no frame at all"
    if how == BOMB:  # a header of 10,000 x 10,000 pixels
        at = sent.file.index(b"\xff\xc0") + 5
        file = sent.file[:at] + (10_000).to_bytes(2, "big") * 2 + sent.file[at + 4 :]
    return sent._replace(file=file, fate=how)


def _any_broken(sent: Sent, rng: random.Random) -> Sent:
    return broken(sent, rng.choice(BROKEN))


def disturbed(
    rng: random.Random, frames: Iterable[Sent], spoiled: Callable[[Sent, random.Random], Sent] = _any_broken
) -> Iterator[Sent]:
    """The same frames; a few are lost, spoiled, sent twice, or once more with an earlier number."""
    for one in frames:
        chance = rng.random()
        if chance < 0.02:
            continue  # lost
        if chance < 0.05:
            yield spoiled(one, rng)
            continue
        yield one
        if chance > 0.98:
            yield one._replace(fate="again")
        elif chance > 0.96 and one.sequence > 3:
            yield one._replace(sequence=one.sequence - 3, fate="late")


class Film:
    """A job of a pipeline of cameras with a model, and the frames sent to it.

    Args:
        job: has `PARTITIONS` partitions.
        frames: of the cameras, more than are sent.
        model: its name and its folder, if the pipeline has one.
        at: the time of a frame by its number, ms after the first one.
        key: the header that names the camera.
    """

    def __init__(
        self,
        job: Job,
        frames: Iterator[Sent],
        model: tuple[str, Path] | None = None,
        *,
        at: Callable[[int], int] = lambda sequence: 100 * sequence,
        key: str = "camera",
    ) -> None:
        if model:
            name, folder = model
            job.plan = replace(job.plan, model=store_model(job.lake, folder, name=name, version="1"), device="cpu")
        self.job, self.key, self.sent = job, key, list[Sent]()
        self._frames, self._at, self._start = frames, at, int(time.time() * 1000) - 3_600_000

    def send(self, count: int) -> None:
        """Send the cameras' next frames."""
        some = list(islice(self._frames, count))
        assert len(some) == count
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """Send the cameras' next frames until the process dies. A crash point may wait for alerts in flight."""
        for _ in range(40):
            self.send(9)
            worker.process.join(0.5)  # a slow machine must not use up the frames
            if not worker.process.is_alive():
                break

    def killed(self, *, kills: int, between: int, seed: int) -> None:
        """Run the job to its end, and kill its process so often, each time after `between` frames at least."""
        points = random.Random(seed).sample(POINTS, len(POINTS))
        self.killed_at(list(islice(cycle(points), kills)), between=between)

    def killed_at(self, points: Sequence[str], *, between: int) -> None:
        """As `killed`, at these points."""
        flights = list[tuple[int, int]]()
        for point in points:
            worker = self.job.start()
            self.send(between)
            worker.arm(point)
            self.go_on(worker)
            flights.append(worker.fell(point))
        self.send(between)
        self.job.finish(self.job.start())
        print(f"rows and alerts in flight: {flights}; {len(self.sent)} frames")
        assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)

    def _message(self, sent: Sent) -> Message:
        facts = {self.key: self.name(sent), "sequence": sent.sequence, "time": self._start + self._at(sent.sequence)}
        named = ((name, str(value).encode()) for name, value in {**facts, **sent.facts}.items())
        headers = [("content-type", b"image/jpeg"), *named]
        return Message(sent.camera % PARTITIONS, sent.file, headers, round(time.time() * 1000), b"k")

    def name(self, sent: Sent) -> str:
        """The camera's name."""
        return f"{self.key}{sent.camera}"

    def came(self) -> list[tuple[ConsumerRecord, Sent]]:
        """See `Came`."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Sent]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [one for one in self.sent if one.camera % PARTITIONS == p], strict=True)
        assert all(record.value == one.file for record, one in both)
        return both

    @property
    def table(self) -> pl.DataFrame:
        return pl.read_delta(self.job.lake.uri(self.job.name))

    @property
    def alerts(self) -> list[Alert]:
        return [Alert.read(m.headers, m.value) for m in self.job.read(f"alerts.{self.job.name}")]

    @property
    def letters(self) -> list[DeadLetter]:
        """Its dead letters, with the originals."""
        store = OriginalStore(self.job.lake.files, "", self.job.lake.place())  # of late frames over 5 KB
        return [load_original(DeadLetter.read(m), store) for m in self.job.read(f"{self.job.topic}.dlq")]


Rows = Counter[tuple[str, int, int]]
"""Camera, number, and how many are missing before it."""
Dead = Counter[tuple[int, int, bytes]]
"""Partition, offset and file."""


def plainly(film: Film, came: Came) -> tuple[Rows, Dead]:
    """The rows and dead letters of frames by a plain loop, without the runtime's code."""
    rows, dead, last = Rows(), Dead(), dict[int, int]()
    for record, sent in came:
        before = last.get(sent.camera, sent.sequence - 1)
        if sent.fate in BROKEN or sent.sequence < before:
            dead[record.partition, record.offset, record.value] += 1
        elif sent.sequence > before:
            rows[film.name(sent), sent.sequence, sent.sequence - before - 1] += 1
            last[sent.camera] = sent.sequence
    return rows, dead


def expected(film: Film, rows: Rows, dead: Dead) -> None:
    """Check that the table has these rows, and the dead letter topic these frames, each once."""
    assert Counter(film.table.select(film.key, "sequence", "missed").rows()) == rows
    assert Counter((x.partition, x.offset, x.value) for x in film.letters) == dead


def as_replayed(
    film: Film,
    came: Came,
    *,
    within: float,
    relative: float = 0.0,
    after: str = "0s",
    without: Sequence[str] = (),
    kept_of: Callable[[Sent], bool] = lambda sent: True,
) -> list[Alert]:
    """Check that a replay of each partition's records gives the same rows, alerts and kept files, each once.

    Args:
        within, relative: tolerances of values, since the size of a batch changes a sum.
        after: how long the replay waits after the last record.
        without: columns that a replay has otherwise.
        kept_of: which of the frames with one number is kept.

    Returns:
        The replay's alerts.
    """
    job, table, said = film.job, film.table, film.alerts
    pipeline, tables, alerts = job.plan.build(job.lake), list[pl.DataFrame](), list[Alert]()
    codec = Codec(topic=pipeline.topic, schema=pipeline.schema)
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        rows, rang = replay(pipeline, pa.Table.from_batches([batch]), after=after)
        tables.append(rows)
        alerts += rang
    both = (frame.drop("processed_at", *without).sort(film.key, "sequence") for frame in (table, pl.concat(tables)))
    assert_frame_equal(*both, rel_tol=relative, abs_tol=within, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    seen = {a.id: Alert.read(a.headers(), a.value()).data for a in alerts}  # as JSON has them
    for a in said:
        assert all(_alike(value, seen[a.id][name], max(within, relative)) for name, value in a.data.items())
    _kept(film, came, table, kept_of)
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]
    return alerts


def _alike(one: Any, other: Any, within: float) -> bool:
    """Whether two values of alerts' data are equal, numbers within a tolerance, absolute and relative."""
    if isinstance(one, list):
        return len(one) == len(other) and all(_alike(a, b, within) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return other is not None and abs(one - other) <= within * (1 + abs(other))
    return bool(one == other)


def _kept(film: Film, came: Came, table: pl.DataFrame, kept_of: Callable[[Sent], bool]) -> None:
    """Check that the lake has the files of the frames that the table names, and no others."""
    files = {(film.name(s), s.sequence): s.file for _, s in came if s.fate == "good" and kept_of(s)}
    kept = {frame: files[key, n] for key, n, frame in table.select(film.key, "sequence", "frame").rows() if frame}
    there = Path(film.job.lake.place("frames")).rglob("*.jpg")
    assert {str(p.relative_to(film.job.lake.place())): p.read_bytes() for p in there} == kept
    assert len(kept) >= len({s.camera for s in film.sent})
