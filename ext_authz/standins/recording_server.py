"""A threaded loopback HTTP/1.1 server that records each request and misbehaves on demand."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from ext_authz.standins.faults import Fault
from ext_authz.standins.messages import Request, Response, first_values
from ext_authz.standins.recorder import Recorder

_ACCEPT_PAUSE_SECONDS = 0.05  # after a failed accept, such as too many open files
_MAX_BODY_BYTES = 1 << 20

Answer = Callable[[Request, Fault], Response]


class RecordingServer(Recorder):
    """Serves `answer` on `host`:`port`; `classify` names the endpoint of a method and path.

    A context manager. Port 0 picks a free port, kept for the life of the object, also while
    `down()`. The clock is that of the Date header.
    """

    def __init__(
        self,
        answer: Answer,
        classify: Callable[[str, str], str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.answer, self.classify, self.clock = answer, classify, clock
        self.host, self.port = host, port
        self.stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._reserved: socket.socket | None = None

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> Self:
        """Listen; returns once connections are accepted. Does nothing when already serving."""
        if self._server is not None:
            return self
        self.stopping.clear()
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        self._thread = threading.Thread(
            target=self._server.accept_until_stopped,
            name=f"standin-{self.port}",
            daemon=True,
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection, and give the port back."""
        self._close()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def down(self) -> None:
        """Refuse connections from now on; `up()` serves again on the same port."""
        if self._server is None:
            return
        self._close()
        # Bound but not listening: the kernel refuses connections and nobody takes the port.
        self._reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((self.host, self.port))

    def up(self) -> None:
        """Serve again after `down()`."""
        self.start()

    def _close(self) -> None:
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        self.stopping.set()
        # A connection of our own ends the wait in accept(), without polling.
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port)):
            thread.join()
        server.close_connections()
        server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # cold-start floods of tests must not be lost to the backlog

    def __init__(self, owner: RecordingServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__((owner.host, owner.port), _Handler)

    def accept_until_stopped(self) -> None:
        """Hand each connection to a thread of its own; ends at the first one after the stop."""
        stopping = self.owner.stopping
        while not stopping.is_set():
            try:
                connection, address = self.get_request()
            except OSError:
                stopping.wait(_ACCEPT_PAUSE_SECONDS)
                continue
            if stopping.is_set():
                connection.close()
            else:
                self.process_request(connection, address)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Cut what is still connected; the handler threads then end by themselves."""
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that go away are part of the tests, and bodies hold tokens."""

    def server_bind(self) -> None:
        # Not HTTPServer's: that one looks the host's name up in DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.owner.host, self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536  # headers and body leave in one segment
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def _respond(self) -> None:
        """Read, record, misbehave or answer."""
        owner = self.server.owner
        request = self._read()
        fault = owner.record(request)
        if fault.stall_seconds and owner.stopping.wait(fault.stall_seconds):
            self.close_connection = True
            return
        if fault.breaks:
            self._break(fault)
            return
        if fault.status is None:
            self._send(owner.answer(request, fault), fault)
        else:
            self._send(Response(fault.status, fault.body or b"", fault.headers), fault)

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_<METHOD>; every method goes one way.
        if name.startswith("do_"):
            return self._respond
        raise AttributeError(name)

    def _read(self) -> Request:
        split = urlsplit(self.path)
        length = min(int(self.headers.get("Content-Length") or 0), _MAX_BODY_BYTES)
        return Request(
            kind=self.server.owner.classify(self.command, split.path),
            method=self.command,
            path=split.path,
            query=first_values(split.query),
            headers=tuple(self.headers.items()),
            body=self.rfile.read(length),
            time=time.monotonic(),
        )

    def _send(self, response: Response, fault: Fault) -> None:
        self.send_response_only(response.status)
        date = email.utils.formatdate(self.server.owner.clock(), usegmt=True)
        for name, value in (("Date", date), *response.headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if not fault.trickle_seconds:
            self.wfile.write(response.body)
            return
        for byte in response.body:
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()
            if self.server.owner.stopping.wait(fault.trickle_seconds):
                break

    def _break(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.breaks == "reset":
            # SO_LINGER with zero seconds turns the close into a RST.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        """Log nothing: request lines and bodies can hold tokens."""
