"""The HTTP transport that google-auth is given: one attempt, bounded in time and size, no proxy.

google-auth's own transport waits up to two minutes, retries, follows redirects, reads bodies of any
size and obeys HTTP_PROXY, which here names ourselves.
"""

from __future__ import annotations

import email.utils
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import google.auth.transport

from ext_authz.clock import Clock, system_clock
from ext_authz.errors import SourceError

TOTAL_SECONDS = 3.0  # below the 4 s that a cold request waits (token_cache.MAX_WAIT_SECONDS)
CONNECT_SECONDS = 1.0
MAX_BODY_BYTES = 64 * 1024
TOLERATED_SKEW_SECONDS = 120.0  # below it a refusal has another reason: Google allows minutes
_PERMANENT = frozenset({400, 401, 403, 404})
# The words of an error body that are safe to show: never its sentences, which may quote a token.
_WORD = re.compile(r"[A-Za-z][A-Za-z_.]{2,63}", re.ASCII)


class RefusedError(SourceError):
    """Raised when a server answered with another status than 200; `words` are its error words."""

    def __init__(self, message: str, url: str, status: int, words: list[str]) -> None:
        super().__init__(message, code="source_refused", permanent=status in _PERMANENT)
        self.url, self.status, self.words = url, status, words


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
    """Makes one request; whatever is not a 200 in time raises SourceError naming `server`.

    `names` has other names by the beginning of the URL, where one credential asks several servers.
    """

    def __init__(
        self, server: str, names: Mapping[str, str] | None = None, *, clock: Clock = system_clock
    ) -> None:
        self._server = server
        self._names = names or {}
        self._clock = clock

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
        answer, data = self._answer(url, method, body, headers or {})
        if len(data) > MAX_BODY_BYTES:
            raise self._error(url, "source_nonsense", f"sent more than {MAX_BODY_BYTES} bytes")
        answered = _lower(answer.headers)
        if answer.status != 200:
            raise self._refused(url, answer.status, answered, data)
        # google-auth needs a content type to decode by; not every metadata server sends one.
        return _Response(200, {"content-type": "text/plain", **answered}, data)

    def _answer(
        self, url: str, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        end = time.monotonic() + TOTAL_SECONDS
        try:
            answer, data = _exchange(url, method, body, headers)
        except (OSError, HTTPException) as error:
            raise self._unreachable(url, error, timed_out=time.monotonic() >= end) from None
        except (ValueError, AttributeError):
            # TLS says so of a connection that was cut off; http.client of a header it cannot send.
            if time.monotonic() < end:
                raise self._error(url, "source_nonsense", "cannot be asked with this") from None
            raise self._unreachable(url, TimeoutError(), timed_out=True) from None
        if time.monotonic() >= end:  # cut off: what came may be only a part
            raise self._unreachable(url, TimeoutError(), timed_out=True)
        return answer, data

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
        words = error_words(data)
        what = " ".join([f"answered {status}", *words]) + self._skew(headers.get("date", ""))
        error = RefusedError(self._sentence(url, what), url, status, words)
        retry_after = headers.get("retry-after", "")
        error.retry_after_seconds = float(retry_after) if retry_after.isdecimal() else None
        return error

    def _skew(self, date: str) -> str:
        """Say by how much this machine's clock differs from the server's, if it matters."""
        try:
            theirs = email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, OverflowError):
            return ""
        ahead = self._clock().wall - theirs
        if abs(ahead) <= TOLERATED_SKEW_SECONDS:
            return ""
        side = "ahead of" if ahead > 0 else "behind"
        return f"; this machine's clock is {abs(ahead):.0f} s {side} theirs: set it"

    def _error(self, url: str, code: str, what: str) -> SourceError:
        return SourceError(self._sentence(url, what), code=code)

    def _sentence(self, url: str, what: str) -> str:
        named = (name for start, name in self._names.items() if url.startswith(start))
        return f"{next(named, self._server)} at {urlsplit(url).netloc} {what}"


def _exchange(
    url: str, method: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[HTTPResponse, bytes]:
    """Send one request and read one byte more than may come, all within TOTAL_SECONDS."""
    connection = _connection(url)
    connected: list[socket.socket] = []
    deadline = Timer(TOTAL_SECONDS, _cut, [connected])
    deadline.daemon = True
    deadline.start()
    try:
        connection.connect()
        # Kept here, as http.client lets go of it where the body ends with the connection.
        connected.append(connection.sock)
        if deadline.finished.is_set():
            raise TimeoutError
        connection.sock.settimeout(TOTAL_SECONDS)
        connection.request(method, _target(url), body, dict(headers))
        with connection.getresponse() as response:
            return response, _read(response)
    finally:
        deadline.cancel()
        connection.close()


def _read(response: HTTPResponse) -> bytes:
    data = response.read(MAX_BODY_BYTES + 1)
    if response.length and len(data) <= MAX_BODY_BYTES:
        raise IncompleteRead(b"")  # http.client says so only where all is read at once
    return data


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path or '/'}{parts.query and '?' + parts.query}"


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CONNECT_SECONDS, context=context
        )
    return HTTPConnection(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)


def _cut(connected: Sequence[socket.socket]) -> None:
    """End a request whose time is over, whatever it waits for: bytes may dribble in for ever."""
    for one in connected:
        with suppress(OSError):
            # The plain method: TLS's own forgets its state under the thread that reads.
            socket.socket.shutdown(one, socket.SHUT_RDWR)


def error_words(data: bytes) -> list[str]:
    """Return the machine-readable words of a Google or OAuth error body (RFC 6749 section 5.2).

    Only `error`, `error_subtype`, `error.status` and each detail's `reason` and `permission`, and
    only if they are single words: descriptions may quote what was sent.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    error = document.get("error")
    if not isinstance(error, dict):
        return [*_words(error), *_words(document.get("error_subtype"))]
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
