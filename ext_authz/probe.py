"""One look at one destination: does it resolve, is its TLS good, what does it answer."""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ext_authz.destination import Destination, forbidden_reason
from ext_authz.rules import HTTPS_PORT

SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and the headers that matter; status 0 means there was none, and `why` says so."""

    status: int
    why: str = ""
    date: float | None = None  # Unix seconds by the server's clock


def resolve(destination: Destination, *, allow_loopback: bool) -> tuple[list[str], str]:
    """Return the addresses, and what is wrong with them, if anything."""
    # RFC 6761 section 6.3: Envoy resolves these names itself, the system's resolver may not.
    is_local = destination.host.endswith(".localhost")
    host = "localhost" if is_local else destination.host
    try:
        found = socket.getaddrinfo(host, destination.port or HTTPS_PORT, type=socket.SOCK_STREAM)
    except OSError:
        return [], f"{destination.host} does not resolve from here"
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in sorted(found)))
    for address in addresses:
        literal = Destination(str(ipaddress.ip_address(address)), None, is_address=True)
        if reason := forbidden_reason(literal, allow_loopback=allow_loopback):
            return addresses, f"{destination.host} leads to {address}, {reason}"
    return addresses, ""


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to an address that was judged, and verifies the name."""

    def __init__(self, address: str, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=SECONDS, context=context)
        self._address, self._context = address, context

    def connect(self) -> None:
        raw = socket.create_connection((self._address, self.port), SECONDS)
        self.sock = self._context.wrap_socket(raw, server_hostname=self.host)


def ask(
    destination: Destination, address: str, headers: Mapping[str, str], ca_file: Path | None
) -> Answer:
    """GET / over verified TLS at one of the destination's addresses, as Envoy would."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    port = destination.port or HTTPS_PORT
    connection = _PinnedConnection(address, destination.host, port, context)
    return _exchange(connection, "/", dict(headers))


def ask_through(proxy: str, destination: Destination) -> Answer:
    """GET http://destination/ through a running sidecar (`host:port`)."""
    connection = http.client.HTTPConnection(proxy, timeout=SECONDS * 2)
    authority = destination.authority(HTTPS_PORT)
    return _exchange(connection, f"http://{authority}/", {"Host": authority})


def _exchange(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> Answer:
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read(4096) if response.status >= 400 else b""
        why = body.decode("utf-8", "replace") if b'"error"' in body else ""
        return Answer(response.status, why, _time_of(response.headers.get("date", "")))
    except ssl.SSLCertVerificationError as error:
        return Answer(0, f"its certificate is not trusted here: {error.verify_message}")
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"no answer: {type(error).__name__}")
    finally:
        connection.close()


def _time_of(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return None
