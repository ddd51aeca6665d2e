"""Certificates verify by name, keys are private, expiry can be had on purpose."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from ext_authz.standins.certificates import Authority, make_authority


def test_key_files_are_private(tmp_path: Path) -> None:
    """Mode 0600 for the authority's key and for the leaf's, also when overwritten."""
    for _ in range(2):
        leaf = make_authority(tmp_path / "ca").issue("*.run.app", "10.0.0.1")
        for key in (leaf.key, tmp_path / "ca" / "ca-key.pem"):
            assert key.stat().st_mode & 0o777 == 0o600
        assert leaf.certificate.name == "any.run.app.pem"


def test_a_leaf_holds_its_names_and_verifies(authority: Authority) -> None:
    """DNS names and addresses are subject alternative names, signed by the authority."""
    leaf = authority.issue("one.example", "*.two.example", "::1", file_name="several")
    certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["one.example", "*.two.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    certificate.verify_directly_issued_by(issuer)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(leaf.certificate, leaf.key)


def test_an_expired_leaf(authority: Authority) -> None:
    """A negative life is one that is over."""
    leaf = authority.issue("old.example", life=datetime.timedelta(days=-1))
    certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    assert certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc


def test_a_leaf_needs_a_name(authority: Authority) -> None:
    """Nothing is made for nobody."""
    with pytest.raises(ValueError, match="name"):
        authority.issue()
