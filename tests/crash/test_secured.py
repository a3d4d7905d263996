"""A broker that asks for TLS and a password: what the settings say reaches every client, and the password no one else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.kafka.server import KafkaServer
from pipelines.runtime import clients
from pipelines.runtime.errors import Unavailable
from pipelines.runtime.settings import Settings
from tests.crash.harness import Job
from tests.crash.load import messages

PASSWORD = "open sesame"


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself: alone for clients, and with its key for the broker."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tocsin tests")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    basic = x509.BasicConstraints(ca=True, path_length=None)
    signed = builder.add_extension(here, False).add_extension(basic, True).sign(key, hashes.SHA256())
    public = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (alone := folder / "ca.pem").write_bytes(public)
    (both := folder / "broker.pem").write_bytes(private + public)
    return alone, both


@pytest.fixture(scope="module")
def secured(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    """The broker and the certificate to trust."""
    folder = tmp_path_factory.mktemp("secured")
    trusted, own = _certificate(folder)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    secure = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(own),
        "sasl.enabled.mechanisms": "PLAIN",
        "plain.sasl.jaas.config": f'{plain} required user_tocsin="{PASSWORD}";',
    }
    with KafkaServer(data=folder / "kafka", heap="256m", secure=secure) as server:
        yield server, trusted


@pytest.fixture
def settings(secured: tuple[KafkaServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As a user gives them: an address in the file, the rest in the environment, the password in a file of its own."""
    server, trusted = secured
    (tmp_path / "tocsin.toml").write_text(f'[kafka]\nbootstrap_servers = "127.0.0.1:{server.secure_port}"\n')
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("TOCSIN_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TOCSIN_KAFKA__SSL_CAFILE", str(trusted))
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PLAIN_USERNAME", "tocsin")
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PLAIN_PASSWORD_FILE", str(tmp_path / "password"))
    return Settings.load(tmp_path / "tocsin.toml")


def test_a_shard_reads_rings_and_is_taken_over_on_a_broker_with_tls_and_a_password(
    secured: tuple[KafkaServer, Path], settings: Settings, tmp_path: Path
) -> None:
    server, _ = secured
    job = Job(server.bootstrap_servers, tmp_path)  # the test itself looks on through the other listener
    try:
        job.send(islice(messages(1), 300))
        first = job.start(kafka=settings.kafka.client_options())
        job.drain(first).kill()
        job.send(islice(messages(2, units=40), 300))
        job.finish(job.start(kafka=settings.kafka.client_options()))
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
