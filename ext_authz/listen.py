"""Reads `--listen` and other addresses, and refuses those that would hand tokens to strangers."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from ext_authz.errors import StartError, UsageError, printable

MAX_SOCKET_PATH = 107  # sun_path of unix(7), less its NUL


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens: `host` and `port`, or the `path` of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Say whether only this machine (or this pod) can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str, flag: str) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT`, `PORT` or `unix:PATH`. Raises UsageError naming `flag`."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Address(path=text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
        raise UsageError(f"{flag}: expected HOST:PORT or unix:PATH, got {printable(text)}")
    return Address(host, int(port))


def require_local(address: Address, *, insecure: bool, has_tls: bool = False) -> None:
    """Raise UsageError if strangers could reach the service and ask it for tokens."""
    if not address.is_local and not insecure and not has_tls:
        raise UsageError(
            f"--listen {address}: whoever reaches this address can ask for tokens; expected a "
            "loopback address or unix:PATH, mTLS (--tls-certificate, --tls-key, --tls-client-ca), "
            "or --insecure-listen where the network itself keeps "
            "others out"
        )


def require_free(host: str, port: int, flag: str) -> None:
    """Raise StartError if a fixed TCP port is taken, or an address is not of this machine.

    Envoy listens with SO_REUSEPORT: two sidecars would silently share one port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # SO_REUSEADDR lets a bind pass where somebody listens with SO_REUSEPORT; listen tells.
            probe.listen(1)
        except OSError as error:
            raise StartError(
                f"{flag}: {host}:{port} cannot be listened on: {error.strerror}"
            ) from None


def why_no_socket(path: Path) -> str:
    """Say why no Unix socket can be made at a path, plainer than the error itself."""
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        return f"expected a path of at most {MAX_SOCKET_PATH} bytes"
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"there is no directory {path.parent}"
    if not os.access(path.parent, os.W_OK):
        return f"{path.parent} cannot be written to"
    return "something else stands there"
