"""CONNECT as raw clients make it, and what may be done inside."""

from __future__ import annotations

import ssl

import h2.connection

from ext_authz.standins.issuer import Claims
from ext_authz.standins.verifier import TokenVerifier
from tests.support.messages import RequestHead
from tests.support.raw import RawConnection, RawResponse
from tests.support.raw_h2 import LENIENT, H2Client
from tests.support.sidecar import Address
from tests.support.world import World

TIMEOUT_SECONDS = 20.0


class TunnelRefusedError(Exception):
    """Raised when a CONNECT was not answered with 200; `answer` is what came."""

    def __init__(self, answer: RawResponse) -> None:
        super().__init__(f"{answer.status}: {answer.body!r}")
        self.answer = answer


class Tunnel(RawConnection):
    """A connection through a CONNECT."""

    def start_tls_to(self, context: ssl.SSLContext, server_name: str | None) -> None:
        """Begin TLS inside, without SNI if there is no name."""
        if server_name is not None:
            self.start_tls(context, server_name)
        else:
            self._socket = context.wrap_socket(self._socket)

    def peer_certificate(self) -> bytes:
        """The certificate (DER) that the other end of the TLS inside showed."""
        assert isinstance(self._socket, ssl.SSLSocket)
        return self._socket.getpeercert(binary_form=True) or b""


class TunnelledH2(H2Client):
    """An HTTP/2 client inside a tunnel (with TLS begun there, or without)."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._socket = tunnel._socket
        self._h2 = h2.connection.H2Connection(LENIENT)
        self._h2.initiate_connection()
        self._streams, self._closed = {}, False
        self._flush()


def connect_bytes(authority: str, version: str = "HTTP/1.1") -> bytes:
    """A CONNECT request as clients send it."""
    return f"CONNECT {authority} {version}\r\nHost: {authority}\r\n\r\n".encode()


def ask_connect(
    proxy: Address, authority: str, version: str = "HTTP/1.1", timeout: float = TIMEOUT_SECONDS
) -> RawResponse:
    """Send a CONNECT and give its answer, whatever it is."""
    with RawConnection(proxy, timeout_seconds=timeout) as connection:
        return connection.send(connect_bytes(authority, version)).read_response("CONNECT")


def open_tunnel(
    proxy: Address, authority: str, version: str = "HTTP/1.1", timeout: float = TIMEOUT_SECONDS
) -> Tunnel:
    """A connection on which the CONNECT has been answered with 200. Raises TunnelRefusedError."""
    connection = Tunnel(proxy, timeout_seconds=timeout)
    try:
        answer = connection.send(connect_bytes(authority, version)).read_response("CONNECT")
        if answer.status != 200:
            raise TunnelRefusedError(answer)
    except BaseException:
        connection.close()
        raise
    return connection


def claims_of(world: World, request: RequestHead) -> Claims:
    """The claims of the one token that a recorded request carries; asserts its signature."""
    (credential,) = request.values("authorization")
    scheme, _, token = credential.partition(" ")
    assert scheme == "Bearer"
    return TokenVerifier(world.google.issuer).verify_signature(token)
