"""Play a scripted reply over any HTTP version: the part that HTTP/1 and HTTP/2 share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.support.messages import Echo, Headers, Reply, RequestHead


class ClientGone(Exception):
    """Raised when the client hung up or reset its stream."""


class Exchange(Protocol):
    """One request and its answer, as `play` needs them."""

    head: RequestHead

    async def read(self) -> bytes | None:
        """The next piece of the request's body; None at its end. Raises ClientGone."""

    async def inform(self, status: int, headers: Headers) -> None:
        """Send a 1xx answer."""

    async def start(self, reply: Reply, length: int | None) -> None:
        """Send the final head; `length` None means it is not known."""

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer's body."""

    async def finish(self, trailers: Headers) -> None:
        """End the answer."""

    async def accept_websocket(self, reply: Reply) -> None:
        """Send the head that turns this exchange into a WebSocket."""

    def cut(self) -> None:
        """Abort without ending the answer."""


async def play(exchange: Exchange, reply: Reply) -> None:
    """Answer one exchange as its script says. Raises ClientGone."""
    if reply.websocket:
        await _echo_websocket(exchange, reply)
    elif reply.echo is Echo.STREAM:
        await exchange.start(reply, None)
        async for piece in _body(exchange):
            await exchange.send(piece)
        await exchange.finish(reply.trailers)
    else:
        await _answer_whole(exchange, reply)


async def _answer_whole(exchange: Exchange, reply: Reply) -> None:
    received = b"".join([piece async for piece in _body(exchange)])
    for status, headers in reply.informational:
        await exchange.inform(status, headers)
    if reply.hold:
        await asyncio.Event().wait()
    await asyncio.sleep(reply.delay_seconds)
    body = received if reply.echo is Echo.WHOLE else reply.body
    parts = reply.parts if reply.parts is not None else (body,)
    await exchange.start(reply, None if reply.streamed else len(body))
    if exchange.head.method != "HEAD" and not await _send_parts(exchange, reply, parts):
        return
    await exchange.finish(reply.trailers)


async def _send_parts(exchange: Exchange, reply: Reply, parts: tuple[bytes, ...]) -> bool:
    for number, part in enumerate(parts):
        if number == reply.cut_after_parts:
            exchange.cut()
            return False
        if number and reply.gap_seconds:
            await asyncio.sleep(reply.gap_seconds)
        if part:
            await exchange.send(part)
    if reply.cut_after_parts is not None and reply.cut_after_parts >= len(parts):
        exchange.cut()
        return False
    return True


async def _body(exchange: Exchange) -> AsyncIterator[bytes]:
    while (piece := await exchange.read()) is not None:
        yield piece


async def _echo_websocket(exchange: Exchange, reply: Reply) -> None:
    await exchange.accept_websocket(reply)
    websocket = Connection(ConnectionType.SERVER)
    async for piece in _body(exchange):
        websocket.receive_data(piece)
        if answer := _websocket_answer(websocket):
            await exchange.send(answer)
        if websocket.state.name == "CLOSED":
            break
    await exchange.finish(())


def _websocket_answer(websocket: Connection) -> bytes:
    answer = b""
    for event in websocket.events():
        match event:
            case TextMessage(data=text, message_finished=last):
                answer += websocket.send(TextMessage(data=text, message_finished=last))
            case BytesMessage(data=data, message_finished=last):
                answer += websocket.send(BytesMessage(data=data, message_finished=last))
            case Ping() | CloseConnection():
                answer += websocket.send(event.response())
    return answer
