"""`tocsin check` reports a lake that is unusable or belongs to another journal, but never a shard's own changes."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from tests.crash.harness import PARTITIONS, Job
from tests.crash.load import messages
from tests.support.setups import Setup
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.model import FD001
from tocsin.pipelines.runtime.admin import lake_checks
from tocsin.pipelines.runtime.admin.lake_checks import LakeTable, goes_with
from tocsin.pipelines.runtime.admin.preflight import Concern
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.lake.storage import Lake


@pytest.fixture
def setup(kafka: KafkaServer, tmp_path: Path) -> Setup:
    made = Setup(tmp_path, kafka.bootstrap_servers)
    made.create(made.topic)
    return made


@pytest.fixture
def processed(kafka: KafkaServer, tmp_path: Path) -> Iterator[Setup]:
    """A pipeline that has run and was stopped. It has a table, snapshots and a journal."""
    job = Job(kafka.bootstrap_servers, tmp_path)
    made = Setup(tmp_path, kafka.bootstrap_servers, job.name, topic=job.topic)
    made.settings["lake.path"] = job.lake.root
    try:
        job.send(islice(messages(1), 300))
        job.finish(job.start())
        assert made.problems() == {}
        yield made
    finally:
        job.close()


def test_a_lake_that_can_not_be_written(setup: Setup) -> None:
    (setup.folder / "file").write_text("")
    for path in ("/sys", "/sys/lake", str(setup.folder / "file"), str(setup.folder / "file" / "lake")):
        found = setup.check({"lake.path": path})
        assert found["lake"][0] == "wrong", path
        assert found["lake"][1].startswith(f"lake {path}: expected to create and delete a file there, got [Errno ")
        assert found["lake"][1].endswith("give this user the right to write there, or set lake.path and lake.options")
        assert found["table"] == ("skipped", "skipped: it needs lake")


def test_a_lake_that_is_there_keeps_no_probe(setup: Setup) -> None:
    setup.lake.mkdir()
    (setup.lake / "mine").write_text("")
    assert setup.problems() == {}
    assert [p.name for p in setup.lake.iterdir()] == ["mine"]


@pytest.mark.parametrize(("foreign", "is_concern"), [(1, False), (3, True)])
def test_results_of_readings_unlike_the_training_data_are_a_concern(
    tmp_path: Path, foreign: int, is_concern: bool
) -> None:
    lake, days = Lake(str(tmp_path)), ["2026-01-30"] * 40 + ["2026-01-31"] * 40
    known = [False] * 40 + [False] * foreign + [True] * (40 - foreign)
    rows = pa.table({"event_date": days, "in_domain": known})
    write_deltalake(tmp_path / "rul", rows, partition_by=["event_date"])
    table = LakeTable(lake, "rul", 1)
    if is_concern:
        with pytest.raises(
            Concern, match=r"results of rul: expected readings like .*, got 3 others of the newest day's 40;"
        ):
            table.domain()
    else:
        assert table.domain() == "1 of the newest day's 40 rows are unlike the training data"
    write_deltalake(tmp_path / "other", rows.rename_columns(["event_date", "known"]), partition_by=["event_date"])
    assert LakeTable(lake, "other", 1).domain() == LakeTable(lake, "none", 1).domain() == "not judged"


def test_a_camera_that_is_unlike_is_named_and_frames_that_are_not_known_do_not_count(tmp_path: Path) -> None:
    lake, said = Lake(str(tmp_path)), "highlights 3, usually at least 20"
    rows = {
        "event_date": ["2026-01-31"] * 60,
        "key": ["bow"] * 60,
        "in_domain": [None] * 40 + [True] * 10 + [False] * 10,
    }
    table = pa.table({**rows, "unlike": [None] * 50 + [said] * 10})
    write_deltalake(tmp_path / "surprise", table, partition_by=["event_date"])
    with pytest.raises(Concern, match=f"got 10 others of the newest day's 20, such as bow: {said}; compare units"):
        LakeTable(lake, "surprise", 1).domain()
    unknown = pa.table({**rows, "in_domain": pa.nulls(60, pa.bool_())})
    write_deltalake(tmp_path / "young", unknown, partition_by=["event_date"])
    assert LakeTable(lake, "young", 1).domain() == "not known of the newest day's 60 rows"


def test_a_lake_without_room(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**8, 10**8)
    monkeypatch.setattr(lake_checks.shutil, "disk_usage", lambda path: usage)
    (check, (state, said)) = setup.problems().popitem()
    assert (check, state) == ("space", "wrong")
    assert "expected 1 GB free at least, got 0.10" in said


@pytest.mark.parametrize(
    ("columns", "name", "says"),
    [
        ({"score": pa.string()}, "{}", "expected a column score of float, got string"),
        ({}, "other", "expected it to be of pipeline {}, got other"),
    ],
)
def test_a_table_of_another_schema_or_pipeline(
    setup: Setup, columns: dict[str, pa.DataType], name: str, says: str
) -> None:
    from tests.crash.job import pipeline

    whole = pipeline({"name": setup.name, "topic": setup.topic}, None).table
    schema = whole
    for column, type_ in columns.items():
        schema = schema.set(schema.get_field_index(column), pa.field(column, type_))
    DeltaTable.create(str(setup.lake / setup.name), schema, name=name.format(setup.name))
    (check, (state, said)) = setup.problems().popitem()
    assert (check, state) == ("table", "wrong")
    assert says.format(setup.name) in said
    assert said.endswith("use another lake or pipeline name")


def test_a_journal_that_goes_with_another_lake(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    setup = Setup(tmp_path, kafka.bootstrap_servers, job.name, topic=job.topic)
    first, second = job.lake, Lake(str(tmp_path / "second"))
    try:
        job.send(islice(messages(1), 300))
        job.finish(job.start())
        found = setup.problems({"lake.path": second.root})  # a new lake
        assert [*found] == ["one writer"]
        assert found["one writer"][0] == "wrong"
        assert found["one writer"][1].startswith(
            f"lake {second.place(job.name)}: expected a table that knows of {job.name}/0, as its journal in topic "
            f"_tocsin.{job.name}[0] does, got none"
        )
        job.lake = second
        job.finish(job.start(on_gap="skip"))
        worker = job.start()
        for seed in (2, 3):  # with a history and a second owner there, the first lake is foreign
            job.send(islice(messages(seed, units=40), 300))
            job.drain(worker)
        job.finish(worker)
        assert setup.problems({"lake.path": second.root}) == {}
        found = setup.problems({"lake.path": first.root})
        assert [*found] == ["one writer"]
        assert "two writers' folders" in found["one writer"][1]
        assert found["one writer"][1].endswith("or rename this one")
    finally:
        job.close()


def test_a_journal_that_is_gone(processed: Setup) -> None:
    with KafkaAdminClient(bootstrap_servers=processed.bootstrap) as admin:
        admin.delete_topics([f"_tocsin.{processed.name}"])
    (check, (state, said)) = processed.problems().popitem()
    assert (check, state) == ("one writer", "wrong")
    assert "expected the journal that goes with checkpoint 1." in said


def test_snapshots_that_are_gone(processed: Setup) -> None:
    shutil.rmtree(Path(processed.settings["lake.path"]) / "_state")
    (check, (state, said)) = processed.problems().popitem()
    assert (check, state) == ("snapshots", "wrong")
    assert said.startswith("snapshot 1.")
    assert said.endswith("start over with `--on-gap skip`")


def test_an_input_topic_that_was_cut_or_made_again(processed: Setup) -> None:
    with KafkaAdminClient(bootstrap_servers=processed.bootstrap) as admin:
        admin.delete_records({TopicPartition(processed.topic, 0): -1})
        assert processed.problems() == {}  # all of it was processed
        producer = KafkaProducer(bootstrap_servers=processed.bootstrap)
        producer.send(processed.topic, b"{}", partition=0)
        producer.close()
        admin.delete_records({TopicPartition(processed.topic, 0): -1})
        (check, (state, said)) = processed.problems().popitem()
        assert (check, state) == ("input positions", "wrong")
        assert said.startswith(f"{processed.topic}[0]@")
        assert "records were deleted before they were processed" in said
        admin.delete_topics([processed.topic])
        while processed.topic in admin.list_topics():
            time.sleep(0.1)
        processed.create(processed.topic, PARTITIONS)
        (check, (state, said)) = processed.problems().popitem()
        assert (check, state) == ("input positions", "wrong")
        assert "it was deleted and made again" in said


def test_a_damaged_copy_of_a_model(kafka: KafkaServer, tmp_path: Path) -> None:
    setup = Setup(tmp_path, kafka.bootstrap_servers, factory="tocsin.pipelines.rul:pipeline", model=FD001)
    setup.create(setup.topic)
    ref = store_model(Lake(str(setup.lake)), FD001, name="fd001", version="1")
    assert setup.problems() == {}
    weights = setup.lake / "_models" / ref.sha256 / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))  # a start accepts a copy of the same size
    (check, (state, said)) = setup.problems().popitem()
    assert (check, state) == ("model's copy", "wrong")
    assert said.endswith("they are damaged; delete that folder, and the next start copies it again")


def journal(base: int, *items: int | tuple[int, int]) -> Journal:
    """Make a journal. An item is a checkpoint's mark (a number) or a step (its partition and the offset it reaches)."""
    made = Journal(base)
    for item in items:
        if isinstance(item, tuple):
            made.add_step(0, dict([item]))
        else:
            made.mark(item, "plan")
    return made


