"""The local CA: it vouches for the rules' names only, and its leaves satisfy strict clients."""

from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ext_authz.errors import SourceError, StartError
from ext_authz.local_ca import LEAF_DAYS, Authority, Leaf, init
from ext_authz.rules import Rule

RULES = (Rule("*.run.app", "default"), Rule("api.example.com:8443", "c"), Rule("10.0.0.7", "c"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return init(tmp_path_factory.mktemp("ca"), RULES)


@pytest.fixture(scope="module")
def authority(files: tuple[Path, Path]) -> Authority:
    return Authority(*files)


def handshake(leaf: Leaf, name: str, ca: Path, folder: Path) -> str:
    """Do TLS in memory with a client as strict as Python 3.13's; return its complaint."""
    pem = folder / "leaf.pem"
    pem.write_bytes(leaf.chain + leaf.key)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pem)
    client_side = ssl.create_default_context(cafile=str(ca))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(one, two, server_side=True)
    client = client_side.wrap_bio(two, one, server_hostname=name)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return str(error.verify_message)
    return ""


@pytest.mark.parametrize("name", ["svc.run.app", "a.b.run.app", "api.example.com", "run.app"])
def test_a_strict_client_trusts_a_leaf_for_a_rules_name(
    authority: Authority, files: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    assert handshake(authority.mint(name), name, files[0], tmp_path) == ""


@pytest.mark.parametrize("name", ["example.com", "evilrun.app", "run.app.evil.example"])
def test_a_leaf_for_any_other_name_is_worth_nothing(
    authority: Authority, files: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """What a stolen key can do is bounded by the constraint in the CA itself."""
    assert handshake(authority.mint(name), name, files[0], tmp_path) != ""


def test_the_authority_is_one_and_can_sign_no_other(files: tuple[Path, Path]) -> None:
    certificate = x509.load_pem_x509_certificate(files[0].read_bytes())
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    names = [name.value for name in constraints.value.permitted_subtrees or ()]
    assert names == ["api.example.com", "run.app"]


def test_a_leaf_is_short_lived_for_servers_only_and_renewed_at_half_of_its_life(
    authority: Authority,
) -> None:
    leaf = authority.mint("svc.run.app")
    certificate = x509.load_pem_x509_certificates(leaf.chain)[0]
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now
    left = certificate.not_valid_after_utc - now
    assert datetime.timedelta(days=LEAF_DAYS - 1) < left <= datetime.timedelta(days=LEAF_DAYS)
    assert now + left * 0.4 < leaf.renew_at < now + left * 0.6
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["svc.run.app"]


def test_a_long_name_has_a_certificate_too(authority: Authority) -> None:
    name = ".".join(["a" * 60] * 3) + ".run.app"
    certificate = x509.load_pem_x509_certificates(authority.mint(name).chain)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


def test_two_leaves_have_different_serial_numbers(authority: Authority) -> None:
    leaves = [x509.load_pem_x509_certificates(authority.mint("svc.run.app").chain) for _ in "ab"]
    assert leaves[0][0].serial_number != leaves[1][0].serial_number


def test_the_key_is_for_its_owner_only(files: tuple[Path, Path]) -> None:
    assert stat.S_IMODE(files[1].stat().st_mode) == 0o600
    assert b"PRIVATE" not in files[0].read_bytes()


@pytest.mark.parametrize("there", [("ca.pem",), ("ca-key.pem",), ("ca.pem", "ca-key.pem")])
def test_what_is_there_is_kept_and_nothing_is_added(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).write_text("mine")
    with pytest.raises(StartError, match="is there already"):
        init(tmp_path, RULES)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        there, "mine"
    )


def test_rules_without_any_name_make_no_authority(tmp_path: Path) -> None:
    for rules in ((), (Rule("10.0.0.7", "c"), Rule("[fd00::1]", "c"))):
        with pytest.raises(StartError, match="no rule names a host"):
            init(tmp_path, rules)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="ca init: "):
        init(tmp_path / "file" / "ca", RULES)


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"\0\xff", b"leaf", b"other"])
def test_files_that_are_no_authority_are_refused_with_their_names(
    files: tuple[Path, Path],
    authority: Authority,
    tmp_path: Path,
    broken: int,
    content: bytes | None,
) -> None:
    leaf = authority.mint("svc.run.app")
    contents = {b"leaf": (leaf.chain, leaf.key)[broken], b"other": files[1 - broken].read_bytes()}
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(contents.get(content, content))
    given = [path if place == broken else file for place, file in enumerate(files)]
    with pytest.raises(SourceError) as caught:
        Authority(*given)
    assert caught.value.code == "bad_ca"
    assert caught.value.permanent
    assert str(path) in caught.value.message
    assert "PRIVATE" not in caught.value.message


def test_an_authority_of_ones_own_with_another_kind_of_key_serves(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    """A company's CA may be there already; only that it is one, and its key, count."""
    from cryptography.hazmat.primitives import hashes, serialization

    key = ec.generate_private_key(ec.SECP384R1())
    own = x509.load_pem_x509_certificate(files[0].read_bytes())
    builder = x509.CertificateBuilder(own.issuer, own.subject, key.public_key(), 7)
    builder = builder.not_valid_before(own.not_valid_before_utc)
    builder = builder.not_valid_after(own.not_valid_after_utc)
    for extension in own.extensions:
        if isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(subject_key, critical=False)
    pem = serialization.Encoding.PEM
    certificate = builder.sign(key, hashes.SHA384())
    (tmp_path / "c").write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    (tmp_path / "k").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    leaf = Authority(tmp_path / "c", tmp_path / "k").mint("any.example")
    assert handshake(leaf, "any.example", tmp_path / "c", tmp_path) == ""
