"""What a `CaptureServer` records and what it answers: plain values, no I/O."""

from __future__ import annotations

import array
import enum
import functools
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ConnectionInfo:
    """The connection a request came on. `alpn` and `sni` are None where TLS gave none."""

    number: int
    tls: bool
    alpn: str | None
    sni: str | None


@dataclass(frozen=True)
class RequestHead:
    """A request up to its body; header order, duplicates and case as they arrived.

    For HTTP/2, `headers` includes the pseudo-headers in their place.
    """

    version: str
    method: str
    target: str
    headers: Headers
    connection: ConnectionInfo

    @property
    def path(self) -> str:
        """The target's path without scheme, authority and query."""
        target = self.target.partition("?")[0]
        if "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        return target

    def values(self, name: str) -> list[str]:
        """Every value of a header, whatever its case, in order of arrival."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def authority(self) -> str | None:
        """`:authority`, else the first Host header."""
        found = self.values(":authority") or self.values("host")
        return found[0] if found else None


@dataclass(frozen=True)
class CapturedRequest(RequestHead):
    """A whole request. `complete` is False when the client went away before its end.

    `raw` holds every byte from request line to the end of body and trailers (HTTP/1 only).
    """

    body: bytes
    trailers: Headers
    raw: bytes
    complete: bool

    @property
    def raw_head(self) -> bytes:
        """The exact bytes from the request line to the blank line (HTTP/1 only)."""
        return self.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if self.raw else b""


class Echo(enum.Enum):
    """Whether the request's body is the answer: not, once it is whole, or as it arrives."""

    NO = "no"
    WHOLE = "whole"
    STREAM = "stream"


@dataclass(frozen=True)
class Reply:
    """One scripted answer.

    parts: body pieces sent one by one with `gap_seconds` between; None means `body` at once.
    chunked: HTTP/1.1 chunked framing even without trailers (parts imply it).
    informational: 1xx answers sent before the final one, e.g. `((103, (("link", "</a>"),)),)`.
    accept_expectation: answer `Expect: 100-continue` with 100; if False the body is never read.
    delay_seconds: waited before the final head. hold: never answer (until stop or hang-up).
    cut_after_parts: abort the connection (HTTP/2: reset the stream) after so many body parts.
    raw: these bytes are the whole HTTP/1 answer, then the connection closes.
    websocket: accept an upgrade and echo each message.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes = b""
    parts: tuple[bytes, ...] | None = None
    trailers: Headers = ()
    chunked: bool = False
    echo: Echo = Echo.NO
    informational: tuple[tuple[int, Headers], ...] = ()
    accept_expectation: bool = True
    delay_seconds: float = 0.0
    gap_seconds: float = 0.0
    hold: bool = False
    cut_after_parts: int | None = None
    raw: bytes | None = None
    websocket: bool = False
    close: bool = False

    @property
    def streamed(self) -> bool:
        """Whether the length is not declared in advance."""
        return self.parts is not None or self.chunked or bool(self.trailers)


Script = Reply | Callable[[RequestHead], Reply]
BIG_BODY_BYTES = 10 * 1024 * 1024


@functools.cache
def big_body(length: int = BIG_BODY_BYTES) -> bytes:
    """Give bytes without a short period, so that a lost or swapped block is noticed."""
    return array.array("I", range(length // 4 + 1)).tobytes()[:length]


def grpc_frame(message: bytes) -> bytes:
    """One uncompressed gRPC message with its five-byte prefix."""
    return b"\0" + struct.pack(">I", len(message)) + message


def grpc_messages(body: bytes) -> list[bytes]:
    """The messages of a gRPC body; raises ValueError if the last one is cut."""
    found: list[bytes] = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        if len(body) < 5 + length:
            raise ValueError(f"gRPC body cut: {len(body)} bytes left, expected {5 + length}")
        found.append(body[5 : 5 + length])
        body = body[5 + length :]
    return found


def grpc_reply(
    *messages: bytes, status: int = 0, message: str = "", trailers: Headers = ()
) -> Reply:
    """A gRPC answer: each message one DATA frame, the status in trailers."""
    end: Headers = (("grpc-status", str(status)),)
    end += (("grpc-message", message),) if message else ()
    return Reply(
        headers=(("content-type", "application/grpc"),),
        parts=tuple(grpc_frame(one) for one in messages),
        trailers=end + trailers,
    )


GRPC_ECHO = Reply(  # serves unary, client, server and bidi streaming alike
    headers=(("content-type", "application/grpc"), ("x-echo", "1")),
    trailers=(("grpc-status", "0"), ("x-trailing", "kept")),
    echo=Echo.STREAM,
)


def sse_reply(events: Iterable[str], gap_seconds: float = 0.0) -> Reply:
    """Server-sent events, one per body part."""
    parts = tuple(f"data: {event}\n\n".encode() for event in events)
    return Reply(
        headers=(("content-type", "text/event-stream"),), parts=parts, gap_seconds=gap_seconds
    )


def standard_replies() -> Mapping[str, Script]:
    """One path for each shape of answer; a transparency test walks over all of them."""
    link: Headers = (("link", "</style.css>; rel=preload"),)
    return {
        "/": Reply(body=b"Hello from the receiving service!"),
        "/echo": Reply(echo=Echo.WHOLE),
        "/echo-stream": Reply(echo=Echo.STREAM),
        "/empty": Reply(status=204),
        "/not-modified": Reply(status=304, headers=(("etag", '"1"'),)),
        "/head": Reply(body=b"twelve bytes", headers=(("x-answer", "head"),)),
        "/duplicates": Reply(headers=(("set-cookie", "a=1"), ("set-cookie", "b=2"))),
        "/chunked": Reply(parts=(b"one,", b"two,", b"three")),
        "/trailers": Reply(parts=(b"body",), trailers=(("x-trailer", "at the end"),)),
        "/hints": Reply(informational=((103, link),), body=b"hinted"),
        "/sse": sse_reply(["first", "second", "third"], gap_seconds=0.05),
        "/big": lambda _head: Reply(body=big_body()),
        "/websocket": Reply(websocket=True),
        "/unauthorized": Reply(
            status=401, headers=(("www-authenticate", 'Bearer error="invalid_token"'),)
        ),
        "/grpc.Echo/Call": GRPC_ECHO,
        "/grpc.Fail/Call": grpc_reply(status=7, message="no entry"),
    }
