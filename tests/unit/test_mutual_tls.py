"""mTLS of --listen: files that can be used, followed when they change, and whose name may call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from ext_authz.errors import StartError, UsageError
from ext_authz.mutual_tls import MutualTls, mutual_tls
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


def test_good_files_make_credentials(tls: MutualTls) -> None:
    assert isinstance(tls.credentials(), grpc.ServerCredentials)


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
        tls.credentials()


def test_a_key_of_another_certificate_stops_the_start(tls: MutualTls, authority: Authority) -> None:
    tls.key.write_bytes((authority.directory / "two-key.pem").read_bytes())
    with pytest.raises(StartError):
        tls.credentials()


def follow(tls: MutualTls, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what grpc calls at each handshake."""
    fetchers: list[Any] = []
    monkeypatch.setattr(
        grpc,
        "dynamic_ssl_server_credentials",
        lambda first, fetcher, require_client_authentication: fetchers.append(fetcher),
    )
    tls.credentials()
    return fetchers[0]


def test_replaced_files_are_read_at_the_next_handshake(
    tls: MutualTls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = follow(tls, monkeypatch)
    assert fetcher() is None
    for name, source in (("certificate", "two.pem"), ("key", "two-key.pem")):
        fresh = tls.certificate.parent / "fresh"
        fresh.write_bytes((authority.directory / source).read_bytes())
        fresh.replace(getattr(tls, name))
        found = fetcher()
        # Between the two renames certificate and key do not belong together: the old pair stays.
        assert (found is None) == (name == "certificate")
    assert fetcher() is None


def test_files_that_vanish_leave_the_old_certificate_in_use(
    tls: MutualTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = follow(tls, monkeypatch)
    content = tls.key.read_bytes()
    tls.key.unlink()
    assert fetcher() is None
    tls.key.write_bytes(content)
    assert fetcher() is not None


class Context:
    """A call's context with a client certificate of these names."""

    def __init__(self, *names: str, common_name: str = "") -> None:
        self._auth = {
            "transport_security_type": [b"ssl"],
            "x509_subject_alternative_name": [name.encode() for name in names],
        }
        if common_name:
            self._auth["x509_common_name"] = [common_name.encode()]

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise PermissionError(code, details)


async def answer(request: Any, context: Any) -> bytes:
    return b"answer"


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        (Context("envoy.test"), True),
        (Context("other.test", "spiffe://cluster/ns/a/sa/b"), True),
        (Context(common_name="envoy.test"), True),
        (Context("envoy.test.evil.example"), False),
        (Context("ENVOY.test2", common_name="x"), False),
        (Context(), False),
    ],
)
async def test_only_the_clients_that_are_listed_may_call(context: Context, allowed: bool) -> None:
    path = Path("x")
    tls = MutualTls(path, path, path, frozenset({"envoy.test", "spiffe://cluster/ns/a/sa/b"}))
    guarded = tls.guard(answer)
    if allowed:
        assert await guarded(None, context) == b"answer"
        return
    with pytest.raises(PermissionError) as caught:
        await guarded(None, context)
    assert caught.value.args[0] is grpc.StatusCode.PERMISSION_DENIED
    assert "--allowed-clients" in caught.value.args[1]


async def test_without_a_list_every_client_of_the_ca_may_call() -> None:
    path = Path("x")
    assert await MutualTls(path, path, path).guard(answer)(None, Context()) == b"answer"
