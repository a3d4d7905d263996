"""A lake that is gone, old or partly emptied is never taken for a first start."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from kafka import KafkaAdminClient

from tests.crash.harness import Job, Killed
from tests.crash.load import Message, messages
from tests.support.setups import Setup
from tests.support.shards import alerts, read, shard
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.admin.reset import reset
from tocsin.pipelines.runtime.declare.errors import LakeLost
from tocsin.pipelines.runtime.engine import shard as shard_module
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable


@pytest.fixture
def job(kafka: KafkaServer, tmp_path: Path) -> Job:
    return Job(kafka.bootstrap_servers, tmp_path)


@pytest.fixture
def sent() -> Iterator[Message]:
    return messages(4)


def _emptied(job: Job) -> None:
    for path in Path(job.lake.root).iterdir():
        shutil.rmtree(path)


def _unmounted(job: Job) -> None:
    shutil.rmtree(job.lake.root)


def _without_table(job: Job) -> None:
    shutil.rmtree(Path(job.lake.root) / job.name)


def _without_log(job: Job) -> None:
    shutil.rmtree(Path(job.lake.root) / job.name / "_delta_log")


def _another(job: Job) -> None:
    job.lake = Lake(f"{job.lake.root}-new")


def _without_journal_too(job: Job) -> None:
    _emptied(job)
    journal = f"_tocsin.{job.name}"
    with KafkaAdminClient(**job.kafka) as admin:
        admin.delete_topics([journal])
        until(lambda: journal not in admin.list_topics(), "the journal to be gone")
    job.create({journal: 1})


GONE = [_emptied, _unmounted, _without_table, _without_log, _another, _without_journal_too]


def test_a_lake_that_is_gone_is_refused_and_left_as_it_is(job: Job, sent: Iterator[Message], tmp_path: Path) -> None:
    job.send(islice(sent, 100))
    read(shard(job), job).close()
    rang, lake = alerts(job), job.lake
    assert rang
    shutil.copytree(lake.root, tmp_path / "copy")
    for loses in GONE:
        loses(job)
        for _ in range(2):  # the first attempt must leave nothing behind
            with pytest.raises(LakeLost, match=r"tocsin resume .*--on-gap skip") as lost:
                shard(job)
            assert "\n" not in str(lost.value)
        assert not (Path(job.lake.root) / job.name / "_delta_log").exists(), loses
        job.lake = lake
        shutil.rmtree(lake.root)
        shutil.copytree(tmp_path / "copy", lake.root)
    assert alerts(job) == rang


def test_or_it_is_begun_anew(job: Job, sent: Iterator[Message]) -> None:
    job.send(islice(sent, 100))
    read(shard(job), job).close()
    rang = alerts(job)
    _emptied(job)
    read(shard(job, on_gap="skip"), job).close()
    assert sorted(alerts(job)) == sorted(2 * rang)
    letters = [dict(m.headers)["__connect.errors.exception.class.name"] for m in job.read(f"{job.topic}.dlq")]
    assert letters.count(b"LakeLost") == 1
    job.send(islice(sent, 100))
    read(shard(job), job).close()  # from now on without the option
    assert job.stored("0#checkpoint") >> 32 == 3  # no checkpoint of the old table is named again
    assert set(job.found().rows.values()) == {1}


def test_a_first_start_that_died_before_its_first_checkpoint_is_no_loss(
    job: Job, sent: Iterator[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    job.send(islice(sent, 100))
    with monkeypatch.context() as patch:
        patch.setattr(shard_module.CheckpointWriter, "_write", lambda *_: (_ for _ in ()).throw(Killed))
        for _ in range(2):
            with pytest.raises(Killed):
                shard(job)
    read(shard(job), job).close()
    assert job.differences() == []


def test_a_lake_that_vanishes_under_a_running_shard_ends_it_before_it_writes_anything(
    job: Job, sent: Iterator[Message]
) -> None:
    job.send(islice(sent, 100))
    running = read(shard(job), job)
    running.checkpoint()
    running._schedule.last = math.inf  # only the test makes the next checkpoint
    _emptied(job)
    job.send(islice(sent, 50))
    read(running, job)
    with pytest.raises(LakeLost, match="its drive is not mounted"):
        running.checkpoint()
    assert list(Path(job.lake.root).iterdir()) == []


def test_an_old_copy_of_the_lake_is_refused_or_gone_on_from(job: Job, sent: Iterator[Message], tmp_path: Path) -> None:
    job.send(islice(sent, 100))
    read(shard(job), job).close()
    before = len(alerts(job))
    shutil.copytree(job.lake.root, tmp_path / "copy")
    running = shard(job)
    for _ in range(2):
        job.send(islice(sent, 100))
        read(running, job).checkpoint()
    running.close()
    rang = alerts(job)
    shutil.rmtree(job.lake.root)
    shutil.copytree(tmp_path / "copy", job.lake.root)
    with pytest.raises(LakeLost, match=r"expected .* at checkpoint 2\.\d or later, .* got 1\.\d: this is an old copy"):
        shard(job)
    read(shard(job, on_gap="skip"), job).close()
    assert sorted(alerts(job)) == sorted(rang + rang[before:])
    assert set(job.found().rows.values()) == {1}
    shard(job).close()


@pytest.mark.parametrize("all_of_them", [True, False])
def test_rows_that_are_gone_are_refused_or_taken_out_of_the_table(
    job: Job, sent: Iterator[Message], all_of_them: bool, tmp_path: Path
) -> None:
    running = shard(job)
    for _ in range(2):
        job.send(islice(sent, 100))
        read(running, job).checkpoint()
    running.close()
    files = sorted((Path(job.lake.root) / job.name).glob("*/*.parquet"))
    for path in files if all_of_them else files[:1]:
        path.unlink()
    with pytest.raises(LakeLost, match=r"expected the files that the table's log names, got none at .*\.parquet"):
        shard(job)
    setup = Setup(tmp_path, job.kafka["bootstrap_servers"], job.name, topic=job.topic)
    setup.settings["lake.path"] = job.lake.root
    state, said = setup.problems()["table's files"]
    assert state == "wrong" and "got none at" in said
    job.send(islice(sent, 100))
    read(shard(job, on_gap="skip"), job).close()
    assert pl.read_delta(job.lake.uri(job.name)).height > 0
    assert len(alerts(job)) == len(set(alerts(job)))
    shard(job).close()


def test_starting_over_is_refused_too_or_begins_a_new_table(job: Job, sent: Iterator[Message]) -> None:
    job.send(islice(sent, 100))
    read(shard(job), job).close()
    _emptied(job)
    (config,) = job.configs()
    with pytest.raises(LakeLost):
        reset([config], "earliest")
    reset([replace(config, on_gap="skip")], "earliest")
    read(shard(job), job).close()
    assert job.drained(job.ends())


def test_a_shard_whose_table_others_have_made_again_is_refused(job: Job, sent: Iterator[Message]) -> None:
    """This happens if one of two shards starts anew, or if the alerts of two pipelines go into one table."""
    job.send(islice(sent, 100))
    read(shard(job), job).close()
    _emptied(job)
    ResultsTable(job.lake, replace(job.plan.build(job.lake), name="other", into=job.name), 0).own({0: 0})
    with pytest.raises(LakeLost):
        shard(job)
