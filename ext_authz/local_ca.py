"""A certificate authority of one's own for intercept_https, for the names of the rules only."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ext_authz.errors import SourceError, StartError
from ext_authz.rules import Rule

AUTHORITY_DAYS = 365
LEAF_DAYS = 30
_BACKDATED = datetime.timedelta(hours=1)  # clients whose clock is a little behind
CERTIFICATE_FILE = "ca.pem"
KEY_FILE = "ca-key.pem"


def init(directory: Path, rules: Iterable[Rule]) -> tuple[Path, Path]:
    """Make an authority that can vouch for the rules' names only; return (certificate, key) paths.

    The constraint (RFC 5280 section 4.2.1.10) bounds what a stolen key can do. The key is 0600.
    Raises StartError if a file is there already or cannot be written.
    """
    certificate_path, key_path = directory / CERTIFICATE_FILE, directory / KEY_FILE
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idtoken-sidecar local CA")])
    certificate = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.NameConstraints(_permitted(rules), _EVERY_ADDRESS), critical=True)
        .sign(key, hashes.SHA256())
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in (key_path, certificate_path):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "it exists", str(path))
        _write_new(key_path, _pem(key), 0o600)
        _write_new(certificate_path, certificate.public_bytes(_PEM), 0o644)
    except FileExistsError as error:
        raise StartError(f"ca init: {error.filename} is there already; it is kept") from None
    except OSError as error:
        raise StartError(f"ca init: {error.filename}: {error.strerror}") from None
    return certificate_path, key_path


def _permitted(rules: Iterable[Rule]) -> list[x509.GeneralName]:
    # A DNS constraint permits the name and everything below it.
    names = {rule.host for rule in rules if not _is_address(rule)}
    if not names:
        raise StartError("ca init: no rule names a host, so the CA could vouch for nothing")
    return [x509.DNSName(name) for name in sorted(names)]


def _is_address(rule: Rule) -> bool:
    return ":" in rule.host or rule.host.replace(".", "").isdigit()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate for one name, with its key; both PEM."""

    chain: bytes
    key: bytes
    renew_at: datetime.datetime


class Authority:
    """Mints leaf certificates. Raises SourceError `bad_ca` if the files cannot be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
            loaded: Any = serialization.load_pem_private_key(key.read_bytes(), None)
            constraints = self._certificate.extensions.get_extension_for_class(
                x509.BasicConstraints
            )
            usable = constraints.value.ca and loaded.public_key() == self._certificate.public_key()
        except OSError as error:
            raise _bad(f"{error.filename} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, x509.ExtensionNotFound):
            raise _bad(f"{certificate} and {key}: expected a CA and its key in PEM") from None
        if not usable:
            raise _bad(f"{certificate} is no CA, or {key} is not its key")
        self._key = loaded
        self._issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            loaded.public_key()
        )
        # One key for all leaves: making one per name would be most of the cost of a new name.
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key_pem = _pem(self._leaf_key)

    def mint(self, name: str) -> Leaf:
        """Return a certificate for a DNS name, given in lower case."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        days = min(LEAF_DAYS, max(1, (self._certificate.not_valid_after_utc - _now()).days))
        certificate = (
            _builder(subject, self._certificate.subject, self._leaf_key, days)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(self._issuer_key_id, critical=False)  # RFC 5280 section 4.2.1.1
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(_PEM) + self._certificate.public_bytes(_PEM)
        renew_at = _now() + datetime.timedelta(days=days) / 2
        return Leaf(chain, self._leaf_key_pem, renew_at)


_PEM = serialization.Encoding.PEM
# A constraint holds per kind of name: without these the CA could vouch for any address.
_EVERY_ADDRESS = [
    x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
    x509.IPAddress(ipaddress.ip_network("::/0")),
]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, with its mode from the first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _bad(sentence: str) -> SourceError:
    return SourceError(f"intercept_https: {sentence}", code="bad_ca", permanent=True)
