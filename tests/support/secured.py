"""Settings that make a test's broker require TLS and a password and, optionally, check access rights."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.admin._acls import ACLResourcePatternType

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.admin.rights import Right

USER, PASSWORD = "tocsin", "open sesame"
SCRAM = "SCRAM-SHA-512"
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # clients of the other listener, including the broker itself
}


def _secure(own: Path) -> dict[str, str]:
    """Return the settings of a listener that uses the certificate and key in `own`."""
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(own),
        "sasl.enabled.mechanisms": f"PLAIN,{SCRAM}",
        "plain.sasl.jaas.config": f'{plain} required user_{USER}="{PASSWORD}";',
        f"{SCRAM.lower()}.sasl.jaas.config": f"{scram} required;",  # users are in Kafka's metadata
    }


@contextmanager
def guarded_server(folder: Path) -> Iterator[tuple[KafkaServer, Path]]:
    """A broker with TLS, passwords and ACLs, and the certificate to trust. Users of its other listener have all rights."""
    trusted, own = _certificate(folder)
    with KafkaServer(data=folder / "kafka", heap="256m", secure=_secure(own), more=AUTHORIZER) as server:
        _add_user(server.bootstrap_servers)
        yield server, trusted


def _add_user(bootstrap_servers: str) -> None:
    """Let the user log in by SCRAM, too."""
    credential = UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, PASSWORD, iterations=4096)
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        assert admin.alter_user_scram_credentials([credential]) == {USER: None}


def grant(bootstrap_servers: str, rules: Iterable[Right], permission: str = "ALLOW") -> None:
    """Allow or deny the user what these rights say."""
    acls = [
        ACL(
            f"User:{USER}",
            "*",
            ACLOperation[constant(right.operation)],
            ACLPermissionType[permission],
            ResourcePattern(
                ResourceType[right.kind.upper().replace("-", "_")],
                right.name,
                ACLResourcePatternType.PREFIXED if right.prefixed else ACLResourcePatternType.LITERAL,
            ),
        )
        for right in rules
    ]
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        assert not admin.create_acls(acls)["failed"]


def constant(operation: str) -> str:
    """`DESCRIBE_CONFIGS` for `DescribeConfigs`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()


def forgive(bootstrap_servers: str) -> None:
    """Delete all rules."""
    anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, anything)])


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for 127.0.0.1. Returns its file for clients, and its file with the key for the broker."""
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
