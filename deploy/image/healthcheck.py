"""Ends with 0 if the sidecar of this container says at /readyz that it is ready; needs no shell."""

# ruff: noqa: T201, TID251 - a program of its own, which says why

from __future__ import annotations

import os
import socket
import sys

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listening there, asked on loopback
_SECONDS = 3


def main() -> int:
    """Ask where IDTOKEN_SIDECAR_STATUS_ADDRESS and _PORT say that /readyz is."""
    host = os.environ.get("IDTOKEN_SIDECAR_STATUS_ADDRESS") or "127.0.0.1"
    port = os.environ.get("IDTOKEN_SIDECAR_STATUS_PORT") or "9902"
    try:
        with socket.create_connection((_ANY.get(host, host), int(port)), _SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            status_line = connection.makefile("rb").readline(100).decode("latin-1").strip()
    except (OSError, ValueError) as error:
        print(f"/readyz at {host}:{port} does not answer: {error}")
        return 1
    print(f"/readyz at {host}:{port}: {status_line}")
    return 0 if status_line.split(" ")[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
