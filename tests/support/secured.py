"""Settings that make a test's broker require TLS and a password and, optionally, check access rights."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "tocsin", "open sesame"
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # clients of the other listener, including the broker itself
}


def secure(own: Path) -> dict[str, str]:
    """Return the settings of a listener that uses the certificate and key in `own`."""
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(own),
        "sasl.enabled.mechanisms": "PLAIN",
        "plain.sasl.jaas.config": f'{plain} required user_{USER}="{PASSWORD}";',
    }


def certificate(folder: Path) -> tuple[Path, Path]:
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
