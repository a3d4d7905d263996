"""Backfill: its table has the rows that the pipeline wrote, appears whole or not at all, and nothing else changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message, messages, reading
from tests.support.forked import warm_up
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.cli.backfill import summary
from tocsin.pipelines.runtime.admin.backfill import BackfillReport, Span, backfill
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import Commit
from tocsin.pipelines.runtime.engine.alerts import Alert

pytestmark = pytest.mark.crash
START_MS = int(time.time() * 1000) - 3_600_000
FOREVER = Span(0, 2**42)
IDENTITY = ["partition", "offset", "row", "unit", "cycle"]


def _again(
    job: Job, span: Span, into: str = "again", *, but: dict[str, Any] | None = None, **more: Any
) -> BackfillReport:
    """Backfill a span; `but` replaces fields of the job's pipeline."""
    (config,) = job.configs()
    return backfill(replace(config.plan.build(job.lake), **(but or {})), job.kafka, job.lake, span, into, **more)


def _rows(job: Job, table: str) -> pl.DataFrame:
    return pl.scan_delta(job.lake.uri(table)).sort(IDENTITY).collect()


def _middle(job: Job) -> tuple[Span, pl.Expr]:
    """Return the middle third of the log, warmed up with all records before it, and a filter for the rows of its records."""
    log = job.read(job.topic)
    times = sorted(m.timestamp for m in log)
    since, until_ms = times[len(times) // 3], times[2 * len(times) // 3]
    at = {
        m.partition: [x.offset for x in log if x.partition == m.partition and since <= x.timestamp < until_ms]
        for m in log
    }
    inside = pl.any_horizontal(
        (pl.col("partition") == p) & pl.col("offset").is_between(min(o), max(o)) for p, o in at.items()
    )
    return Span(since, until_ms, warmup=since - times[0]), inside


def _same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert one.select(IDENTITY).equals(other.select(IDENTITY))
    for column in ("score", "loads"):
        for a, b in zip(one[column].to_list(), other[column].to_list(), strict=True):
            assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("late", [0, 3])
def test_it_gives_the_rows_and_alerts_that_the_pipeline_gave_and_moves_nothing_of_it(
    make_job: MakeJob, late: int
) -> None:
    job = make_job(late=late)
    job.send(islice(messages(5), 900))
    job.finish(job.start())
    span, inside = _middle(job)
    version, found, kept = DeltaTable(job.lake.uri(job.name)).version(), job.found(), _stored(job)
    rang: list[Alert] = []
    read: list[tuple[int, int]] = []
    done = _again(job, span, on_alert=rang.append, progress=lambda *so_far: read.append(so_far))

    wrote = _rows(job, job.name).filter(inside)
    assert 150 < len(wrote) == done.rows < 500
    _same(_rows(job, "again"), wrote)
    there = {(row["partition"], row["offset"]) for row in wrote.to_dicts()}
    expected = {(rule, transition, at[:3]) for rule, transition, at, _ in found.alerts if at[:2] in there}
    got = [(a.rule, a.transition, (a.data["partition"], a.data["offset"], a.data["row"])) for a in rang]
    assert sorted(got) == sorted(expected) and len(got) == done.alerts > done.raised > 10
    offsets = pl.DataFrame([letter[:2] for letter in found.letters], schema=["partition", "offset"], orient="row")
    assert done.bad == len(offsets.filter(inside)) > 3
    assert (done.records, read[-1][0]) == (_count(job, span), read[-1][1])
    assert (DeltaTable(job.lake.uri(job.name)).version(), job.found(), _stored(job)) == (version, found, kept)


@pytest.fixture
def odd(kafka: KafkaServer, tmp_path: Path) -> Iterator[Job]:
    """A job whose lake is in a folder whose name a URI has to escape."""
    warm_up()
    job = Job(kafka.bootstrap_servers, tmp_path / "My Läke 100% #1?")
    yield job
    job.close()


def test_it_counts_alerts_as_the_topic_has_them_and_says_where_it_began_without_state(odd: Job) -> None:
    job = odd
    job.send(islice(messages(5), 600))
    job.start().stop()
    job.finish(job.start())
    published = [dict(record.headers)["ce_type"].rpartition(b".")[2] for record in job.read(f"alerts.{job.name}")]
    raised, cleared = (published.count(transition) for transition in (b"raised", b"cleared"))
    assert raised > cleared > 10
    done = _again(job, FOREVER)
    assert (done.alerts, done.raised, done.cleared, done.cold) == (len(published), raised, cleared, False)
    line = f"{len(published)} alerts would have been published: {raised} raised, {cleared} cleared"
    assert job.lake.scan("again").collect().height == job.lake.scan(job.name).collect().height == done.rows > 100
    assert summary("again", done) == f"again: {done.rows} rows from {done.records} records; {line}"
    span, _ = _middle(job)
    assert not _again(job, span, "warm").cold
    assert _again(job, Span(span.since, span.until), "cold").cold


def _count(job: Job, span: Span) -> int:
    return sum(span.since <= m.timestamp < span.until for m in job.read(job.topic))


def _stored(job: Job) -> tuple[int, list[str]]:
    """Return the number of journal records, and the files of the snapshots."""
    state = Path(job.lake.place("_state"))
    return len(job.read(f"_tocsin.{job.name}")), sorted(str(p) for p in state.rglob("*"))


def test_without_warm_up_windows_fill_first(make_job: MakeJob) -> None:
    job = make_job()
    job.send(islice(messages(5), 600))
    job.finish(job.start())
    span, inside = _middle(job)
    cold = _again(job, Span(span.since, span.until))
    wrote = _rows(job, job.name).filter(inside)
    assert len(wrote) - 60 < cold.rows < len(wrote) - 20  # each of 20 units lacks at most two windows


def test_a_timers_row_is_in_the_span_of_its_event_time(make_job: MakeJob) -> None:
    job = make_job(silence="1s")
    job.send(
        Message(0, json.dumps(reading(unit, i, 0.3)).encode(), [], START_MS + unit * 10_000 + i * 1000)
        for unit in (0, 2, 4)
        for i in range(3)
    )
    worker = job.drain(job.start())
    until(lambda: len(job.read(f"alerts.{job.name}")) == 3, "three silent units", worker=worker)
    worker.stop()
    done = _again(job, FOREVER)
    _same(_rows(job, "again"), _rows(job, job.name))
    assert (done.rows, done.raised) == (6, 3)
    done = _again(job, Span(START_MS + 20_000, START_MS + 30_000), "second")
    assert done.rows == 2
    assert set(_rows(job, "second")["unit"]) == {2}


def test_killed_before_its_end_nothing_is_to_be_seen(make_job: MakeJob) -> None:
    job, sent = make_job(), messages(5)
    job.send(islice(sent, 300))
    job.judge_again(FOREVER, "again", backfill_written="SIGKILL").fell("backfill.written")
    assert list(Path(job.lake.place("again")).rglob("*.parquet"))
    assert not DeltaTable.is_deltatable(job.lake.uri("again"))
    assert job.judge_again(FOREVER, "again").ended() == 0
    first = _rows(job, "again")
    assert len(first) > 150 and first.select(IDENTITY).is_unique().all()

    job.send(islice(sent, 100))
    job.judge_again(FOREVER, "again", overwrite=True, backfill_written="SIGKILL").fell("backfill.written")
    assert _rows(job, "again").equals(first)
    assert job.judge_again(FOREVER, "again", overwrite=True).ended() == 0
    assert len(_rows(job, "again")) > len(first)


def test_interrupted_it_leaves_no_files(make_job: MakeJob) -> None:
    job = make_job()
    job.send(islice(messages(5), 300))
    files: list[Path] = []

    def interrupt(done: int, total: int) -> None:
        files.extend(Path(job.lake.place("again")).rglob("*.parquet"))
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _again(job, FOREVER, but={"commit": Commit(size="1KB")}, progress=interrupt)
    assert files
    assert not [f for f in files if f.exists()]


def test_what_it_cannot_do_is_one_line(make_job: MakeJob) -> None:
    job = make_job()
    job.send(islice(messages(5), 100))
    job.finish(job.start())
    _again(job, FOREVER)
    for says, call in {
        "backfill from 1970-01-01T00:00:02.*: expected a later end, got 1970-01-01T00:00:01": lambda: _again(
            job, Span(2000, 1000), "other"
        ),
        r"expected records from 1970.* to 1970.*, got none in its offsets 0: 0\.\.\d+, 1: 0\.\.\d+": lambda: _again(
            job, Span(1000, 2000), "other"
        ),
        "table again: expected a new one, got a backfill of job-.*; name another, or add --overwrite": lambda: _again(
            job, FOREVER
        ),
        f"table {job.name}: expected a new one or one from a backfill, got another": lambda: _again(
            job, FOREVER, job.name, overwrite=True
        ),
        "topic nowhere: expected it to exist, got none": lambda: _again(
            job, FOREVER, "other", but={"topic": "nowhere"}
        ),
    }.items():
        with pytest.raises(ConfigError, match=says) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert not Path(job.lake.place("other")).exists()
