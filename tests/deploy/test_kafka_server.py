"""Apache Kafka as the tests use it: transactions, crashes, and no process left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaTimeoutError

from tests.conftest import ROOT
from tests.support.tour import environment, make
from tocsin.deploy.kafka import server
from tocsin.deploy.kafka.server import KafkaServer, MissingToolError


def transact(bootstrap_servers: str, topic: str, value: bytes, *, commit: bool = True) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{topic}/0", retry_backoff_ms=2)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, value).get(timeout=20)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    producer.close()


def committed(bootstrap_servers: str, topic: str) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_committed")
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    values: list[bytes] = []
    while consumer.position(partition) < end:
        values += [record.value for record in consumer.poll(500).get(partition, [])]
    consumer.close()
    return values


def ends(pid: int, within: float) -> bool:
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_reader_of_committed_records_sees_what_transactions_committed_and_not_what_they_aborted(
    kafka: KafkaServer, topic: str
) -> None:
    transact(kafka.bootstrap_servers, topic, b"aborted", commit=False)
    transact(kafka.bootstrap_servers, topic, b"committed")
    assert committed(kafka.bootstrap_servers, topic) == [b"committed"]


def test_a_topic_is_made_with_the_partitions_and_settings_asked_for(kafka: KafkaServer, create_topic) -> None:
    name = create_topic("journal", partitions=3, config={"cleanup.policy": "compact"})
    assert name.startswith("journal.")
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        assert len(admin.describe_topics([name])[0]["partitions"]) == 3
        settings = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    assert settings["topic"][name]["cleanup.policy"]["value"] == "compact"


def test_a_topic_nobody_made_does_not_come_to_be(kafka: KafkaServer) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_block_ms=1000)
    with pytest.raises(KafkaTimeoutError):
        producer.send("mistyped", b"").get(timeout=5)
    producer.close()


def test_every_listener_is_on_loopback(own_kafka: KafkaServer) -> None:
    listening = [c for c in psutil.Process(own_kafka.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 2
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_a_broker_killed_and_restarted_has_the_same_port_and_all_its_records(own_kafka: KafkaServer) -> None:
    port, pid = own_kafka.port, own_kafka.pid
    with KafkaAdminClient(bootstrap_servers=own_kafka.bootstrap_servers) as admin:
        admin.create_topics({"kept": {"num_partitions": 1}}, wait_for_metadata=True)
    transact(own_kafka.bootstrap_servers, "kept", b"before")
    own_kafka.kill()
    assert ends(pid, 5)
    own_kafka.restart()
    assert own_kafka.port == port
    assert own_kafka.pid != pid
    transact(own_kafka.bootstrap_servers, "kept", b"after")
    assert committed(own_kafka.bootstrap_servers, "kept") == [b"before", b"after"]


def test_a_stopped_broker_leaves_no_process_and_says_that_it_does_not_run(kafka: KafkaServer, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with KafkaServer(data=tmp_path) as own, pytest.raises(RuntimeError, match=r"already runs as pid .*stop\(\) it"):
        own.start()
    assert set(psutil.Process().children(recursive=True)) <= before
    with pytest.raises(RuntimeError, match=r"does not run; start\(\) it"):
        _ = own.pid


def test_a_broker_that_cannot_start_says_why_in_one_line_and_leaves_no_process(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    second = KafkaServer(data=tmp_path, port=kafka.port)
    with pytest.raises(RuntimeError, match=r"exited with status 1 at startup; .*kafka.log ends: ") as failure:
        second.start()
    assert "\n" not in str(failure.value)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_make_kafka_starts_a_broker_on_the_port_asked_for_and_ctrl_c_ends_it(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, given = make("kafka", f"PORT={port}"), environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(
        command, cwd=tmp_path, env=given, stdout=subprocess.PIPE, text=True, process_group=0
    ) as foreground:
        assert foreground.stdout
        assert f"Apache Kafka on 127.0.0.1:{port}," in foreground.stdout.readline()
        with KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}") as admin:
            assert admin.list_topics() == []
        started = psutil.Process(foreground.pid).children(recursive=True)
        os.killpg(foreground.pid, signal.SIGINT)  # what Ctrl-C does
        assert "Apache Kafka stopped." in foreground.communicate(timeout=20)[0]
        assert all(ends(process.pid, 5) for process in started)


@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGINT])
def test_a_broker_in_the_foreground_ends_with_its_process(kafka: KafkaServer, tmp_path: Path, signalled: int) -> None:
    command = [sys.executable, "-m", "tocsin.deploy.kafka", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout
        assert "Apache Kafka on 127.0.0.1:" in foreground.stdout.readline()
        started = psutil.Process(foreground.pid).children(recursive=True)
        assert "java" in [process.name() for process in started]
        foreground.send_signal(signalled)
        assert foreground.wait(20) == (-signal.SIGKILL if signalled == signal.SIGKILL else 0)
        assert all(ends(process.pid, 5) for process in started)


def test_missing_java_and_maven_are_named_in_one_line_that_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"^.*Java 17.*apt-get install.*$"):
        KafkaServer(data=tmp_path).start()

    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(MissingToolError, match=r"^.*Java 17.*11\.0\.2.*apt-get install.*$"):
        KafkaServer(data=tmp_path).start()

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "HERE", tmp_path)
    (tmp_path / "pom.xml").write_text("<project/>")
    with pytest.raises(MissingToolError, match=r"^.*Maven.*apt-get install.*$"):
        server.classpath()
