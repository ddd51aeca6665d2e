"""Reads an authority into one host and one port, strictly, and knows which hosts are off limits.

What cannot be read without doubt is refused: the host that is judged here is the one that
Envoy dials and verifies (RFC 9110 section 4.2, RFC 3986 section 3.2).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ext_authz.errors import BadDestinationError, printable

MAX_AUTHORITY_LENGTH = 300  # 253 for a name, 6 for a port, and room to say what was wrong
MAX_HOST_LENGTH = 253  # RFC 1035 section 2.3.4
# Underscores are no host name (RFC 952) but resolve, and compose service names have them.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "metadata.goog"})
_METADATA_ADDRESSES = frozenset({"169.254.169.254", "fd20:ce::254"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


@dataclass(frozen=True, slots=True)
class Destination:
    """A host in its normal form (lower case, no trailing dot, no brackets) and a port, if given."""

    host: str
    port: int | None = None
    is_address: bool = False

    def authority(self, default_port: int | None = None) -> str:
        """Return `host[:port]` as a request carries it, without a port that is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (None, default_port) else f"{host}:{self.port}"


def parse_authority(text: str) -> Destination:
    """Read `host[:port]`.

    Raises BadDestinationError for anything that two readers could understand differently:
    userinfo, several hosts, percent signs, odd ports, half-numeric names.
    """
    if not text or len(text) > MAX_AUTHORITY_LENGTH:
        raise _bad(text, "a host of 1 to 253 characters")
    if not text.isascii() or any(character in "@,/\\?#%" or character <= " " for character in text):
        raise _bad(text, "one plain host name or address, with an optional port")
    host, port = _split_port(text)
    if host.startswith("["):
        return Destination(_address_v6(host, text), port, is_address=True)
    return _named(host.lower(), port, text)


def _split_port(text: str) -> tuple[str, int | None]:
    bracket = text.rfind("]") + 1  # the colons of an IPv6 address stand inside brackets
    host, colon, port = text[bracket:].partition(":")
    if not colon:
        return text, None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise _bad(text, "a port from 1 to 65535")
    return text[:bracket] + host, int(port)


def _address_v6(bracketed: str, text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(bracketed[1:-1]))
    except ValueError:
        raise _bad(text, "an IPv6 address in brackets") from None


def _named(host: str, port: int | None, text: str) -> Destination:
    try:
        return Destination(str(ipaddress.IPv4Address(host)), port, is_address=True)
    except ValueError:
        pass
    name = host[:-1] if host.endswith(".") else host
    labels = name.split(".")
    if len(name) > MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise _bad(text, "labels of 1 to 63 letters, digits, hyphens, joined by dots")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        # 127.1 and 0x7f.1 are names to DNS, addresses to inet_aton (WHATWG URL: ends in a number).
        raise _bad(text, "a name, or an address of four decimal numbers")
    return Destination(name, port)


def _shown(text: str) -> str:
    """Return the text for a sentence, without what stands before an @: it may be a password."""
    userinfo, at, host = text.rpartition("@")
    return printable(f"…@{host}" if at else userinfo + host).replace("\\u2026", "...")


def _bad(text: str, expected: str) -> BadDestinationError:
    return BadDestinationError(
        f"the destination cannot be read: expected {expected}, got '{_shown(text)}'; "
        "send the request with the host name of one service"
    )


def forbidden_reason(
    destination: Destination, *, allow_loopback: bool, metadata_host: str = ""
) -> str | None:
    """Say why no request may go to this destination, or None.

    `metadata_host` is the `host[:port]` that stands in for the metadata server (GCE_METADATA_HOST).
    The addresses behind a name are judged by Envoy after resolution (`resolved_address_filter`).
    """
    if destination.host in METADATA_NAMES or destination.host in _METADATA_ADDRESSES:
        return "the metadata server"
    if metadata_host and _same(destination, metadata_host):
        return "the metadata server"
    if destination.is_address:
        return _forbidden_address(ipaddress.ip_address(destination.host), allow_loopback)
    if destination.host == "localhost" or destination.host.endswith(".localhost"):
        return None if allow_loopback else "a loopback address"
    return None


def _same(destination: Destination, authority: str) -> bool:
    try:
        other = parse_authority(authority)
    except BadDestinationError:
        return False
    return (_plain(destination), destination.port or 80) == (_plain(other), other.port or 80)


def _plain(destination: Destination) -> str:
    if not destination.is_address:
        return destination.host
    return str(_embedded_v4(ipaddress.ip_address(destination.host)))


def _forbidden_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow_loopback: bool
) -> str | None:
    address = _embedded_v4(address)
    if str(address) in _METADATA_ADDRESSES:
        return "the metadata server"
    if address.is_loopback:
        return None if allow_loopback else "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_unspecified or address in ipaddress.ip_network("0.0.0.0/8"):
        return "an unspecified address"
    return (
        "a multicast or reserved address" if address.is_multicast or address.is_reserved else None
    )


def _embedded_v4(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
