"""The HTTP transport that google-auth is given: one attempt, bounded in time and size, no proxy.

google-auth's own transport waits up to two minutes, retries, follows redirects, reads bodies of any
size and obeys HTTP_PROXY, which here names ourselves.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import google.auth.transport

from ext_authz.errors import SourceError

TOTAL_SECONDS = 3.0  # below the 4 s that a cold request waits (token_cache.MAX_WAIT_SECONDS)
CONNECT_SECONDS = 1.0
MAX_BODY_BYTES = 64 * 1024
_PERMANENT = frozenset({400, 401, 403, 404})
# The words of an error body that are safe to show: never its sentences, which may quote a token.
_WORD = re.compile(r"[A-Za-z][A-Za-z_.]{2,63}", re.ASCII)


class _Response(google.auth.transport.Response):
    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self._status, self._headers, self._data = status, headers, data

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def data(self) -> bytes:
        return self._data


class BoundedTransport(google.auth.transport.Request):
    """Makes one request; whatever is not a 200 in time raises SourceError naming `server`."""

    def __init__(self, server: str) -> None:
        self._server = server

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> google.auth.transport.Response:
        """Request `url`. Raises SourceError; google-auth's own time limit is not used."""
        connection = _connection(url)
        end = time.monotonic() + TOTAL_SECONDS
        deadline = Timer(TOTAL_SECONDS, _cut, [connection])
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            connection.sock.settimeout(TOTAL_SECONDS)
            parts = urlsplit(url)
            target = f"{parts.path or '/'}{parts.query and '?' + parts.query}"
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            data = response.read(MAX_BODY_BYTES + 1)
            answered = _lower(response.headers)
        except (OSError, HTTPException) as error:
            raise self._unreachable(url, error, timed_out=time.monotonic() >= end) from None
        finally:
            deadline.cancel()
            connection.close()
        if time.monotonic() >= end:  # cut off: what came may be only a part
            raise self._unreachable(url, TimeoutError(), timed_out=True)
        if len(data) > MAX_BODY_BYTES:
            raise self._error(url, "source_nonsense", f"sent more than {MAX_BODY_BYTES} bytes")
        if response.status != 200:
            raise self._refused(url, response.status, answered, data)
        # google-auth needs a content type to decode by; not every metadata server sends one.
        return _Response(200, {"content-type": "text/plain", **answered}, data)

    def _unreachable(self, url: str, error: Exception, *, timed_out: bool) -> SourceError:
        if timed_out or isinstance(error, TimeoutError):
            return self._error(url, "source_slow", f"gave no answer in {TOTAL_SECONDS:.0f} s")
        if isinstance(error, ssl.SSLError):
            return self._error(url, "source_tls_failed", "has no certificate that is trusted here")
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            why = "refused the connection or has no address"
            return self._error(url, "source_unreachable", why)
        return self._error(url, "source_unreachable", "cannot be reached or broke off")

    def _refused(
        self, url: str, status: int, headers: Mapping[str, str], data: bytes
    ) -> SourceError:
        words = " ".join(error_words(data))
        error = self._error(url, "source_refused", f"answered {status}{words and ' ' + words}")
        error.permanent = status in _PERMANENT
        retry_after = headers.get("retry-after", "")
        error.retry_after_seconds = float(retry_after) if retry_after.isdecimal() else None
        return error

    def _error(self, url: str, code: str, what: str) -> SourceError:
        return SourceError(f"{self._server} at {urlsplit(url).netloc} {what}", code=code)


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CONNECT_SECONDS, context=context
        )
    return HTTPConnection(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)


def _cut(connection: HTTPConnection) -> None:
    """End a request whose time is over, whatever it waits for: headers may dribble in for ever."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def error_words(data: bytes) -> list[str]:
    """Return the machine-readable words of a Google or OAuth error body (RFC 6749 section 5.2).

    Only `error`, `error.status` and each detail's `reason` and `permission`, and only if they are
    single words: descriptions may quote what was sent.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return []
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return _words(error)
    words = _words(error.get("status"))
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict):
            metadata = detail.get("metadata")
            permission = metadata.get("permission") if isinstance(metadata, dict) else None
            words += [*_words(detail.get("reason")), *_words(permission)]
    return words


def _words(value: object) -> list[str]:
    return [value] if isinstance(value, str) and _WORD.fullmatch(value) else []


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
