"""What the tests of the stand-ins share: a clock, one issuer, one authority, an HTTP client."""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from ext_authz.standins.certificates import Authority, LeafCertificate, make_authority
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Issuer, SigningKey

AUDIENCE = "https://receiver.example"
HOST = "receiver.example"


class FakeClock:
    """A wall clock that moves only when told."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self.now


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    data: object = None,
    context: ssl.SSLContext | None = None,
    timeout: float = 5,
) -> Answer:
    """Ask `url` without proxies or redirects; `form` and `data` (JSON) make it a POST."""
    body = urllib.parse.urlencode(form).encode() if form is not None else None
    body = json.dumps(data).encode() if data is not None else body
    handlers = [urllib.request.ProxyHandler({}), _NoRedirect()]
    opener = urllib.request.build_opener(*handlers, urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


def bearer(token: str) -> dict[str, str]:
    """Return the Authorization header of a token."""
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that moves only when told."""
    return FakeClock()


@pytest.fixture(scope="session")
def keys() -> tuple[SigningKey, SigningKey]:
    """Return two keys for all tests: making them is the slow part."""
    return SigningKey.generate(), SigningKey.generate()


@pytest.fixture
def issuer(keys: tuple[SigningKey, SigningKey], clock: FakeClock) -> Issuer:
    """Return an issuer on the fake clock."""
    return Issuer(clock=clock, key=keys[0])


@pytest.fixture
def google(issuer: Issuer) -> Iterator[GoogleStandIn]:
    """Serve the stand-in Google on the fake clock."""
    with GoogleStandIn(issuer) as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return one certificate authority for all tests."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def leaf(authority: Authority) -> LeafCertificate:
    """Return the receiver's certificate."""
    return authority.issue(HOST, "127.0.0.1")


@pytest.fixture(scope="session")
def trust(authority: Authority) -> ssl.SSLContext:
    """Return a client context that trusts only the authority."""
    return ssl.create_default_context(cafile=str(authority.certificate))


def alpn(port: int, authority_file: Path) -> str | None:
    """Return the protocol that a TLS server picks of h2 and http/1.1."""
    context = ssl.create_default_context(cafile=str(authority_file))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as tls,
    ):
        return tls.selected_alpn_protocol()
