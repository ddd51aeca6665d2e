"""A private certificate authority and leaf certificates, written as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca-key.pem"
_AUTHORITY_LIFE = datetime.timedelta(days=3650)
LEAF_LIFE = datetime.timedelta(days=90)


@dataclass(frozen=True, slots=True)
class LeafCertificate:
    """Paths of a leaf's certificate and of its private key (mode 0600)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that keeps its files in `directory`."""

    directory: Path
    _certificate: x509.Certificate = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate(self) -> Path:
        """The PEM file that clients trust."""
        return self.directory / AUTHORITY_CERTIFICATE

    def issue(
        self,
        *names: str,
        file_name: str | None = None,
        life: datetime.timedelta = LEAF_LIFE,
    ) -> LeafCertificate:
        """Write a leaf for DNS names (also *.suffix) and IP addresses, for servers and clients.

        A negative `life` makes a certificate that has already expired. Raises ValueError
        without a name.
        """
        if not names:
            raise ValueError("a leaf certificate needs at least one name")
        stem = file_name or names[0].replace("*", "any").replace(":", "_")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(names, key.public_key(), life)
        leaf = LeafCertificate(self.directory / f"{stem}.pem", self.directory / f"{stem}-key.pem")
        leaf.certificate.write_bytes(_pem(certificate))
        _write_key(leaf.key, key)
        return leaf

    def _sign(
        self,
        names: tuple[str, ...],
        public_key: ec.EllipticCurvePublicKey,
        life: datetime.timedelta,
    ) -> x509.Certificate:
        end = datetime.datetime.now(datetime.UTC) + life
        start = min(datetime.datetime.now(datetime.UTC), end) - datetime.timedelta(hours=1)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        # RFC 5280 appendix A.1: a common name holds at most 64 characters.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        builder = _builder(subject, self._certificate.subject, public_key, start, end)
        builder = builder.add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(signer_id, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def make_authority(directory: Path, *, name: str = "idtoken-sidecar local authority") -> Authority:
    """Make an authority in `directory`, which is created when absent; overwrites its files."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    start = now - datetime.timedelta(hours=1)
    builder = _builder(subject, subject, key.public_key(), start, now + _AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_authority_usage(), critical=True)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(key_id, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (directory / AUTHORITY_CERTIFICATE).write_bytes(_pem(certificate))
    _write_key(directory / AUTHORITY_KEY, key)
    return Authority(directory, certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(end)


def _authority_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key that only its owner can read, from the first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
