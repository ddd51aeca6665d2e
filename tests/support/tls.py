"""TLS contexts for test servers and clients, from a throw-away authority (trustme)."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import trustme

BOTH_PROTOCOLS = ("h2", "http/1.1")


def server_context(
    authority: trustme.CA, *names: str, alpn: Sequence[str] = BOTH_PROTOCOLS
) -> ssl.SSLContext:
    """A server context with a fresh certificate for these names (hosts, *.wildcards, addresses)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def client_context(authority: trustme.CA, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A verifying client context that trusts only this authority."""
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode("ascii"))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def write_bundle(authority: trustme.CA, path: Path) -> Path:
    """Write the authority's certificate as a PEM bundle, for programs that take a file."""
    authority.cert_pem.write_to_path(str(path))
    return path