@pytest.mark.parametrize(
    ("table", "offset", "record", "one"),
    [
        (0, None, journal(0), True),  # before the first checkpoint
        (0, 0, journal(0, (0, 50), 5), True),  # marked, but not in the table
        (5, 50, journal(0, (0, 50), 5), True),  # in the table
        (5, 50, journal(5, (0, 70), 6, (0, 90)), True),
        (6, 70, journal(5, (0, 70), 6, (0, 90)), True),
        (4, 40, journal(5, (0, 70), 6), False),  # the journal starts at a later checkpoint than the table's
        (0, None, journal(5), False),
        (8, 99, journal(5, (0, 70), 6), False),  # the journal does not know the table's checkpoint
        (5, 80, journal(5, (0, 70)), False),  # the checkpoints agree, the offsets do not
        (6, 60, journal(5, (0, 70), 6), False),
        (6, 95, journal(5, (0, 70), 6, (0, 90)), False),
    ],
)
def test_a_journal_goes_with_a_table_only_if_it_knows_the_tables_checkpoint_and_what_was_read_by_then(
    table: int, offset: int | None, record: Journal, one: bool
) -> None:
    assert goes_with(record, table, table, lambda partition: offset) is one


def test_a_shard_that_goes_on_between_two_looks_is_no_second_writer() -> None:
    assert goes_with(journal(8), 5, 9, lambda partition: 50)
    assert not goes_with(journal(8), 5, 7, lambda partition: 50)
