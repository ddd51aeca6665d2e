"""HTTP/2 for `CaptureServer`, through the h2 library with its checks of requests switched off."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.support.capture_h1 import BODILESS, Choose, Record
from tests.support.exchange import ClientGone, play
from tests.support.messages import (
    CapturedRequest,
    ConnectionInfo,
    Headers,
    Reply,
    RequestHead,
)

READ_SIZE = 65536
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24
LENIENT = h2.config.H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Http2Exchange:
    """One stream: a request and its answer."""

    def __init__(
        self, session: Http2Session, stream_id: int, head: RequestHead, reply: Reply, record: Record
    ) -> None:
        self.head = head
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.trailers: Headers = ()
        self.gone = False
        self._session = session
        self._id = stream_id
        self._record: Record | None = record
        self._body = bytearray()
        self._ended = False
        self._expects = "100-continue" in head.values("expect")
        self._refuses_body = self._expects and not reply.accept_expectation

    async def read(self) -> bytes | None:
        """The next piece of the body; None at its end. Raises ClientGone."""
        if self._ended or self._refuses_body:
            return None
        if self._expects:
            self._expects = False
            await self.inform(100, ())
        piece = await self.pieces.get()
        if self.gone:
            raise ClientGone
        self._body += piece or b""
        self._ended = piece is None
        if self._ended:
            self.record_once()
        return piece

    def record_once(self) -> None:
        """Hand the request to the recorder, as complete as it is; later calls do nothing."""
        if self._record is None:
            return
        record, self._record = self._record, None
        body = bytes(self._body)
        record(
            CapturedRequest(
                **vars(self.head),
                body=body,
                trailers=self.trailers,
                raw=b"",
                complete=self._ended,
            )
        )

    async def inform(self, status: int, headers: Headers) -> None:
        """Send a 1xx answer."""
        await self._session.headers(self._id, ((":status", str(status)), *headers))

    async def start(self, reply: Reply, length: int | None) -> None:
        """Send the final head."""
        headers = ((":status", str(reply.status)), *reply.headers)
        declared = any(name == "content-length" for name, _ in headers)
        if length is not None and reply.status not in BODILESS and not declared:
            headers += (("content-length", str(length)),)
        await self._session.headers(self._id, headers)

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer's body, as the client's windows allow."""
        await self._session.data(self._id, data)

    async def finish(self, trailers: Headers) -> None:
        """End the answer."""
        if trailers and self.head.method != "HEAD":
            await self._session.headers(self._id, trailers, end=True)
        else:
            await self._session.end(self._id)

    async def accept_websocket(self, reply: Reply) -> None:
        """Answer an extended CONNECT (RFC 8441)."""
        self.record_once()
        await self.start(reply, None)

    def cut(self) -> None:
        """Reset the stream."""
        self._session.reset(self._id)


class Http2Session:
    """One HTTP/2 connection; each stream is answered in a task of its own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: ConnectionInfo,
        choose: Choose,
        record: Record,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = connection
        self._choose = choose
        self._record = record
        self._h2 = h2.connection.H2Connection(LENIENT)
        self._exchanges: dict[int, Http2Exchange] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._windows = asyncio.Condition()

    async def run(self, already: bytes) -> None:
        """Serve until the client leaves."""
        self._h2.initiate_connection()
        self._h2.update_settings(
            {
                h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 20,
            }
        )
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)
        try:
            data = already
            while data:
                await self._receive(data)
                data = await self._reader.read(READ_SIZE)
        except OSError:
            pass
        finally:
            await self._leave()

    async def _receive(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._on_event(event)
        await self._flush()
        async with self._windows:
            self._windows.notify_all()

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._open(event)
            case h2.events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._exchanges[event.stream_id].pieces.put_nowait(event.data)
            case h2.events.TrailersReceived():
                trailers: Any = tuple(event.headers)  # text, since header_encoding is set
                self._exchanges[event.stream_id].trailers = trailers
            case h2.events.StreamEnded():
                self._exchanges[event.stream_id].pieces.put_nowait(None)
            case h2.events.StreamReset() if event.stream_id in self._exchanges:
                self._lose(self._exchanges[event.stream_id])

    def _open(self, event: h2.events.RequestReceived) -> None:
        headers: Any = tuple(event.headers)  # text, since header_encoding is set
        pseudo = dict(headers)
        head = RequestHead(
            "HTTP/2", pseudo.get(":method", ""), pseudo.get(":path", ""), headers, self._connection
        )
        reply = self._choose(head)
        exchange = Http2Exchange(self, event.stream_id, head, reply, self._record)
        self._exchanges[event.stream_id] = exchange
        task = asyncio.create_task(self._play(exchange, reply, event.stream_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, exchange: Http2Exchange, reply: Reply, stream_id: int) -> None:
        try:
            await play(exchange, reply)
        except (ClientGone, OSError, h2.exceptions.H2Error):
            self.reset(stream_id)
        finally:
            exchange.record_once()

    def _lose(self, exchange: Http2Exchange) -> None:
        exchange.gone = True
        exchange.pieces.put_nowait(None)

    async def _leave(self) -> None:
        for exchange in self._exchanges.values():
            self._lose(exchange)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def headers(self, stream_id: int, headers: Headers, *, end: bool = False) -> None:
        """Send a header block."""
        self._h2.send_headers(stream_id, list(headers), end_stream=end)
        await self._flush()

    async def data(self, stream_id: int, data: bytes) -> None:
        """Send data, waiting for the client's flow-control windows."""
        view = memoryview(data)
        while view:
            room = min(
                self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size
            )
            if room > 0:
                self._h2.send_data(stream_id, bytes(view[:room]))
                view = view[room:]
                await self._flush()
                continue
            async with self._windows:
                await self._windows.wait()

    async def end(self, stream_id: int) -> None:
        """End the answer without trailers."""
        self._h2.end_stream(stream_id)
        await self._flush()

    def reset(self, stream_id: int) -> None:
        """Reset the stream, if it is still there."""
        try:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self._writer.write(self._h2.data_to_send())
        except (h2.exceptions.H2Error, OSError):
            pass  # closed by the client in the meantime: nothing left to reset

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)
            await self._writer.drain()
