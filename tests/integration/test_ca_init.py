"""`idtoken-sidecar ca init`: a CA that can vouch for the rules' names only."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.standins.certificates import Authority
from tests.support.interception import LocalCa, make_ca
from tests.support.sidecar import run_command

RULES = """destinations:
  - match: "*.a.run.app"
  - match: athens.example.com:8443
  - match: 10.1.2.3:8443
"""


@pytest.fixture
def ca(tmp_path: Path) -> LocalCa:
    """Make a CA."""
    return make_ca(tmp_path / "made", RULES)


def test_key_is_its_owners_alone(ca: LocalCa) -> None:
    """Mode 0600; the certificate is for everybody."""
    assert stat.S_IMODE(ca.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(ca.certificate.stat().st_mode) == 0o644


def test_nothing_is_overwritten(ca: LocalCa, tmp_path: Path) -> None:
    """A second time is an error in one sentence, and both files stay."""
    before = ca.key.read_bytes(), ca.certificate.read_bytes()
    again = run_command("ca", "init", f"--directory={ca.directory}", home=tmp_path)
    assert again.returncode == 1
    assert len(again.stderr.splitlines()) == 1
    assert "is there already" in again.stderr
    assert (ca.key.read_bytes(), ca.certificate.read_bytes()) == before


@pytest.mark.parametrize("left", ["ca.pem", "ca-key.pem"])
def test_one_file_that_is_left_is_kept(tmp_path: Path, left: str) -> None:
    """Neither half of another CA is lost, and no half of a new one is made beside it."""
    (tmp_path / left).write_text("mine")
    done = run_command("ca", "init", f"--directory={tmp_path}", home=tmp_path)
    assert done.returncode == 1
    assert (tmp_path / left).read_text() == "mine"
    assert [path.name for path in tmp_path.glob("ca*.pem")] == [left]


def test_names_are_limited_to_the_rules(ca: LocalCa) -> None:
    """By a critical name constraint (RFC 5280, 4.2.1.10); it signs no further CA."""
    certificate = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    names = {name.value for name in found.value.permitted_subtrees or ()}
    assert names == {"a.run.app", "athens.example.com"}
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.value.path_length, basic.critical) == (True, 0, True)


def test_without_a_file_the_built_in_rule_counts(tmp_path: Path) -> None:
    """*.run.app, as everywhere."""
    ca = make_ca(tmp_path / "made", None)
    certificate = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert [name.value for name in found.value.permitted_subtrees or ()] == ["run.app"]


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("svc.a.run.app", True),
        ("athens.example.com", True),
        ("evil-a.run.app", False),
        ("www.example.com", False),
        ("accounts.google.com", False),
        ("8.8.8.8", False),
        ("2001:db8::1", False),
    ],
)
def test_stolen_key_convinces_nobody_of_another_name(
    ca: LocalCa, name: str, *, trusted: bool
) -> None:
    """What the constraint is for, as a TLS client judges it."""
    leaf = stolen(ca).issue(name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(leaf.certificate, leaf.key)
    assert shakes_hands(serving, ca.trust(), name) is trusted


def stolen(ca: LocalCa) -> Authority:
    """What a thief of both files can sign with."""
    certificate = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    key = serialization.load_pem_private_key(ca.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(ca.directory, certificate, key)


def shakes_hands(serving: ssl.SSLContext, trust: ssl.SSLContext, name: str) -> bool:
    """Whether a TLS handshake in memory succeeds."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = trust.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [client, server]
    for turn in range(20):
        side = waiting[turn % len(waiting)]
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
        if side is client:
            return True
    raise AssertionError("the handshake did not end")
