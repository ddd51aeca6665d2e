"""HTTP/1.x for `CaptureServer`: a lenient parser that keeps every byte it consumed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http
from collections.abc import Callable

from tests.support.exchange import ClientGone, play
from tests.support.messages import (
    CapturedRequest,
    ConnectionInfo,
    Headers,
    Reply,
    RequestHead,
)

READ_SIZE = 65536
BODILESS = (204, 304)
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_KNOWN = {status.value for status in http.HTTPStatus}
Record = Callable[[CapturedRequest], None]
Choose = Callable[[RequestHead], Reply]


class ByteSource:
    """A stream reader that remembers what was taken from it."""

    def __init__(self, reader: asyncio.StreamReader, already: bytes) -> None:
        self._reader = reader
        self._buffer = bytearray(already)
        self.taken = bytearray()

    async def until(self, separator: bytes) -> bytes:
        """Bytes up to and including the separator. Raises ClientGone."""
        searched = 0
        while (found := self._buffer.find(separator, searched)) < 0:
            searched = max(0, len(self._buffer) - len(separator) + 1)
            await self._more()
        return self._take(found + len(separator))

    async def some(self, at_most: int = READ_SIZE) -> bytes:
        """At least one byte. Raises ClientGone."""
        if not self._buffer:
            await self._more()
        return self._take(min(at_most, len(self._buffer)))

    async def exactly(self, count: int) -> bytes:
        """Exactly so many bytes. Raises ClientGone."""
        while len(self._buffer) < count:
            await self._more()
        return self._take(count)

    async def _more(self) -> None:
        try:
            data = await self._reader.read(READ_SIZE)
        except OSError as error:
            raise ClientGone from error
        if not data:
            raise ClientGone
        self._buffer += data

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.taken += taken
        return taken


class Http1Exchange:
    """One HTTP/1 request and its answer."""

    def __init__(
        self,
        source: ByteSource,
        writer: asyncio.StreamWriter,
        head: RequestHead,
        reply: Reply,
        record: Record,
    ) -> None:
        self.head = head
        self.body = bytearray()
        self.trailers: Headers = ()
        self.ended = False
        self.upgraded = False
        self.keep_alive = _wants_keep_alive(head) and not reply.close
        self._source = source
        self._writer = writer
        self._record: Record | None = record
        self._expects = "100-continue" in [v.lower() for v in head.values("expect")]
        self._refuses_body = self._expects and not reply.accept_expectation
        self._chunked = "chunked" in ",".join(head.values("transfer-encoding")).lower()
        self._left = int((head.values("content-length") or ["0"])[0])
        self._chunk_framing = False

    async def read(self) -> bytes | None:
        """The next piece of the body; None at its end. Raises ClientGone."""
        if self.upgraded:
            return await self._source.some()
        if self._refuses_body:
            self.keep_alive = False
            self._end()
        if self.ended:
            return None
        if self._expects:
            self._expects = False
            await self.inform(100, ())
        piece = await (self._read_chunk() if self._chunked else self._read_counted())
        self.body += piece or b""
        if piece is None:
            self._end()
        return piece

    def _end(self) -> None:
        self.ended = True
        self.record_once()

    def record_once(self) -> None:
        """Hand the request to the recorder, as complete as it is; later calls do nothing."""
        if self._record is None:
            return
        record, self._record = self._record, None
        raw, body = bytes(self._source.taken), bytes(self.body)
        record(
            CapturedRequest(
                **vars(self.head), body=body, trailers=self.trailers, raw=raw, complete=self.ended
            )
        )

    async def _read_counted(self) -> bytes | None:
        if not self._left:
            return None
        piece = await self._source.some(self._left)
        self._left -= len(piece)
        return piece

    async def _read_chunk(self) -> bytes | None:
        size = int((await self._source.until(b"\r\n")).partition(b";")[0], 16)
        if size:
            return (await self._source.exactly(size + 2))[:-2]
        trailers: Headers = ()
        while (line := await self._source.until(b"\r\n")) != b"\r\n":
            trailers += (split_header(line),)
        self.trailers = trailers
        return None

    async def inform(self, status: int, headers: Headers) -> None:
        """Send a 1xx answer."""
        await self._write(_head_bytes(status, headers))

    async def start(self, reply: Reply, length: int | None) -> None:
        """Send the final head with the framing that the length and the client allow."""
        headers = reply.headers
        names = {name.lower() for name, _ in headers}
        if length is None and self.head.version == "HTTP/1.1":
            self._chunk_framing = True
            headers += (("transfer-encoding", "chunked"),)
        elif length is None:
            self.keep_alive = False
        elif reply.status not in BODILESS and "content-length" not in names:
            headers += (("content-length", str(length)),)
        if not self.keep_alive:
            headers += (("connection", "close"),)
        await self._write(_head_bytes(reply.status, headers))

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer's body."""
        framed = self._chunk_framing
        await self._write(b"%x\r\n%s\r\n" % (len(data), data) if framed else data)

    async def finish(self, trailers: Headers) -> None:
        """End the answer."""
        if self._chunk_framing and self.head.method != "HEAD":
            await self._write(b"0\r\n" + _lines(trailers) + b"\r\n")

    async def accept_websocket(self, reply: Reply) -> None:
        """Answer 101 (RFC 6455, 4.2.2)."""
        key = (self.head.values("sec-websocket-key") or [""])[0].encode()
        accept = base64.b64encode(_websocket_digest(key)).decode()
        upgrade = (("upgrade", "websocket"), ("connection", "Upgrade"))
        await self.inform(101, (*upgrade, ("sec-websocket-accept", accept), *reply.headers))
        self.upgraded = True
        self.keep_alive = False
        self._end()

    async def answer_raw(self, data: bytes) -> None:
        """Read the whole request, write exactly these bytes, close."""
        while await self.read() is not None:
            pass
        self.keep_alive = False
        await self._write(data)

    def cut(self) -> None:
        """Abort the connection."""
        self.keep_alive = False
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ClientGone from error


