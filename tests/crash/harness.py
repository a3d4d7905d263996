"""A job under test: its topics and lake, the processes that run it and are killed, and its output."""

from __future__ import annotations

import math
import os
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import psutil
from deltalake import DeltaTable
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from pyarrow.fs import FileSelector

from tests.crash.load import Load, Message
from tests.crash.oracle import Outcome, judge
from tests.crash.process import COUNTS, LIVE, judge_again, move, run, start_over
from tests.support.forked import FORKS
from tests.support.waits import until
from tocsin.pipelines.runtime.admin.backfill import Span
from tocsin.pipelines.runtime.admin.reset import To
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.corruption import with_checked_batches
from tocsin.pipelines.runtime.kafka.topics import JOURNAL, provision
from tocsin.pipelines.runtime.lake.delta import delta_table
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import shard_count

PARTITIONS = 2
LARGEST = 32 << 20
"""Maximum bytes of a message in the input topic."""
CLIENT = {"client": os.environ["TOCSIN_TEST_CLIENT"]} if "TOCSIN_TEST_CLIENT" in os.environ else {}
"""The Kafka client of shards, `make crash CLIENT=kafka-python`; without the variable, the one that they choose themselves."""
MARK_S = 3.0
"""How long a reader of a topic waits for the broker to mark the end of transactions, in s."""


class Killed(Exception):
    """Raised instead of SIGKILL if a shard runs in the test's own process. A shard does not retry on it."""


