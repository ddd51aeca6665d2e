"""One gRPC call, which is one stream of HTTP/2: what has come, and what is still to be sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import quote

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from ext_authz import log
from ext_authz.rpc import Messages, RpcError, Status, Stream, Unary, framed

MAX_WAITING_MESSAGES = 1000  # of a stream whose method is slower than its client
_ANSWER = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_ALL_WELL = [(b"grpc-status", b"0")]
_PLAIN = " !#$&'()*+,/:;=?@[]~\"<>\\^`{|}"  # quote() keeps letters, digits and -._ anyhow


class Call:
    """Belongs to one connection, whose `h2` it speaks through.

    Each method that sends raises ProtocolError where the client has reset the stream.
    """

    __slots__ = (
        "_begun",
        "_h2",
        "_inbox",
        "_is_ending",
        "_messages",
        "_pieces",
        "_sent",
        "_unsent",
        "has_ended",
        "id",
        "method",
        "task",
    )

    def __init__(self, h2: H2Connection, stream_id: int, method: Unary | Stream | None) -> None:
        self.id = stream_id
        self.method = method
        self.task: asyncio.Task[bytes | None] | None = None
        self.has_ended = False
        self._is_ending = False  # all is said, but the client's windows may be full
        self._h2 = h2
        self._pieces = Messages()
        self._messages: list[bytes] = []
        self._inbox: asyncio.Queue[bytes | None] | None = None
        if isinstance(method, Stream):
            self._inbox = asyncio.Queue(MAX_WAITING_MESSAGES)
        self._sent: asyncio.Event | None = None
        self._unsent = b""
        self._begun = False

    # ---------------------------------------------------------------------- receiving

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises RpcError for messages that are not taken."""
        for message in self._pieces.feed(data):
            if self._inbox is not None:
                self._put(message)
            elif self._messages:
                raise RpcError(Status.INVALID_ARGUMENT, "expected one message, got more")
            else:
                self._messages.append(message)

    def no_more(self) -> None:
        """Take note that the client has sent all. Raises RpcError if something is missing."""
        if self._inbox is not None:
            self._put(None)
        elif not self._messages or self._pieces.has_rest:
            raise RpcError(Status.INVALID_ARGUMENT, "expected one whole message")

    @property
    def message(self) -> bytes:
        """The one message of a unary call."""
        return self._messages[0]

    async def arriving(self) -> AsyncIterator[bytes]:
        """Yield a stream's messages until the client has sent all."""
        assert self._inbox is not None
        while (message := await self._inbox.get()) is not None:
            yield message

    def _put(self, message: bytes | None) -> None:
        assert self._inbox is not None
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            raise RpcError(Status.RESOURCE_EXHAUSTED, "too many messages at once") from None

    # ------------------------------------------------------------------------ sending

    def say(self, message: bytes) -> None:
        """Send a message, as far as the client's windows allow now."""
        self._begin()
        self._unsent += framed(message)
        self.send()

    async def drained(self) -> None:
        """Wait until everything said is sent."""
        while self._unsent:
            self._sent = asyncio.Event()
            await self._sent.wait()

    def send(self) -> None:
        """Send what is left, as far as the client's windows allow now."""
        while self._unsent:
            window = self._h2.local_flow_control_window(self.id)
            size = min(window, self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            self._h2.send_data(self.id, self._unsent[:size])
            self._unsent = self._unsent[size:]
        if self._sent is not None:
            self._sent.set()
        if self._is_ending and not self.has_ended:
            self.has_ended = True
            self._h2.send_headers(self.id, _ALL_WELL, end_stream=True)

    def end(self) -> None:
        """Say that all is well, after what is still unsent."""
        self._begin()
        self._is_ending = True
        self.send()

    def fail(self, error: BaseException) -> None:
        """End with a status now; the client need not send the rest. Never raises."""
        self.has_ended = True
        if not isinstance(error, RpcError):
            log.error("a call failed for a reason that nobody foresaw", kind=type(error).__name__)
            error = RpcError(Status.INTERNAL, "internal error")
        begin = [] if self._begun else _ANSWER
        trailers = [
            (b"grpc-status", b"%d" % error.status),
            (b"grpc-message", quote(error.message, safe=_PLAIN).encode()),
        ]
        self.cancel()
        with contextlib.suppress(ProtocolError):  # the reset needs an end that is still open
            self._h2.send_headers(self.id, [*begin, *trailers], end_stream=True)
            self._h2.reset_stream(self.id, ErrorCodes.NO_ERROR)

    def cancel(self) -> None:
        """Let nobody work on for it."""
        if self.task is not None:
            self.task.cancel()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._h2.send_headers(self.id, _ANSWER)
