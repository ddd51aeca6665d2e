"""The private service as an ASGI app: the guard in front, a small app behind it."""

from __future__ import annotations

import hashlib
import html
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ext_authz.standins.guard import INVALID_TOKEN_CHALLENGE, Guard, Refused, refusal_page
from ext_authz.standins.issuer import Claims

HELLO = "Hello from the receiving service!"
CLAIMS_KEY = "idtoken.claims"  # where the app behind the guard finds the verified claims

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class ReceivedRequest:
    """One request as it arrived, before the guard; times are monotonic seconds.

    `headers` keeps order, duplicates and the credential. `status`, `claims` and the body's
    length and digest are filled while the request is served; `refusal` is the guard's reason.
    """

    method: str
    path: str
    query: str
    http_version: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    time: float
    status: int | None = None
    refusal: str | None = None
    claims: Claims | None = field(default=None, repr=False)
    body_length: int = 0
    body_sha256: str = hashlib.sha256().hexdigest()

    def values(self, name: str) -> list[str]:
        """Return every value of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever its case."""
        return next(iter(self.values(name)), None)


class GuardedApp:
    """An ASGI app that records each request and lets through what the guard admits."""

    def __init__(self, guard: Guard, app: App, record: Callable[[ReceivedRequest], None]) -> None:
        self.guard, self.app, self.record = guard, app, record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request (ASGI 3)."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        record = _record(scope)
        self.record(record)
        verdict = self.guard.check(record.headers)
        receive = _Body(record, receive)
        watched = _watching_send(record, receive, send)
        if isinstance(verdict, Refused):
            record.refusal = verdict.reason
            await _refuse(scope, verdict, watched)
            return
        record.claims = verdict.claims
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in verdict.headers]
        inner = {**scope, "headers": headers, CLAIMS_KEY: verdict.claims}
        await self.app(inner, receive, watched)


async def hello_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet; /claims shows the verified claims as JSON, /echo the request."""
    if scope["type"] != "http":
        await send({"type": "websocket.close"})
    elif scope["path"] == "/claims":
        await answer_json(send, scope[CLAIMS_KEY])
    elif scope["path"] == "/echo":
        await answer_json(send, await _echo(scope, receive))
    else:
        await answer(send, 200, HELLO + "\n", [(b"content-type", b"text/plain; charset=utf-8")])


async def answer(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole answer."""
    body = text.encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: object) -> None:
    """Send `value` as indented JSON with status 200."""
    headers = [(b"content-type", b"application/json")]
    await answer(send, 200, json.dumps(value, indent=2) + "\n", headers)


async def _echo(scope: Scope, receive: Receive) -> dict[str, object]:
    digest, length = hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        digest.update(message.get("body", b""))
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    query = scope["query_string"].decode("latin-1")
    return {
        "method": scope["method"],
        "path": scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""),
        "http_version": scope["http_version"],
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
        "body_length": length,
        "body_sha256": digest.hexdigest(),
    }


def _record(scope: Scope) -> ReceivedRequest:
    return ReceivedRequest(
        method=scope.get("method", "GET"),
        path=scope["raw_path"].decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        http_version=scope["http_version"],
        headers=tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]),
        time=time.monotonic(),
    )


class _Body:
    """The request's body on its way to the app: measured, and drained at the end."""

    def __init__(self, record: ReceivedRequest, receive: Receive) -> None:
        self._record, self._receive = record, receive
        self._digest = hashlib.sha256()
        self._complete = False

    async def __call__(self) -> Message:
        """Return the next message (ASGI receive)."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._digest.update(message.get("body", b""))
            self._record.body_length += len(message.get("body", b""))
            self._record.body_sha256 = self._digest.hexdigest()
        self._complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what the app left, until the body ends or the client goes away."""
        while not self._complete:
            await self()


def _watching_send(record: ReceivedRequest, body: _Body, send: Send) -> Send:
    async def watched(message: Message) -> None:
        if message["type"].endswith("http.response.start"):
            record.status = message["status"]
        elif message["type"] == "websocket.accept":
            record.status = 101
        if message["type"] == "http.response.body" and not message.get("more_body"):
            # hypercorn 0.18 drops an HTTP/2 connection, all of its streams included, when body
            # arrives after the end of an answer. So the end waits for the end of the request.
            await send({**message, "more_body": True})
            await body.drain()
            message = {**message, "body": b""}
        await send(message)

    return watched


async def _refuse(scope: Scope, refused: Refused, send: Send) -> None:
    url = html.escape(scope["raw_path"].decode("latin-1"))
    headers = [(b"content-type", b"text/html; charset=UTF-8")]
    if refused.status == 401:
        headers.append((b"www-authenticate", INVALID_TOKEN_CHALLENGE.encode()))
    if scope["type"] == "websocket":
        send = _as_websocket_denial(send)
    await answer(send, refused.status, refusal_page(refused, url), headers)


def _as_websocket_denial(send: Send) -> Send:
    """Send an HTTP answer to a WebSocket handshake (ASGI websocket.http.response)."""

    async def renamed(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return renamed


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
