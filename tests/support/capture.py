"""`CaptureServer`: an upstream that records exactly what arrives and answers as scripted."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
import weakref
from collections.abc import Mapping

import h2.exceptions

from tests.support.capture_h1 import READ_SIZE, ByteSource, serve_http1
from tests.support.capture_h2 import Http2Session
from tests.support.exchange import ClientGone
from tests.support.loop import LoopServer
from tests.support.messages import (
    CapturedRequest,
    ConnectionInfo,
    Reply,
    RequestHead,
    Script,
    standard_replies,
)

PREFACE_START = b"PRI "  # RFC 9113, 3.4; no HTTP/1 method in use begins so
WAIT_SECONDS = 5.0
NO_SCRIPT = Reply(status=404, body=b"no script for this path")


class CaptureServer(LoopServer):
    """HTTP/1.1 and HTTP/2 (by ALPN, or by prior knowledge in cleartext) on a loopback port.

    `scripts` maps a path to its reply, or to a function from the request's head to one;
    `default` answers the other paths. Without `tls` it speaks cleartext.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        scripts: Mapping[str, Script] | None = None,
        default: Script = NO_SCRIPT,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(host)
        self._tls = tls
        self._scripts = dict(standard_replies() if scripts is None else scripts)
        self._default = default
        self._requests: list[CapturedRequest] = []
        self._connections: list[ConnectionInfo] = []
        self._arrived = threading.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()

    @property
    def url(self) -> str:
        """`http(s)://host:port`."""
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    @property
    def requests(self) -> list[CapturedRequest]:
        """Every request so far, in the order in which they were complete (or broke off)."""
        with self._arrived:
            return list(self._requests)

    @property
    def connections(self) -> list[ConnectionInfo]:
        """Every connection that finished its TLS handshake, in order."""
        with self._arrived:
            return list(self._connections)

    def script(self, path: str, reply: Script) -> None:
        """Set the reply of a path, also while running."""
        self._scripts[path] = reply

    def clear(self) -> None:
        """Forget requests and connections."""
        with self._arrived:
            self._requests.clear()
            self._connections.clear()

    def wait_for(self, count: int = 1, timeout_seconds: float = WAIT_SECONDS) -> CapturedRequest:
        """Wait until so many requests have come; give the last. Raises TimeoutError."""
        end = time.monotonic() + timeout_seconds
        with self._arrived:
            while len(self._requests) < count:
                if not self._arrived.wait(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"{len(self._requests)} requests came, expected {count}")
            return self._requests[count - 1]

    async def _open(self) -> int:
        if self._tls is not None:
            self._tls.sni_callback = self._note_name
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self._tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def _note_name(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> None:
        if name is not None and isinstance(connection, ssl.SSLObject):
            self._names[connection] = name

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        gone = (ClientGone, OSError, h2.exceptions.H2Error)
        try:
            with contextlib.suppress(*gone):
                await self._converse(reader, writer, self._greet(writer))
            with contextlib.suppress(*gone):
                writer.close()
                await writer.wait_closed()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _greet(self, writer: asyncio.StreamWriter) -> ConnectionInfo:
        handshake: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        alpn = handshake.selected_alpn_protocol() if handshake else None
        name = self._names.get(handshake) if handshake else None
        with self._arrived:
            info = ConnectionInfo(len(self._connections), handshake is not None, alpn, name)
            self._connections.append(info)
        return info

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: ConnectionInfo
    ) -> None:
        first = b""
        while len(first) < len(PREFACE_START):
            if not (more := await reader.read(READ_SIZE)):
                return
            first += more
        if info.alpn == "h2" or (info.alpn is None and first.startswith(PREFACE_START)):
            await Http2Session(reader, writer, info, self._choose, self._record).run(first)
        else:
            source = ByteSource(reader, first)
            await serve_http1(source, writer, info, self._choose, self._record)

    def _choose(self, head: RequestHead) -> Reply:
        script = self._scripts.get(head.path, self._default)
        return script if isinstance(script, Reply) else script(head)

    def _record(self, request: CapturedRequest) -> None:
        with self._arrived:
            self._requests.append(request)
            self._arrived.notify_all()
