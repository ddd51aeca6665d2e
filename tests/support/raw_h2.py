"""A raw HTTP/2 client (h2c by prior knowledge, or TLS): sends any header block, however odd."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from tests.support.messages import Headers

TIMEOUT_SECONDS = 5.0
READ_SIZE = 65536
LENIENT = h2.config.H2Configuration(
    client_side=True,
    header_encoding="latin-1",
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
)


@dataclass
class H2Response:
    """What came on one stream. `reset` is the error code of RST_STREAM or GOAWAY, if one came."""

    headers: Headers = ()
    received: bytearray = field(default_factory=bytearray)
    trailers: Headers = ()
    informational: list[Headers] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def body(self) -> bytes:
        """The body so far."""
        return bytes(self.received)

    @property
    def status(self) -> int:
        """The final status; 0 when no final head came."""
        return int(dict(self.headers).get(":status", "0"))

    def values(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]


class H2Client:
    """One HTTP/2 connection. Every wait raises TimeoutError after `timeout_seconds`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        plain = socket.create_connection(address, timeout_seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = plain
        if tls is not None:
            self._socket = tls.wrap_socket(plain, server_hostname=server_name or address[0])
        self._h2 = h2.connection.H2Connection(LENIENT)
        self._h2.initiate_connection()
        self._streams: dict[int, H2Response] = {}
        self._closed = False
        self._flush()

    def request(self, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> H2Response:
        """Send one whole request and wait for its answer's end (or its reset)."""
        stream = self.open(headers, end=not body and not trailers)
        if body:
            self.send(stream, body, end=not trailers)
        if trailers:
            self.end(stream, trailers)
        return self.wait(stream)

    def open(self, headers: Headers, *, end: bool = False) -> int:
        """Start a stream with exactly this header block; gives its id."""
        stream = self._h2.get_next_available_stream_id()
        self._streams[stream] = H2Response()
        self._h2.send_headers(stream, list(headers), end_stream=end)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send data, reading while the peer's windows are full."""
        view = memoryview(data)
        while view:
            room = self._h2.local_flow_control_window(stream)
            if room <= 0:
                self._receive()
                continue
            size = min(room, self._h2.max_outbound_frame_size, len(view))
            self._h2.send_data(stream, bytes(view[:size]), end_stream=end and size == len(view))
            view = view[size:]
            self._flush()

    def end(self, stream: int, trailers: Headers = ()) -> None:
        """End our direction of a stream, with trailers or without."""
        if trailers:
            self._h2.send_headers(stream, list(trailers), end_stream=True)
        else:
            self._h2.end_stream(stream)
        self._flush()

    def cancel(self, stream: int) -> None:
        """Reset a stream with CANCEL."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def wait(self, stream: int) -> H2Response:
        """Wait for the end of a stream."""
        return self.wait_until(stream, lambda answer: answer.ended)

    def wait_until(self, stream: int, done: Callable[[H2Response], bool]) -> H2Response:
        """Read until `done` holds, or the stream is reset, or the connection ends."""
        answer = self._streams[stream]
        while not (done(answer) or answer.reset is not None or self._closed):
            self._receive()
        return answer

    def close(self) -> None:
        """Close the connection without ceremony."""
        self._socket.close()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except ConnectionResetError:
            data = b""
        if not data:
            self._closed = True
            return
        for event in self._h2.receive_data(data):
            self._on_event(event)
        self._flush()

    def _on_event(self, event: h2.events.Event) -> None:
        any_event: Any = event  # headers are text, since header_encoding is set
        match event:
            case h2.events.InformationalResponseReceived():
                answer = self._streams[any_event.stream_id]
                answer.informational.append(tuple(any_event.headers))
            case h2.events.ResponseReceived():
                self._streams[any_event.stream_id].headers = tuple(any_event.headers)
            case h2.events.TrailersReceived():
                self._streams[any_event.stream_id].trailers = tuple(any_event.headers)
            case h2.events.DataReceived():
                self._streams[any_event.stream_id].received += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self._streams[any_event.stream_id].ended = True
            case h2.events.StreamReset() if any_event.stream_id in self._streams:
                self._streams[any_event.stream_id].reset = int(any_event.error_code)
            case h2.events.ConnectionTerminated():
                self._go_away(int(any_event.error_code))

    def _go_away(self, code: int) -> None:
        self._closed = True
        for answer in self._streams.values():
            if not answer.ended:
                answer.reset = code

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._socket.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def request_headers(
    method: str, authority: str, path: str, *more: tuple[str, str], scheme: str = "http"
) -> Headers:
    """An ordinary header block, to be made odd by the test."""
    pseudo = (
        (":method", method),
        (":scheme", scheme),
        (":authority", authority),
        (":path", path),
    )
    return (*pseudo, *more)
