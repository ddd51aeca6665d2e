"""Raw HTTP/1 over sockets: send exact bytes, read one answer exactly."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.capture_h1 import split_header
from tests.support.messages import Headers

TIMEOUT_SECONDS = 5.0
READ_SIZE = 65536


class ConnectionCut(Exception):
    """Raised when the peer closed or reset before the answer was whole; `received` is what came."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"connection ended after {len(received)} bytes of this read")
        self.received = received


@dataclass(frozen=True)
class RawResponse:
    """One HTTP/1 answer as it came. `informational` holds the 1xx answers before it."""

    status: int
    reason: str
    version: str
    headers: Headers
    body: bytes
    trailers: Headers
    raw_head: bytes
    informational: tuple[RawResponse, ...] = ()

    def values(self, name: str) -> list[str]:
        """Every value of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class RawConnection:
    """One TCP (or TLS) connection. Every read raises TimeoutError after `timeout_seconds`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._socket = socket.create_connection(address, timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        if tls is not None:
            self.start_tls(tls, server_name or address[0])

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> str | None:
        """Begin TLS on this connection, e.g. inside a CONNECT; gives the ALPN protocol."""
        try:
            secured = context.wrap_socket(self._socket, server_hostname=server_name)
        except BaseException:
            self.close()
            raise
        self._socket = secured
        return secured.selected_alpn_protocol()

    def send(self, data: bytes) -> Self:
        """Send exactly these bytes."""
        self._socket.sendall(data)
        return self

    def half_close(self) -> None:
        """End our direction (TCP FIN); the other stays open."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both directions."""
        self._socket.close()

    def read_some(self) -> bytes:
        """Whatever has come, at least one byte; b"" when the peer ended its direction."""
        if not self._buffer:
            self._more()
        return self._take(len(self._buffer))

    def read_exactly(self, count: int) -> bytes:
        """Exactly so many bytes. Raises ConnectionCut."""
        while len(self._buffer) < count:
            self._need_more()
        return self._take(count)

    def read_until(self, separator: bytes) -> bytes:
        """Bytes up to and including the separator. Raises ConnectionCut."""
        while (found := self._buffer.find(separator)) < 0:
            self._need_more()
        return self._take(found + len(separator))

    def read_to_end(self) -> bytes:
        """Everything until the peer ends its direction or resets."""
        with contextlib.suppress(ConnectionResetError):
            while self._more():
                pass
        return self._take(len(self._buffer))

    def read_response(self, method: str = "GET") -> RawResponse:
        """The next final answer, with the 1xx answers before it. Raises ConnectionCut.

        `method` is the request's: an answer to HEAD, or a 2xx to CONNECT, has no body.
        """
        early: list[RawResponse] = []
        while 100 <= (head := self.read_head()).status < 200 and head.status != 101:
            early.append(head)
        body, trailers = self._read_body(head, method)
        fields = {**vars(head), "body": body, "trailers": trailers, "informational": tuple(early)}
        return RawResponse(**fields)

    def read_head(self) -> RawResponse:
        """The next head alone, 1xx included."""
        raw = self.read_until(b"\r\n\r\n")
        status_line, *lines = raw[:-4].split(b"\r\n")
        version, status, reason = [*status_line.decode("latin-1").split(" ", 2), ""][:3]
        headers = tuple(split_header(line) for line in lines)
        return RawResponse(int(status), reason, version, headers, b"", (), raw)

    def _read_body(self, head: RawResponse, method: str) -> tuple[bytes, Headers]:
        tunnel = method == "CONNECT" and head.status < 300
        if method == "HEAD" or tunnel or head.status in (101, 204, 304):
            return b"", ()
        if "chunked" in ",".join(head.values("transfer-encoding")).lower():
            return self._read_chunks()
        if length := head.values("content-length"):
            return self.read_exactly(int(length[0])), ()
        return self.read_to_end(), ()

    def _read_chunks(self) -> tuple[bytes, Headers]:
        body = bytearray()
        while size := int(self.read_until(b"\r\n").partition(b";")[0], 16):
            body += self.read_exactly(size + 2)[:-2]
        trailers: Headers = ()
        while (line := self.read_until(b"\r\n")) != b"\r\n":
            trailers += (split_header(line),)
        return bytes(body), trailers

    def _need_more(self) -> None:
        try:
            came = self._more()
        except ConnectionResetError as error:
            raise ConnectionCut(bytes(self._buffer)) from error
        if not came:
            raise ConnectionCut(bytes(self._buffer))

    def _more(self) -> bool:
        data = self._socket.recv(READ_SIZE)
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def exchange_raw(
    address: tuple[str, int], request: bytes, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> RawResponse:
    """Send exact bytes on a new cleartext connection and read one answer."""
    with RawConnection(address, timeout_seconds=timeout_seconds) as connection:
        return connection.send(request).read_response(request.partition(b" ")[0].decode("latin-1"))
