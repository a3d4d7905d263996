"""`tocsin check`: a sound setup reports all ok and stays unchanged; each fault is reported in one line with its remedy."""

from __future__ import annotations

import shutil
import socket
import time
from itertools import islice
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.setups import JOB, Setup
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.model import FD001

RUL = "tocsin.pipelines.rul:pipeline"


@pytest.fixture
def setup(kafka: KafkaServer, tmp_path: Path) -> Setup:
    """A pipeline whose input topic exists, with two partitions."""
    made = Setup(tmp_path, kafka.bootstrap_servers, shards=2)
    made.create(made.topic, 2)
    return made


@pytest.fixture
def dead() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_a_pipeline_before_its_first_start_is_all_ok_and_nothing_is_made(setup: Setup) -> None:
    before = setup.topics()
    found = setup.check()
    assert {state for state, _ in found.values()} == {"ok"}
    assert "none yet; the first start creates it" in found["journal"][1]
    assert setup.topics() == before
    assert not setup.lake.exists()


def test_a_trained_model_is_ok_too(kafka: KafkaServer, tmp_path: Path) -> None:
    shutil.copytree(FD001, tmp_path / "model")
    setup = Setup(tmp_path, kafka.bootstrap_servers, factory=RUL, model=tmp_path / "model")
    setup.create(setup.topic)
    assert setup.problems() == {}


def test_a_living_shard_is_all_ok_and_notices_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    setup = Setup(tmp_path, kafka.bootstrap_servers, job.name, topic=job.topic)
    setup.settings["lake.path"] = job.lake.root
    try:
        job.send(islice(messages(1), 300))
        worker = job.drain(job.start())
        assert setup.problems() == {}
        job.send(islice(messages(2, units=40), 300))
        for _ in range(3):  # some during a commit
            assert setup.problems() == {}
        job.finish(worker)
        assert set(job.epochs()["delta"]) == set(job.epochs()["journal"]) == {1}
        assert job.differences() == []
        before = setup.topics(), setup.files()
        found = setup.check()
        assert {state for state, _ in found.values()} == {"ok"}
        assert found["input positions"][1].endswith("0 records to process")
        assert (setup.topics(), setup.files()) == before
    finally:
        job.close()


def test_people_read_marks_and_scripts_the_exit_status(setup: Setup) -> None:
    for given, status, line in (
        ({}, 0, "ok      shards             2 shards of 2 partitions on 1 worker"),
        ({f"pipelines.{setup.name}.workers": 3}, 0, "warning shards             workers = 3: expected"),
        (
            {f"pipelines.{setup.name}.shards": 3},
            1,
            f"wrong   shards             topic {setup.topic}: expected a partition for each of the 3 shards",
        ),
    ):
        done = setup.run(given)
        assert done.exit_code == status
        assert f"\n{setup.name}\n" in done.stdout
        assert f"\n{line}" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "lake.pth",
            "x",
            "lake.pth on the command line: expected a setting that exists, got 'pth'; the nearest is 'path'",
        ),
        (
            "ray.num_cpus",
            "many",
            "ray.num_cpus on the command line: expected a valid number, got 'many'; correct it there",
        ),
    ],
)
def test_a_setting_that_does_not_exist_or_fit(setup: Setup, name: str, value: str, says: str) -> None:
    found = setup.check({name: value})
    assert found["settings"] == ("wrong", says)
    assert found["kafka"] == ("skipped", "skipped: it needs settings")


def test_no_broker_leaves_what_needs_none_to_be_looked_at(setup: Setup, dead: str) -> None:
    began = time.monotonic()
    found = setup.check({"kafka.bootstrap_servers": dead})
    assert time.monotonic() - began < 20
    assert found["kafka"] == (
        "wrong",
        f"Kafka at {dead}: expected a broker to answer, got KafkaConnectionError: 111 ECONNREFUSED; is it running, and is "
        "the address right?",
    )
    assert found["input topic"] == ("skipped", "skipped: it needs kafka")
    assert {check for check, (state, _) in found.items() if state == "ok"} >= {"settings", "lake", "pipeline", "table"}


def test_no_input_topic(kafka: KafkaServer, tmp_path: Path) -> None:
    setup = Setup(tmp_path, kafka.bootstrap_servers)
    assert setup.problems() == {
        "input topic": (
            "wrong",
            f"topic {setup.topic}: expected it to exist, got none; create it, or feed it once with `tocsin feed`",
        )
    }


def test_more_shards_than_partitions_and_more_workers_than_shards(setup: Setup) -> None:
    state, said = setup.problems({f"pipelines.{setup.name}.shards": 3})["shards"]
    assert state == "wrong"
    assert said.endswith(f"set pipelines.{setup.name}.shards = 2, or add partitions")
    state, said = setup.problems({f"pipelines.{setup.name}.workers": 3})["shards"]
    assert state == "warning"
    assert said.endswith(f"set pipelines.{setup.name}.workers = 2")


