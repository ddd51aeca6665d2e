"""Raw TCP and TLS servers for tunnels: speak first, echo, half-close, report the SNI."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import weakref
from dataclasses import dataclass, field

from tests.support.loop import LoopServer

READ_SIZE = 65536
WAIT_SECONDS = 5.0


@dataclass
class TcpSession:
    """One accepted connection: what came, the SNI if TLS, how it ended."""

    sni: str | None = None
    received: bytearray = field(default_factory=bytearray)
    saw_end: bool = False
    was_reset: bool = False
    closed: bool = False


class TcpServer(LoopServer):
    """A byte server on a loopback port.

    greeting: sent before anything is read. echo: give back what comes. farewell: sent after
    the client ended its direction. half_close_first: end our direction after the greeting and
    go on reading. reset_after: cut with RST once so many bytes have come.
    """

    def __init__(
        self,
        *,
        greeting: bytes = b"",
        echo: bool = True,
        farewell: bytes = b"",
        half_close_first: bool = False,
        reset_after: int | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(host)
        self._greeting = greeting
        self._echo = echo and not half_close_first
        self._farewell = farewell
        self._half_close_first = half_close_first
        self._reset_after = reset_after
        self._tls = tls
        self._changed = threading.Condition()
        self._sessions: list[TcpSession] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._names: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()

    @property
    def sessions(self) -> list[TcpSession]:
        """Every connection so far (for TLS: that finished its handshake), in order."""
        with self._changed:
            return list(self._sessions)

    def wait_closed(self, count: int = 1, timeout_seconds: float = WAIT_SECONDS) -> TcpSession:
        """Wait until so many connections have ended; give the last. Raises TimeoutError."""
        end = time.monotonic() + timeout_seconds
        with self._changed:
            while len(ended := [one for one in self._sessions if one.closed]) < count:
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"{len(ended)} connections ended, expected {count}")
            return ended[count - 1]

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
        handshake: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        session = TcpSession(sni=self._names.get(handshake) if handshake else None)
        self._writers.add(writer)
        with self._changed:
            self._sessions.append(session)
        try:
            await self._converse(reader, writer, session)
        except OSError:
            session.was_reset = True
        finally:
            self._writers.discard(writer)
            await self._end(writer, session)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: TcpSession
    ) -> None:
        writer.write(self._greeting)
        if self._half_close_first:
            writer.write_eof()
        while data := await reader.read(READ_SIZE):
            session.received += data
            if self._reset_after is not None and len(session.received) >= self._reset_after:
                return _reset(writer)
            if self._echo:
                writer.write(data)
                await writer.drain()
        session.saw_end = True
        if not self._half_close_first:
            writer.write(self._farewell)
            await writer.drain()
        return None

    async def _end(self, writer: asyncio.StreamWriter, session: TcpSession) -> None:
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()
        with self._changed:
            session.closed = True
            self._changed.notify_all()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: a zero linger time discards what is unsent."""
    handle = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
