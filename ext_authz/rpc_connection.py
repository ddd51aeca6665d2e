"""One HTTP/2 connection with a gRPC client: frames become calls, answers become frames.

HTTP/2 itself is the h2 library's, which does no I/O. Source: PROTOCOL-HTTP2.md of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from ext_authz.rpc import Caller, Methods, RpcError, Status, Stream, Unary
from ext_authz.rpc_call import Call
from ext_authz.rpc_headers import RememberingDecoder, RememberingEncoder

MAX_CALLS = 1000  # at once on a connection; Envoy opens another one for more
MAX_HEADER_BYTES = 65536
_NO_LIMIT = 2**31 - 1
_CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_inbound_headers=False,  # of a call only path and type are read, and nothing passed on
    normalize_inbound_headers=False,
    validate_outbound_headers=False,  # ours are constants, and a percent-encoded sentence
    normalize_outbound_headers=False,
)


class Connection(asyncio.Protocol):
    """Serves `methods` to one client, and is in `connections` for as long as it is open.

    With TLS that begins after the handshake: asyncio tells nothing of one that fails.
    """

    def __init__(self, methods: Methods, connections: set[Connection]) -> None:
        self._methods = methods
        self._connections = connections
        self._h2 = H2Connection(_CONFIG)
        self._h2.decoder = RememberingDecoder(MAX_HEADER_BYTES)
        self._h2.encoder = RememberingEncoder()
        self._calls: dict[int, Call] = {}
        self._caller = Caller()
        self._transport: Any = None
        self._on: dict[type, Callable[[Any], None]] = {
            RequestReceived: self._begin,
            DataReceived: self._receive,
            StreamEnded: self._received,
            StreamReset: self._drop,
            WindowUpdated: self._widen,
            RemoteSettingsChanged: lambda event: self._send_more(),
            ConnectionTerminated: lambda event: self.close(),
        }

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._connections.add(self)
        self._transport = transport
        self._caller = Caller(_names(transport.get_extra_info("ssl_object")))
        # What is announced binds once the client has acknowledged it. Until then a client may have
        # opened more, which must not cost it the connection.
        limits = {
            SettingCodes.MAX_CONCURRENT_STREAMS: _NO_LIMIT,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
        }
        self._h2.local_settings = Settings(client=False, initial_values=limits)
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CALLS})
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self.close()  # h2 has said GOAWAY, and why
            return
        for event in events:
            if self._transport.is_closing():
                return
            handle = self._on.get(type(event))
            if handle is not None:
                try:
                    handle(event)
                except ProtocolError:  # the client has reset the stream in the same breath
                    self._drop(event)
        self._flush()

    def pause_writing(self) -> None:
        """Take no more while the client does not read what it asked for."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """End what nobody waits for any more."""
        self._drop_all()
        self._connections.discard(self)

    # ------------------------------------------------------------------------ stopping

    def unary(self) -> list[asyncio.Task[bytes | None]]:
        """Return the tasks whose one answer somebody waits for."""
        calls = (call for call in self._calls.values() if isinstance(call.method, Unary))
        return [call.task for call in calls if call.task is not None]

    def say_goodbye(self) -> None:
        """Ask the client for no more calls here; those that come all the same are answered.

        Not h2's own close_connection, after which h2 would let no running call end.
        """
        self._transport.write(GoAwayFrame(last_stream_id=_NO_LIMIT).serialize())

    def close(self) -> None:
        """End every call and the connection."""
        self._drop_all()
        with contextlib.suppress(ProtocolError):
            self._h2.close_connection()
        self._flush()
        self._transport.close()

    # -------------------------------------------------------------------- what arrives

    def _begin(self, event: Any) -> None:
        headers = dict(event.headers)
        kind, path = headers.get(b"content-type", b""), headers.get(b":path", b"")
        if not kind.startswith(b"application/grpc"):
            self._h2.send_headers(event.stream_id, [(b":status", b"415")], end_stream=True)
            return
        method = self._methods.get(path.decode("utf-8", "replace"))
        call = Call(self._h2, event.stream_id, method)
        if method is None:
            call.fail(RpcError(Status.UNIMPLEMENTED, "this server has no such method"))
            return
        self._calls[event.stream_id] = call
        if isinstance(method, Stream):
            self._start(call, self._stream(call, method))

    def _receive(self, event: Any) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        call = self._calls.get(event.stream_id)
        if call is not None:  # otherwise it has failed already
            try:
                call.feed(event.data)
            except RpcError as error:
                self._fail(call, error)

    def _received(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        try:
            call.no_more()
            if not isinstance(call.method, Unary):
                return
            found = call.method.call(call.message, self._caller)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a status
            self._fail(call, error)
            return
        if isinstance(found, bytes):
            self._end(call, found)
        else:
            self._start(call, found)

    def _drop(self, event: Any) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is not None:
            call.cancel()

    def _drop_all(self) -> None:
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def _widen(self, event: Any) -> None:
        if not event.stream_id:
            self._send_more()
        elif event.stream_id in self._calls:
            self._send(self._calls[event.stream_id])

    # ---------------------------------------------------------------- methods, answers

    async def _stream(self, call: Call, method: Stream) -> None:
        async for message in method.call(call.arriving(), self._caller):
            call.say(message)
            self._flush()
            await call.drained()

    def _start(self, call: Call, work: Coroutine[Any, Any, bytes | None]) -> None:
        call.task = asyncio.get_running_loop().create_task(work)
        call.task.add_done_callback(lambda task: self._done(call, task))

    def _done(self, call: Call, task: asyncio.Task[bytes | None]) -> None:
        if task.cancelled() or call.id not in self._calls:
            return  # nobody waits for it any more
        error = task.exception()
        if error is not None:
            self._fail(call, error)
        else:
            self._end(call, task.result())
        self._flush()

    def _end(self, call: Call, answer: bytes | None) -> None:
        if answer is not None:
            call.say(answer)
        call.end()
        self._forget_if_ended(call)

    def _fail(self, call: Call, error: BaseException) -> None:
        call.fail(error)
        self._forget_if_ended(call)

    def _forget_if_ended(self, call: Call) -> None:
        if call.has_ended:
            self._calls.pop(call.id, None)

    def _send_more(self) -> None:
        for call in list(self._calls.values()):
            with contextlib.suppress(ProtocolError):
                self._send(call)

    def _send(self, call: Call) -> None:
        call.send()
        self._forget_if_ended(call)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)


def _names(tls: ssl.SSLObject | None) -> frozenset[str]:
    """Return the names of the client's certificate: DNS and URI alternatives and common names."""
    certificate: Any = (tls.getpeercert() if tls is not None else None) or {}
    alternatives = {value for _, value in certificate.get("subjectAltName", ())}
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    return frozenset(alternatives | {value for name, value in subject if name == "commonName"})