class Worker:
    """A process that runs or changes the shard. `armed` maps crash points, with `_` for the dot, to signals."""

    def __init__(self, folder: Path, armed: Mapping[str, str], what: Callable[..., None], *arguments: Any) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        for point, how in armed.items():
            self.arm(point.replace("_", ".", 1), how)
        self.process = FORKS.Process(target=what, args=(folder, *arguments), daemon=True)
        self.process.start()

    @property
    def said(self) -> str:
        """What the process wrote to stderr."""
        return (self._folder / "stderr").read_text() if (self._folder / "stderr").exists() else ""

    @property
    def counts(self) -> dict[str, int]:
        """The counts that the process wrote when it ended by itself."""
        return orjson.loads((self._folder / COUNTS).read_bytes())

    @property
    def where(self) -> str:
        """The exit code and stderr of the process, with the stacks of its threads if it is alive."""
        if self.process.is_alive():
            self._signal(signal.SIGUSR1)
            time.sleep(0.5)
        return f"; exit code {self.process.exitcode}\n{self.said}"

    def arm(self, point: str, how: str = "SIGKILL") -> None:
        """Arm a crash point, at which the process is then killed or stopped."""
        (whole := self._folder / "arming").write_text(how)
        whole.rename(self._folder / point)  # atomic, since the process may look at any moment

    def fell(self, point: str) -> tuple[int, int]:
        """Wait until the process is killed or stopped at an armed point. Returns the rows and the alerts in flight."""
        until(lambda: not self.process.is_alive() or self.stopped, f"{point} to be reached", worker=self)
        hit = self._folder / f"{point}.hit"
        assert hit.exists(), f"expected {point} to be reached, got exit {self.process.exitcode}: {self.said}"
        found = re.search(r"rows=(\d+) alerts=(\d+)", hit.read_text())
        assert found
        return int(found[1]), int(found[2])

    def fall(self, point: str, how: str = "SIGKILL") -> tuple[int, int]:
        """Arm a point once the recovery is over, and wait for it."""
        self._work()
        self.arm(point, how)
        return self.fell(point)

    def wake(self) -> None:
        """Continue the stopped process."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL the process."""
        self.process.kill()
        self.process.join()

    def ended(self) -> int:
        """Wait until the process ends by itself. Returns its exit code."""
        self.process.join(90)
        assert self.process.exitcode is not None, "expected the process to end within 90 s"
        return self.process.exitcode

    def stop(self) -> None:
        """Ask the process to finish, and check that it does."""
        self._work()
        self.process.terminate()
        assert self.ended() == 0, self.said

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped by a signal."""
        try:
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def _work(self) -> None:
        until(lambda: (self._folder / LIVE).exists() or not self.process.is_alive(), "takeover to end", worker=self)

    def _signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)


class Job:
    """A job of `tests.crash.job` with its own topics and lake.

    Args:
        partitions: partitions of its topic.
        shards: partitions of its journal. A process of `start` runs one shard.
        factory: creates its pipeline.
        name: name of its pipeline; by default a new one.
        lake: its lake; by default a folder of its own.
        options: options of the job.
    """

    def __init__(
        self,
        bootstrap: str,
        folder: Path,
        *,
        partitions: int = PARTITIONS,
        shards: int = 1,
        factory: str = "tests.crash.job:pipeline",
        name: str = "",
        lake: Lake | None = None,
        **options: Any,
    ) -> None:
        self.kafka = {"bootstrap_servers": bootstrap}
        self.shards_kafka = self.kafka | CLIENT
        self.name = name or f"job-{uuid.uuid4().hex[:8]}"
        self.topic = f"in.{self.name}"
        self.lake = lake or Lake(str(folder / self.name))
        self.workers: list[Worker] = []
        self._newest, self._table = "", cast("DeltaTable | None", None)
        self._folder, self.partitions, self._shards = folder / f"{self.name}.workers", partitions, shards
        self.plan = Plan(factory, {"name": self.name, "topic": self.topic, **options})
        self.create({f"{self.topic}.dlq": 1, f"alerts.{self.name}": 1, f"_tocsin.{self.name}": shards})
        self.create({self.topic: partitions}, **{"max.message.bytes": str(LARGEST)})

    def create(self, partitions: Mapping[str, int], **configs: str) -> None:
        """Create topics."""
        topics = {
            name: {
                "num_partitions": n,
                "replication_factor": 1,
                "configs": JOURNAL if name.startswith("_tocsin") else configs,
            }
            for name, n in partitions.items()
        }
        with KafkaAdminClient(**self.kafka) as admin:
            admin.create_topics(topics, wait_for_metadata=True)

    def load(self, rate: int = 300, seed: int = 1, **options: Any) -> Load:
        """Return a steady load on the job's topic."""
        return Load(self.kafka, self.topic, rate=rate, seed=seed, partitions=self.partitions, **options)

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages, and wait until the broker has acknowledged them."""
        producer = KafkaProducer(**self.kafka, acks="all", linger_ms=5, max_request_size=LARGEST)
        for m in messages:
            producer.send(self.topic, m.value, m.key, m.headers, m.partition, m.at_ms)
        producer.close(timeout=30)

    def start(
        self,
        *,
        flaw: str | None = None,
        on_gap: Literal["stop", "skip"] = "stop",
        kafka: Mapping[str, Any] | None = None,
        shard: int = 0,
        shards: int | None = None,
        config: ShardConfig | None = None,
        **armed: str,
    ) -> Worker:
        """Start a process that runs a shard.

        Args:
            kafka: client options with which it reaches the broker.
            shard, shards: number of the shard, and number of all shards; None for the job's.
            config: config of another pipeline's shard.
            armed: crash points, with `_` for the dot, and their signals.
        """
        own = self.configs(shards)[shard]
        config = config or replace(own, kafka=own.kafka | dict(kafka or {}), on_gap=on_gap)
        return self._process(armed, run, config, flaw)

    def reset(self, to: To, **armed: str) -> Worker:
        """Start a process that resets the job."""
        return self._process(armed, start_over, self.configs(), to)

    def judge_again(self, span: Span, into: str, *, overwrite: bool = False, **armed: str) -> Worker:
        """Start a process that processes a span of the topic again."""
        return self._process(armed, judge_again, self.configs()[0], span, into, overwrite)

    def move(self, shards: int, **armed: str) -> Worker:
        """Start a process that moves the state to `shards` shards."""
        provision(self.kafka, self.plan.build(self.lake), shards=shards)
        deployment = Deployment(self.plan, self.lake, self.shards_kafka, self.partitions, shards)
        return self._process(armed, move, deployment)

    def configs(self, shards: int | None = None) -> list[ShardConfig]:
        """Return the config of each shard."""
        n = shards or self._shards
        own = [range(s, self.partitions, n) for s in range(n)]
        return [ShardConfig(self.plan, self.lake, self.shards_kafka, s, own[s], shards=n) for s in range(n)]

    def _process(self, armed: Mapping[str, str], what: Callable[..., None], *arguments: Any) -> Worker:
        self.workers.append(Worker(self._folder / str(len(self.workers)), armed, what, *arguments))
        return self.workers[-1]

    def close(self) -> None:
        """Kill all processes."""
        for worker in self.workers:
            worker.kill()

    def ends(self) -> dict[int, int]:
        """Return each input partition's next offset."""
        with closing(self._consumer()) as consumer:
            return _ends(consumer, self.topic)

    def whole(self) -> Callable[[], bool]:
        """Return a function that checks whether all that was sent until now is in the table."""
        return partial(self.drained, self.ends())

    def drained(self, ends: Mapping[int, int]) -> bool:
        """Return whether everything before these offsets is in the table."""
        return all(self.stored(f"{self.topic}/{p}") >= end for p, end in ends.items())

    def _drained_or_dead(self, ends: Mapping[int, int], worker: Worker) -> bool:
        return self.drained(ends) or not worker.process.is_alive()

    def replace(self) -> Worker:
        """Start a process that replaces a stalled one, and wait for its first checkpoint."""
        before = self.stored("0#epoch")
        worker = self.start()
        until(lambda: self.stored("0#checkpoint") >> 32 > before, "a checkpoint of the next owner", worker=worker)
        return worker

    @property
    def shards(self) -> int:
        """Number of shards that the table records."""
        return shard_count(self.lake, self.name)

    def stored(self, what: str) -> int:
        """Return a transaction version from the Delta log: of `0#epoch`, `0#checkpoint` or `<topic>/<partition>`."""
        if (newest := self._newest_commit()) != self._newest:
            self._newest = newest  # reload the table only if it has changed: `until` asks repeatedly
            self._table = delta_table(self.lake, self.name)
        return self._table.transaction_version(f"{self.name}/{what}") or 0 if self._table else 0

    def _newest_commit(self) -> str:
        log = self.lake.files.get_file_info(FileSelector(f"{self.name}/_delta_log", allow_not_found=True))
        return max((info.base_name for info in log if info.extension == "json"), default="")

    def drain(self, worker: Worker, restart: Callable[[], Worker] | None = None) -> Worker:
        """Wait until all that was sent is in the table. `restart` replaces a process that ends. Returns the last process."""
        ends = self.ends()
        for _ in range(5):
            over = partial(self._drained_or_dead, ends, worker)
            until(over, "all in the table", worker=worker)
            if worker.process.is_alive():
                return worker
            assert restart, worker.said
            said, worker = worker.said, restart()
        raise AssertionError(f"expected a process to stay, got five that ended: {said}")

    def finish(self, worker: Worker) -> None:
        """Wait until all that was sent is in the table, and stop the process cleanly."""
        self.drain(worker).stop()

    def epochs(self) -> dict[str, list[int]]:
        """Return the epochs of the owners that wrote each Delta version and each journal record, in order."""
        delta, journal, expected = [], list[int](), (0, 0)
        for version in sorted(Path(self.lake.place(self.name, "_delta_log")).glob("*.json")):
            actions = [orjson.loads(line) for line in version.read_bytes().splitlines()]
            txn = {a["txn"]["appId"]: a["txn"]["version"] for a in actions if "txn" in a}
            delta += [txn[f"{self.name}/0#epoch"]] if txn else []
        for record in self.read(f"_tocsin.{self.name}"):
            stored = orjson.loads(record.value)
            named = [stored["base"], *(item[0] for item in stored["items"] if isinstance(item[-1], str))]
            place, first = stored.get("place", 0), stored.get("first", 0)
            continues = place and (place, first) == expected  # the record before may be of the same owner's mark
            journal.append(max([n >> 32 for n in named] + (journal[-1:] if continues else [])))
            expected = place + 1, first + len(stored["items"])
        return {"delta": delta, "journal": journal}

    def differences(
        self,
        expected: Outcome | None = None,
        *,
        silent: bool = False,
        skipped: Mapping[int, Sequence[range]] | None = None,
    ) -> list[str]:
        """Return how the job's output differs from the oracle's or another outcome, and the differences that re-runs reported.

        Args:
            expected: the outcome to compare with; None for the oracle's.
            silent: as in `judge`.
            skipped: each partition's skipped offsets; each range has one dead letter.
        """
        amiss = [line for w in self.workers for line in w.said.splitlines() if "re-ran" in line]
        left_out = skipped or {}
        if expected is None:
            read = self.read(self.topic)
            messages = (m for m in read if not any(m.offset in r for r in left_out.get(m.partition, ())))
            expected = judge(messages, silent=silent)
        expected.letters.update((p, r.start, None) for p, ranges in left_out.items() for r in ranges)
        return expected.differences(self.found()) + amiss

    def found(self) -> Outcome:
        """Return the outcome: the rows in the table, and the alerts and dead letters of a `read_committed` subscriber."""
        out = Outcome()
        columns = ("partition", "offset", "row", "unit", "cycle", "score", "loads")
        rows = self.lake.scan(self.name).select(columns).collect().iter_rows()
        for partition, offset, row, unit, cycle, score, loads in rows:
            identity = (partition, offset, row, unit)
            out.rows[identity, cycle] += 1
            if cycle is not None:
                out.values[identity] = [score, *loads]
        for m in self.read(f"alerts.{self.name}"):
            ce, data = dict(m.headers), orjson.loads(m.value)
            identity = (data["partition"], data["offset"], data["row"], int(ce["ce_subject"]))
            at_ms = round(datetime.fromisoformat(ce["ce_time"].decode()).timestamp() * 1000)
            transition = ce["ce_type"].decode().rsplit(".", 1)[-1]
            out.alerts[data["rule"], transition, identity, at_ms] += 1
        out.letters = self.letters()
        return out

    def letters(self) -> Counter[tuple[int, int, int | None]]:
        """Count the dead letters by partition, offset and row in the message."""
        letters = map(DeadLetter.read, self.read(f"{self.topic}.dlq"))
        return Counter((x.partition, x.offset, x.row) for x in letters)

    def read(self, topic: str) -> list[ConsumerRecord]:
        """Return all committed records of a topic.

        A transaction becomes readable some time after its commit was acknowledged, when the broker has marked its end in each
        partition. This waits for open transactions, at most `MARK_S`.
        """
        with closing(self._consumer()) as consumer:
            if not (ends := _ends(consumer, topic)):
                return []
            parts = [TopicPartition(topic, p) for p in ends]
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            records: list[ConsumerRecord] = []
            marked, give_up = dict[TopicPartition, int](), time.monotonic() + MARK_S
            while True:
                records += [r for batch in consumer.poll(timeout_ms=50).values() for r in batch]
                marked = {tp: mark for tp in parts if (mark := consumer.highwater(tp)) is not None} | marked
                late = time.monotonic() > give_up
                if all(
                    consumer.position(tp) >= (ends[tp.partition] if late else marked.get(tp, math.inf)) for tp in parts
                ):
                    return records

    def _consumer(self) -> KafkaConsumer:
        return with_checked_batches(clients.consumer(self.kafka, fetch_max_wait_ms=50))


def _ends(consumer: KafkaConsumer, topic: str) -> dict[int, int]:
    parts = [TopicPartition(topic, p) for p in clients.partitions_of(consumer, topic)]
    return {tp.partition: end for tp, end in consumer.end_offsets(parts).items()}
