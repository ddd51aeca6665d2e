"""Requests through a sidecar, as plain HTTP/1.1 clients make them, and what is asked of answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from tests.support.raw import RawConnection, RawResponse
from tests.support.raw_h2 import H2Client, H2Response, request_headers
from tests.support.sidecar import Address, Sidecar

HeaderList = Iterable[tuple[str, str]]
TIMEOUT_SECONDS = 15.0
ERROR_KEYS = {"error", "message", "destination"}


def request_bytes(
    method: str, target: str, host: str, headers: HeaderList = (), body: bytes = b""
) -> bytes:
    """One HTTP/1.1 request; Content-Length only where there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def send(address: Address, request: bytes, timeout_seconds: float = TIMEOUT_SECONDS) -> RawResponse:
    """Send exact bytes on a new connection and read one answer."""
    with RawConnection(address, timeout_seconds=timeout_seconds) as connection:
        method = request.partition(b" ")[0].decode("latin-1")
        return connection.send(request).read_response(method)


def ask(
    sidecar: Sidecar, url: str, method: str = "GET", headers: HeaderList = (), body: bytes = b""
) -> RawResponse:
    """Through the forward proxy, in absolute form."""
    host = urlsplit(url).netloc
    return send(sidecar.forward, request_bytes(method, url, host, headers, body))


def ask_reverse(
    sidecar: Sidecar, path: str, method: str = "GET", headers: HeaderList = (), body: bytes = b""
) -> RawResponse:
    """Through the reverse proxy, in origin form with its own address as Host."""
    host = str(sidecar.addresses["reverse"])
    return send(sidecar.reverse, request_bytes(method, path, host, headers, body))


def ask_grpc(sidecar: Sidecar, authority: str, path: str = "/grpc.Echo/Call") -> H2Response:
    """One empty unary call over cleartext HTTP/2 to the forward proxy."""
    headers = (("content-type", "application/grpc"), ("te", "trailers"))
    with H2Client(sidecar.forward, timeout_seconds=TIMEOUT_SECONDS) as client:
        return client.request(request_headers("POST", authority, path, *headers), b"\0" * 5)


def error_of(answer: RawResponse) -> dict[str, Any]:
    """The body of an answer of the sidecar's own; asserts its form."""
    assert answer.values("content-type") == ["application/json"], answer
    found: dict[str, Any] = json.loads(answer.body)
    assert set(found) == ERROR_KEYS, found
    assert found["message"], found
    return found


def verdict(answer: RawResponse) -> tuple[int, str]:
    """Status and error word of the sidecar's own answer."""
    return answer.status, str(error_of(answer)["error"])