@pytest.mark.parametrize(
    ("topic", "partitions", "configs", "check", "state", "says"),
    [
        ("in.{}", 2, {"cleanup.policy": "compact"}, "cleanup policy", "wrong", "expected cleanup.policy=delete, got compact"),
        ("_tocsin.{}", 2, {}, "journal", "wrong", "expected cleanup.policy=compact, got delete"),
        ("alerts.{}", 2, {"cleanup.policy": "compact"}, "alert topic", "warning", "expected cleanup.policy=delete"),
        ("in.{}.dlq", 1, {"max.message.bytes": "500000"}, "dead-letter topic", "wrong", "expected max.message.bytes of 532480"),
        ("alerts.{}.dlq", 1, {"max.message.bytes": "9"}, "landing", "wrong", "expected max.message.bytes of 532480"),
        ("alerts.{}", 2, {"min.insync.replicas": "2"}, "replication", "wrong", "at most the 1 in sync, got 2"),
    ],
)  # fmt: skip
def test_a_topic_with_other_settings_than_it_needs(
    kafka: KafkaServer,
    tmp_path: Path,
    topic: str,
    partitions: int,
    configs: dict[str, str],
    check: str,
    state: str,
    says: str,
) -> None:
    setup = Setup(tmp_path, kafka.bootstrap_servers, shards=2)
    named = topic.format(setup.name)
    setup.create(named, partitions, **configs)
    if named != setup.topic:
        setup.create(setup.topic, 2)
    found = setup.problems()
    assert [*found] == [check]
    assert found[check][0] == state
    assert found[check][1].startswith(f"topic {named}: ")
    assert says in found[check][1]
    assert "kafka-configs --alter" in found[check][1]


def test_a_record_from_the_future(setup: Setup) -> None:
    producer = KafkaProducer(bootstrap_servers=setup.bootstrap)
    producer.send(setup.topic, b"{}", partition=1, timestamp_ms=round(time.time() * 1000) + 120_000)
    producer.send(setup.topic, b"{}", partition=1)
    producer.close()
    found = setup.problems()
    assert [*found] == ["clocks"]
    assert found["clocks"][0] == "warning"
    assert "ahead of this machine's clock; set the clocks" in found["clocks"][1]


def test_a_model_that_is_not_there(setup: Setup, tracking_uri: str) -> None:
    named = {f"pipelines.{setup.name}.factory": RUL, f"pipelines.{setup.name}.model": "pumps@champion"}
    found = setup.check(named)
    assert found["model"] == (
        "wrong",
        "model pumps@champion: expected a registry, got none; train a model, or name a folder",
    )
    assert found["pipeline"] == ("skipped", "skipped: it needs model")
    # The settings name the topic, so these checks do not need the pipeline.
    assert found["input topic"][0] == found["journal"][0] == "ok"
    store = {"mlflow.enabled": "true", "mlflow.tracking_uri": tracking_uri}
    import mlflow

    mlflow.MlflowClient(tracking_uri, tracking_uri).create_registered_model("pumps")
    state, said = setup.problems(named | store)["model"]
    assert state == "wrong"
    assert said.endswith(
        "expected it to be registered, got no model of that name; train it with `tocsin train`, or register it"
    )


def test_a_registry_that_does_not_answer(setup: Setup, dead: str) -> None:
    uri = {"mlflow.enabled": "true", "mlflow.tracking_uri": f"http://me:secret@{dead}"}
    state, said = setup.problems(uri)["registry"]
    assert state == "warning"  # the pipeline takes no model from the registry
    assert "secret" not in said
    found = setup.problems({**uri, f"pipelines.{setup.name}.model": "rul@champion"})
    state, said = found.pop("registry")
    assert (state, found) == ("wrong", {})
    assert said.startswith(f"MLflow at http://me:***@{dead}: expected an answer, got ")
    assert said.endswith("is it running, and is mlflow.tracking_uri right?")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model.safetensors", b"no weights", "expected config.json and matching weights"),
        ("config.json", b"{", "expected"),
    ],
)
def test_a_model_whose_files_are_damaged(
    kafka: KafkaServer, tmp_path: Path, file: str, content: bytes, says: str
) -> None:
    shutil.copytree(FD001, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    setup = Setup(tmp_path, kafka.bootstrap_servers, factory=RUL, model=tmp_path / "model")
    setup.create(setup.topic)
    found = setup.problems()
    assert [*found] == ["pipeline"]
    assert found["pipeline"][0] == "wrong"
    assert says in found["pipeline"][1]
    assert found["pipeline"][1].endswith("train it again with `tocsin train rul`")


def test_a_factory_that_is_not_there(setup: Setup) -> None:
    state, said = setup.problems({f"pipelines.{setup.name}.factory": "tests.crash.job:pipelin"})["pipeline"]
    assert state == "wrong"
    assert said.startswith("pipeline tests.crash.job:pipelin: expected an importable module:function")


def test_ray_that_does_not_answer_or_has_too_little(setup: Setup, dead: str) -> None:
    state, said = setup.problems({"ray.address": dead})["ray"]
    assert state == "wrong"
    assert said.startswith(f"Ray at {dead}: expected a cluster, got: ")
    state, said = setup.problems({"ray.num_cpus": 1000})["workers"]
    assert state == "wrong"
    assert "expected 1000 CPUs on Ray (local)" in said


def test_without_a_pipeline_all_of_the_settings_are_looked_at(setup: Setup) -> None:
    other = Setup(setup.folder, setup.bootstrap)
    both = setup.settings | other.settings
    from typer.testing import CliRunner

    from tocsin.pipelines.cli.app import app

    given = [part for n, v in both.items() for part in ("--set", f"{n}={v}")]
    done = CliRunner().invoke(app, [*given, "check"])
    assert done.exit_code == 1
    assert f"\n{setup.name}\n" in done.stdout
    assert f"topic {other.topic}: expected it to exist" in done.stdout
    assert JOB in done.stdout
