"""Ways from a client to the recording upstream, directly or through a sidecar, made comparable."""

from __future__ import annotations

import ssl
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.support.capture import CaptureServer
from tests.support.messages import CapturedRequest, Headers
from tests.support.raw import RawConnection, RawResponse
from tests.support.raw_h2 import H2Client, H2Response, request_headers
from tests.support.sidecar import Address

TIMEOUT_SECONDS = 20.0
LARGE_BYTES = 62_000
# What belongs to one hop (RFC 9110, 7.6.1) and so differs between HTTP/1 and HTTP/2.
HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "te", "host", "upgrade"}

# Listener, the client's protocol and, where it is not HTTP/2, the upstream's.
WAYS = ("forward-h1", "forward-h2", "reverse-h1", "reverse-h2", "forward-h1-to-h1")

Fields = dict[str, list[str]]


class StreamResetError(Exception):
    """Raised when an HTTP/2 stream was reset, with the error code."""


class Seen(NamedTuple):
    """What the upstream received, apart from what belongs to one hop."""

    method: str
    target: str
    authority: str | None
    headers: Fields
    body: bytes
    trailers: Fields


class Answered(NamedTuple):
    """What the client received, apart from what belongs to one hop."""

    status: int
    headers: Fields
    body: bytes
    trailers: Fields
    informational: list[tuple[int, Fields]]


@dataclass(frozen=True)
class Call:
    """One request of a client; `chunked` (or trailers) means a body of undeclared length."""

    method: str = "GET"
    target: str = "/"
    headers: Headers = ()
    body: bytes = b""
    chunked: bool = False
    trailers: Headers = ()


@dataclass(frozen=True)
class Way:
    """How a client reaches `capture`: `proxy` is None for the direct way."""

    protocol: str
    capture: CaptureServer
    authority: str
    ca_file: Path
    proxy: Address | None = None
    is_reverse: bool = False

    def exchange(self, call: Call) -> tuple[Seen, Answered]:
        """Make one request; give what either side received."""
        before = len(self.capture.requests)
        answered = self._h2(call) if self.protocol == "h2" else self._h1(call)
        return seen(self.capture.wait_for(before + 1)), answered

    @property
    def host(self) -> str:
        """What the client calls its destination."""
        if self.is_reverse and self.proxy:
            return f"{self.proxy[0]}:{self.proxy[1]}"
        return self.authority

    def open_h1(self) -> RawConnection:
        """A connection to the upstream, or to the proxy on the way."""
        if self.proxy is not None:
            return RawConnection(self.proxy, timeout_seconds=TIMEOUT_SECONDS)
        return RawConnection(
            self.capture.address,
            tls=self._trust("http/1.1"),
            server_name=self.authority.partition(":")[0],
            timeout_seconds=TIMEOUT_SECONDS,
        )

    def head_h1(self, call: Call) -> bytes:
        """The bytes of a request up to its body."""
        forward = self.proxy is not None and not self.is_reverse
        target = f"http://{self.authority}{call.target}" if forward else call.target
        lines = [f"{call.method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in call.headers]
        if call.chunked or call.trailers:
            lines.append("Transfer-Encoding: chunked")
        elif call.body or call.method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(call.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _h1(self, call: Call) -> Answered:
        with self.open_h1() as connection:
            connection.send(self.head_h1(call) + _framed(call))
            return answered_h1(connection.read_response(call.method))

    def _h2(self, call: Call) -> Answered:
        address, tls, scheme = self.capture.address, self._trust("h2"), "https"
        if self.proxy is not None:
            address, tls, scheme = self.proxy, None, "http"
        headers = request_headers(
            call.method, self.host, call.target, *_lower(call.headers), scheme=scheme
        )
        name = self.authority.partition(":")[0]
        with H2Client(
            address, tls=tls, server_name=name, timeout_seconds=TIMEOUT_SECONDS
        ) as client:
            return answered_h2(client.request(headers, call.body, call.trailers))

    def _trust(self, alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.set_alpn_protocols([alpn])
        return context


def fields(headers: Headers) -> Fields:
    """Values by lower-case name in order of arrival, without what belongs to one hop."""
    found: Fields = defaultdict(list)
    for name, value in headers:
        if name.lower() not in HOP and not name.startswith(":"):
            found[name.lower()].append(value)
    return dict(found)


def large_headers(count: int) -> Headers:
    """So many headers that with a token they fill 64 KiB, as RFC 9113, 10.5.1 counts them."""
    size = LARGE_BYTES // count - len("x-large-000") - 32
    return tuple((f"x-large-{number:03}", "v" * size) for number in range(count))


def seen(request: CapturedRequest) -> Seen:
    """A recorded request in the form that is compared."""
    assert request.complete, request.raw[:200]
    parts = (request.method, request.target, request.authority)
    headers = fields(request.headers)
    if headers.get("content-length") == ["0"]:
        del headers["content-length"]  # says the same as none does (RFC 9112, 6.3)
    return Seen(*parts, headers, request.body, fields(request.trailers))


def answered_h1(answer: RawResponse) -> Answered:
    """An HTTP/1 answer in the form that is compared."""
    early = [(one.status, fields(one.headers)) for one in answer.informational]
    trailers = fields(answer.trailers)
    return Answered(answer.status, fields(answer.headers), answer.body, trailers, early)


def answered_h2(answer: H2Response) -> Answered:
    """An HTTP/2 answer in the form that is compared."""
    if answer.reset is not None:
        raise StreamResetError(answer.reset)
    early = [(int(dict(one)[":status"]), fields(one)) for one in answer.informational]
    trailers = fields(answer.trailers)
    return Answered(answer.status, fields(answer.headers), answer.body, trailers, early)


def _framed(call: Call) -> bytes:
    if not (call.chunked or call.trailers):
        return call.body
    size = 65536
    pieces = [call.body[start : start + size] for start in range(0, len(call.body), size)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    end = "".join(f"{name}: {value}\r\n" for name, value in call.trailers)
    return body + b"0\r\n" + end.encode("latin-1") + b"\r\n"


def _lower(headers: Headers) -> Headers:
    return tuple((name.lower(), value) for name, value in headers)
