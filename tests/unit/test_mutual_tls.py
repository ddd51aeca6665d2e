"""mTLS of --listen: files that can be used, followed when they change, and whose name may call."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from ext_authz.errors import StartError, UsageError
from ext_authz.mutual_tls import MutualTls, mutual_tls
from ext_authz.rpc import Caller, RpcError, Status
from ext_authz.standins.certificates import Authority, make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = make_authority(tmp_path_factory.mktemp("authority"))
    made.issue("server.test", file_name="one")
    made.issue("server.test", file_name="two")
    return made


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> MutualTls:
    """Certificate `one` under names of its own, so that a test may replace it."""
    names = {"certificate": "one.pem", "key": "one-key.pem", "client_ca": "ca.pem"}
    for name, source in names.items():
        (tmp_path / name).write_bytes((authority.directory / source).read_bytes())
    return MutualTls(*(tmp_path / name for name in names))


@pytest.mark.parametrize(
    "given",
    [
        ("c", None, None, None),
        (None, "k", None, None),
        (None, None, "a", None),
        ("c", "k", None, None),
        (None, None, None, "name"),
        ("c", "k", None, "name"),
    ],
)
def test_one_flag_without_the_others_is_wrong_usage(given: tuple[str | None, ...]) -> None:
    with pytest.raises(UsageError, match="all three"):
        mutual_tls(*given)  # type: ignore[arg-type]


def test_without_any_flag_there_is_no_tls() -> None:
    assert mutual_tls(None, None, None, None) is None


def test_the_flags_name_the_files_and_the_clients() -> None:
    found = mutual_tls("c", "k", "a", "one,spiffe://x/two")
    assert found is not None
    assert found.files() == (Path("c"), Path("k"), Path("a"))
    assert found.clients == {"one", "spiffe://x/two"}
    spaced = mutual_tls("c", "k", "a", "one, two")
    assert spaced is not None
    assert spaced.clients == {"one", "two"}


@pytest.mark.parametrize("clients", ["", ",", " , "])
def test_a_list_of_clients_that_names_nobody_does_not_let_everybody_in(clients: str) -> None:
    with pytest.raises(UsageError):
        mutual_tls("c", "k", "a", clients)


def test_good_files_make_a_context_that_asks_for_a_certificate(tls: MutualTls) -> None:
    found = tls.read()
    assert found is not None
    assert found.verify_mode is ssl.CERT_REQUIRED
    assert found.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"\0\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_cannot_be_used_stops_the_start_with_its_name_in_the_log(
    tls: MutualTls, name: str, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path: Path = getattr(tls, name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match="--tls-certificate, --tls-key or --tls-client-ca"):
        tls.context()


def test_a_key_of_another_certificate_stops_the_start(tls: MutualTls, authority: Authority) -> None:
    tls.key.write_bytes((authority.directory / "two-key.pem").read_bytes())
    with pytest.raises(StartError):
        tls.context()


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(
    tls: MutualTls, caplog: pytest.LogCaptureFixture
) -> None:
    key = load_pem_private_key(tls.key.read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    tls.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(StartError):
        tls.context()
    assert "without a password" in caplog.text


class Handshakes:
    """Begins handshakes as asyncio does, and notes when the files are read anew."""

    def __init__(self, tls: MutualTls, monkeypatch: pytest.MonkeyPatch) -> None:
        self.context = tls.context()
        self.found: list[ssl.SSLContext | None] = []
        read = MutualTls.read

        def noted(tls: MutualTls) -> ssl.SSLContext | None:
            self.found.append(read(tls))
            return self.found[-1]

        monkeypatch.setattr(MutualTls, "read", noted)

    def begin(self) -> ssl.SSLContext:
        """The context that this handshake uses."""
        made = self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        return made.context


def test_replaced_files_are_read_at_the_next_handshake(
    tls: MutualTls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    handshakes = Handshakes(tls, monkeypatch)
    before = handshakes.begin()
    assert handshakes.found == []
    for name, source in (("certificate", "two.pem"), ("key", "two-key.pem")):
        fresh = tls.certificate.parent / "fresh"
        fresh.write_bytes((authority.directory / source).read_bytes())
        fresh.replace(getattr(tls, name))
        # Between the two renames certificate and key do not belong together: the old pair stays.
        assert (handshakes.begin() is before) == (name == "certificate")
    assert len(handshakes.found) == 2
    assert handshakes.begin() is handshakes.found[-1]


def test_files_that_vanish_leave_the_old_certificate_in_use(
    tls: MutualTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    handshakes = Handshakes(tls, monkeypatch)
    before = handshakes.begin()
    content = tls.key.read_bytes()
    tls.key.unlink()
    assert handshakes.begin() is before
    tls.key.write_bytes(content)
    assert handshakes.begin() is not before


def answer(message: bytes, caller: Caller) -> bytes:
    return b"answer"


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ({"envoy.test"}, True),
        ({"other.test", "spiffe://cluster/ns/a/sa/b"}, True),
        ({"envoy.test.evil.example"}, False),
        ({"ENVOY.test2", "x"}, False),
        (set(), False),
    ],
)
def test_only_the_clients_that_are_listed_may_call(names: set[str], allowed: bool) -> None:
    path = Path("x")
    tls = MutualTls(path, path, path, frozenset({"envoy.test", "spiffe://cluster/ns/a/sa/b"}))
    guarded = tls.guard(answer)
    if allowed:
        assert guarded(b"", Caller(frozenset(names))) == b"answer"
        return
    with pytest.raises(RpcError, match="--allowed-clients") as caught:
        guarded(b"", Caller(frozenset(names)))
    assert caught.value.status is Status.PERMISSION_DENIED


def test_without_a_list_every_client_of_the_ca_may_call() -> None:
    path = Path("x")
    assert MutualTls(path, path, path).guard(answer)(b"", Caller()) == b"answer"
