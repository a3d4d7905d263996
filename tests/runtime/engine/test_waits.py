"""A running shard waits for a lake that refuses writes and for a broker that does not answer, instead of ending."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from kafka.errors import KafkaTimeoutError

from tests.crash.harness import Job
from tests.crash.job import SCHEMA
from tests.crash.load import messages
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import Fenced, Unavailable
from tocsin.pipelines.runtime.engine import patient_source, shard_publisher
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import reader
from tocsin.pipelines.runtime.kafka.dense_log import DenseLog
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON, LIBRDKAFKA
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake import retry, snapshots
from tocsin.pipelines.runtime.lake import table as sink
from tocsin.pipelines.runtime.lake.retry import LakeRetry, lake_errors_as_unavailable
from tocsin.pipelines.runtime.lake.storage import Lake

FULL = OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
READ_ONLY = OSError(
    "Generic LocalFileSystem error\n \x1b[31m↳\x1b[0m Read-only file system (os error 30)\n"
)  # from deltalake
GONE = FileNotFoundError(errno.ENOENT, "no such file")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (retry, patient_source):
        monkeypatch.setattr(module, "AGAIN_S", 0.05)


class Failing:
    """A function that raises each of `errors`, before or after it has done its work, and then works."""

    def __init__(self, work: Callable[..., Any], *errors: Exception, after: bool = False) -> None:
        self._work, self._errors, self._after, self.calls = work, list(errors), after, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self._errors:
            if self._after:
                self._work(*arguments, **named)
            raise self._errors.pop(0)
        return self._work(*arguments, **named)

    def __get__(self, owner: Any, kind: Any) -> Any:
        return lambda *arguments, **named: self(owner, *arguments, **named)


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Job:
    """A job with some input."""
    made = Job(kafka.bootstrap_servers, tmp_path, partitions=1)
    made.send(islice(messages(4, partitions=1), 600))
    return made


@pytest.fixture
def running(job: Job) -> Iterator[Callable[..., Shard]]:
    """`running(client)` starts the job's shard in a thread. At the end it is stopped, and its output compared with the oracle's."""
    stop, ended, started = threading.Event(), Future[None](), list[threading.Thread]()

    def start(client: str = LIBRDKAFKA) -> Shard:
        options = {**job.kafka, CLIENT: client}
        made = Shard(job.configs()[0], Reader(options, job.topic, [0], Codec(topic=job.topic, schema=SCHEMA), 100))

        def run() -> None:
            try:
                made.run(stop)
                ended.set_result(None)
            except BaseException as reason:
                ended.set_exception(reason)

        started.append(threading.Thread(target=run))
        started[0].start()
        return made

    yield start
    try:
        whole = job.whole()
        until(lambda: whole() or ended.done(), "all input to be in the table", 60)
    finally:
        stop.set()
        for thread in started:
            thread.join(60)
    ended.result(0)
    assert job.differences() == []


def waits(made: Shard) -> Callable[[], str]:
    return lambda: made.facts()["outage"]


SAYS_FULL, SAYS_READ_ONLY = "no space left on device", "read-only file system"
LAKE: Mapping[str, tuple[Any, str, OSError, str]] = {
    "rows": (sink.pq, "write_table", FULL, SAYS_FULL),
    "a snapshot": (snapshots, "write", FULL, SAYS_FULL),
    "a commit": (sink, "commit", READ_ONLY, SAYS_READ_ONLY),
}


@pytest.mark.parametrize("what", LAKE)
def test_a_lake_that_takes_nothing_is_waited_for_and_nothing_is_lost_or_doubled(
    job: Job, running: Callable[[], Shard], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made = running()
    owner, name, error, said = LAKE[what]
    monkeypatch.setattr(owner, name, failing := Failing(getattr(owner, name), *[error] * 40))
    until(waits(made), "the shard to wait", 60)
    assert made.facts()["outage"].startswith(f"{said} on lake {job.lake.place()}: nothing is lost")
    assert (made.facts()["waits_for"], made.facts()["turn_s"]) == ("the lake", 0)
    until(lambda: not waits(made)(), "the shard to go on", 60)
    assert failing.calls > 40


def test_a_commit_whose_reply_was_an_error_is_looked_for_and_not_made_twice(
    job: Job, running: Callable[[], Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = running()
    monkeypatch.setattr(sink, "commit", failing := Failing(sink.commit, READ_ONLY, after=True))
    whole = job.whole()
    until(lambda: failing.calls and whole(), "all input to be in the table", 60)
    assert waits(made)() == ""


def test_files_that_a_full_lake_has_only_in_part_are_deleted(
    job: Job, running: Callable[[], Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink.pq, "write_table", Failing(sink.pq.write_table, *[FULL] * 3, after=True))
    made = running()
    whole = job.whole()
    until(lambda: whole() and not waits(made)(), "all input to be in the table", 60)
    named = {Path(uri).name for uri in DeltaTable(job.lake.uri(job.name)).file_uris()}
    assert {path.name for path in Path(job.lake.place(job.name)).rglob("part-*.parquet")} == named


def test_originals_of_dead_letters_wait_for_the_lake_before_their_transaction_begins(
    job: Job, running: Callable[[], Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_publisher, "store_original", Failing(shard_publisher.store_original, *[FULL] * 40))
    made = running()
    until(waits(made), "the shard to wait", 60)
    assert made._recovered.publisher._give_up == math.inf  # no transaction timeout runs meanwhile


class Flaky(Failing):
    """Fails in every third call."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls % 3 == 0:
            raise self._errors[0]
        return self._work(*arguments, **named)


