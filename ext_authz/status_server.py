"""/healthz, /readyz and /metrics over plain HTTP, on a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from ext_authz.errors import StartError


class Page(NamedTuple):
    """What a path answers: status, content type, body."""

    status: int
    content_type: str
    body: bytes


Pages = dict[str, Callable[[], Page]]


def text_page(status: int, text: str) -> Page:
    """Return a page of plain text."""
    return Page(status, "text/plain; charset=utf-8", f"{text}\n".encode())


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    timeout = 5  # a client that dribbles frees its thread after this many seconds
    server_version = "idtoken-sidecar"
    sys_version = ""

    def do_GET(self) -> None:  # the name that http.server calls
        make = self.pages.get(self.path.partition("?")[0])
        page = make() if make else text_page(404, "expected /healthz, /readyz or /metrics")
        self.send_response(page.status)
        self.send_header("content-type", page.content_type)
        self.send_header("content-length", str(len(page.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - likewise

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log nothing: probes come every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent when a client goes away."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class StatusServer:
    """Serves `pages` until `stop`. Raises StartError if the address is taken."""

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        handler = type("Handler", (_Handler,), {"pages": pages})
        kind = _ServerV6 if ":" in host else _Server
        try:
            self._server = kind((host, port), handler)
        except OSError as error:
            raise StartError(
                f"--status-port: {host}:{port} cannot be listened on: {error.strerror} "
                "(the address is --status-address)"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="status", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
