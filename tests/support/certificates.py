"""Certificates of a test: an authority, and the members that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from poseidon_tf import Security

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates and writes them, with their keys, into `folder` as PEM files."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = self._write(f"{name}.pem", _pem(certificate))

    def member(
        self, *hosts: str, valid_days: tuple[int, int] = (-1, 1), name: str = "member"
    ) -> dict[str, Any]:
        """`certificate` and `key`, as `Security` wants them, for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(name, key, valid_days)
            .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "certificate": self._write(f"{self._name}-{name}.pem", _pem(certificate)),
            "key": self._write(f"{self._name}-{name}.key", private),
        }

    def security(self, *hosts: str, **changes: Any) -> Security:
        """TLS for a member that is reached as `hosts`, 127.0.0.1 by default."""
        fields: dict[str, Any] = {"ca": self.ca, **self.member(*(hosts or ("127.0.0.1",)))}
        return Security(**{**fields, **changes})

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, valid_days: tuple[int, int] = (-1, 1)
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(_called(name))
            .issuer_name(_called(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid_days[0] * _DAY)
            .not_valid_after(now + valid_days[1] * _DAY)
        )

    def _write(self, file_name: str, content: bytes) -> str:
        path = self._folder / file_name
        path.write_bytes(content)
        return str(path)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