SOURCE = {
    "after a fetch": (KAFKA_PYTHON, reader.KafkaConsumer, "position", KafkaTimeoutError("no position")),
    "for a refused record": (LIBRDKAFKA, Reader, "originals", Unavailable("expected the record in 20 s, got none")),
    "for records": (KAFKA_PYTHON, reader.KafkaConsumer, "poll", KafkaTimeoutError("no answer")),
    "for records of librdkafka": (LIBRDKAFKA, DenseLog, "poll", KafkaTimeoutError("no answer")),
    "to a seek": (KAFKA_PYTHON, Reader, "_seek_all", Unavailable("expected a broker to answer")),
}


@pytest.mark.parametrize("when", SOURCE)
def test_a_broker_that_does_not_answer_is_waited_for_and_no_record_is_passed_over(
    job: Job, running: Callable[..., Shard], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The shard calls `originals` because the input has late readings. It seeks after each failed poll."""
    client, owner, name, error = SOURCE[when]
    running(client)
    with monkeypatch.context() as broken:
        if when == "to a seek":
            polls = Flaky(reader.KafkaConsumer.poll, KafkaTimeoutError("no answer"))
            broken.setattr(reader.KafkaConsumer, "poll", polls)
        broken.setattr(owner, name, failing := Flaky(getattr(owner, name), error))
        job.send(islice(messages(5, partitions=1), 600))
        until(lambda: failing.calls > 3, "more attempts", 60)


def test_a_takeover_waits_as_a_whole_and_what_is_not_there_is_no_wait(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with (
        pytest.raises(Unavailable, match=r"^no space left on device on lake .*; make it writable again$"),
        lake_errors_as_unavailable(lake),
    ):
        raise FULL
    for error in (GONE, OSError(errno.EMFILE, "too many open files")):
        with pytest.raises(type(error)), lake_errors_as_unavailable(lake):
            raise error
        once = LakeRetry(lake)
        once.patient = True
        with pytest.raises(type(error)):
            once.through(Failing(int, error))
    with pytest.raises(Fenced), lake_errors_as_unavailable(lake):
        raise Fenced("another owner")


def test_whoever_waits_gives_up_when_the_shard_is_closed(tmp_path: Path) -> None:
    lake = LakeRetry(Lake(str(tmp_path)))
    lake.patient = True
    threading.Timer(0.2, lake.close).start()
    with pytest.raises(OSError, match="No space left"):
        lake.through(Failing(int, *[FULL] * 1000))
