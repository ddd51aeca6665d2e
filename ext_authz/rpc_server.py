"""The gRPC server: listens on TCP or a Unix socket, with or without mTLS, and stops in peace."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from pathlib import Path

from ext_authz.errors import StartError
from ext_authz.listen import Address, require_free, why_no_socket
from ext_authz.rpc import Methods
from ext_authz.rpc_connection import Connection

HANDSHAKE_SECONDS = 10.0
BACKLOG = 1024


class RpcServer:
    """Serves `methods`. Belongs to one event loop."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._socket_file: Path | None = None

    async def listen(self, address: Address, tls: ssl.SSLContext | None = None) -> Address:
        """Begin to answer; return where, with the port that was chosen for port 0.

        Raises StartError if nothing can listen there.
        """
        loop, handshake = asyncio.get_running_loop(), HANDSHAKE_SECONDS if tls else None
        try:
            sockets = _unix(address.path) if address.path else _tcp(address.host, address.port)
        except (OSError, UnicodeError) as error:
            path = address.path
            reason = why_no_socket(Path(path)) if path else getattr(error, "strerror", str(error))
            raise StartError(f"--listen: {address} cannot be listened on: {reason}") from None
        self._socket_file = Path(address.path) if address.path else None
        for each in sockets:
            self._servers.append(
                await loop.create_server(
                    lambda: Connection(self._methods, self._connections),
                    sock=each,
                    backlog=BACKLOG,
                    ssl=tls,
                    ssl_handshake_timeout=handshake,
                )
            )
        if address.path:
            return address
        return Address(address.host, sockets[0].getsockname()[1])

    async def stop(self, grace_seconds: float) -> None:
        """Take no more connections, let answers that are waited for go out, and close."""
        for server in self._servers:
            server.close()
        if self._socket_file is not None:
            self._socket_file.unlink(missing_ok=True)
        for connection in self._connections:
            connection.say_goodbye()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while waited_for := [task for each in self._connections for task in each.unary()]:
                    await asyncio.wait(waited_for)
        for connection in tuple(self._connections):
            connection.close()


def _tcp(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host, all with one port."""
    require_free(host, port, "--listen")
    found: list[socket.socket] = []
    kind = socket.SOCK_STREAM
    for family, _, _, _, where in socket.getaddrinfo(
        host, port, type=kind, flags=socket.AI_PASSIVE
    ):
        at = (where[0], found[0].getsockname()[1] if found else port)
        both = host == "::" and socket.has_dualstack_ipv6()
        try:
            found.append(socket.create_server(at, family=family, dualstack_ipv6=both))
        except OSError:
            if not found:
                raise
    return found


def _unix(path: str) -> list[socket.socket]:
    """Return a Unix socket, in place of one that nobody closed."""
    file = Path(path)
    if file.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        file.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
    except OSError:
        made.close()
        raise
    return [made]
