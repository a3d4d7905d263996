"""A broker with TLS, passwords and access rights: shards need no other rights, and the password appears nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.secured import PASSWORD, SCRAM, USER, grant, guarded_server
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.admin.rights import Subject, rights
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON, LIBRDKAFKA
from tocsin.pipelines.runtime.settings import Settings


@pytest.fixture(scope="module")
def secured(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    """The broker and the certificate to trust."""
    with guarded_server(tmp_path_factory.mktemp("secured")) as made:
        yield made


@pytest.fixture
def settings(secured: tuple[KafkaServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings from three sources: the address from the file, the rest from the environment, the password from its own file."""
    server, trusted = secured
    (tmp_path / "tocsin.toml").write_text(f'[kafka]\nbootstrap_servers = "127.0.0.1:{server.secure_port}"\n')
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("TOCSIN_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TOCSIN_KAFKA__SSL_CAFILE", str(trusted))
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_MECHANISM", SCRAM)
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PLAIN_USERNAME", USER)
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PLAIN_PASSWORD_FILE", str(tmp_path / "password"))
    return Settings.load(tmp_path / "tocsin.toml")


@pytest.mark.parametrize("client", [LIBRDKAFKA, KAFKA_PYTHON])
def test_a_shard_reads_rings_and_is_taken_over_with_the_fewest_rights(
    secured: tuple[KafkaServer, Path], settings: Settings, tmp_path: Path, client: str
) -> None:
    server, _ = secured
    job = Job(server.bootstrap_servers, tmp_path)  # the test itself uses the other listener, and has all rights
    options = settings.kafka.client_options() | {CLIENT: client}
    grant(server.bootstrap_servers, rights("run", Subject(job.name, job.topic)))
    try:
        job.send(islice(messages(1), 300))
        first = job.start(kafka=options)
        job.drain(first).kill()
        job.send(islice(messages(2, units=40), 300))
        job.finish(job.start(kafka=options))
        assert job.differences() == []
    finally:
        job.close()


@pytest.mark.parametrize("wrong", [{"sasl_plain_password": "guessed"}, {"ssl_cafile": None}], ids=["password", "trust"])
def test_who_is_not_let_in_is_told_so_in_one_line_without_the_password(
    settings: Settings, wrong: dict[str, str]
) -> None:
    with pytest.raises(Unavailable, match="expected a broker to answer") as refused:
        clients.consumer({**settings.kafka.client_options(), **wrong, "bootstrap_timeout_ms": 5000})
    said = str(refused.value)
    assert "\n" not in said and PASSWORD not in said and "guessed" not in said
    assert PASSWORD not in repr(settings) and PASSWORD not in str(settings.model_dump())