async def serve_http1(
    source: ByteSource,
    writer: asyncio.StreamWriter,
    connection: ConnectionInfo,
    choose: Choose,
    record: Record,
) -> None:
    """Answer requests on one connection until it ends. Raises ClientGone."""
    keep_alive = True
    while keep_alive:
        source.taken.clear()
        head = parse_head(await source.until(b"\r\n\r\n"), connection)
        reply = choose(head)
        exchange = Http1Exchange(source, writer, head, reply, record)
        try:
            if reply.raw is None:
                await play(exchange, reply)
            else:
                await exchange.answer_raw(reply.raw)
        finally:
            exchange.record_once()
        keep_alive = exchange.keep_alive


def parse_head(raw: bytes, connection: ConnectionInfo) -> RequestHead:
    """Split a head without judging it; a malformed request line still gives a value."""
    request_line, *lines = raw[:-4].split(b"\r\n")
    method, target, version = [*request_line.decode("latin-1").split(" ", 2), "", ""][:3]
    headers = tuple(split_header(line) for line in lines)
    return RequestHead(version, method, target, headers, connection)


def split_header(line: bytes) -> tuple[str, str]:
    """Name as sent and value without surrounding blanks."""
    name, _, value = line.decode("latin-1").rstrip("\r\n").partition(":")
    return name, value.strip(" \t")


def _websocket_digest(key: bytes) -> bytes:
    return hashlib.sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()  # as RFC 6455 says


def _wants_keep_alive(head: RequestHead) -> bool:
    options = ",".join(head.values("connection")).lower()
    return head.version == "HTTP/1.1" and "close" not in options


def _head_bytes(status: int, headers: Headers) -> bytes:
    reason = http.HTTPStatus(status).phrase if status in _KNOWN else "Scripted"
    return f"HTTP/1.1 {status} {reason}\r\n".encode() + _lines(headers) + b"\r\n"


def _lines(headers: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
