"""What the tests of the sources share: a stand-in Google, and a server that answers raw bytes."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Issuer, SigningKey

EMAIL = "sender@local-project.iam.gserviceaccount.com"
METADATA_MODULE = "google.auth.compute_engine._metadata"


@pytest.fixture(scope="session")
def key() -> SigningKey:
    """Return one key for all tests: making it is the slow part."""
    return SigningKey.generate()


@pytest.fixture(scope="module")
def serving(key: SigningKey) -> Iterator[GoogleStandIn]:
    """Serve a stand-in Google, and let google-auth's metadata client come to it."""
    with GoogleStandIn(Issuer(key=key)) as google, pytest.MonkeyPatch.context() as patch:
        for name, value in google.environment().items():
            patch.setenv(name, value)
        read_metadata_host_anew()
        yield google
    read_metadata_host_anew()


@pytest.fixture
def google(serving: GoogleStandIn) -> Iterator[GoogleStandIn]:
    """Give a stand-in Google without faults and with an empty memory."""
    serving.heal()
    serving.forget()
    serving.metadata.forget_tokens()
    yield serving
    serving.up()


def read_metadata_host_anew() -> None:
    """Import google-auth's metadata client again: it reads GCE_METADATA_HOST only then."""
    if METADATA_MODULE in sys.modules:
        importlib.reload(sys.modules[METADATA_MODULE])


class RawServer:
    """Answers every connection with what `script` sends; keeps the heads of the requests."""

    def __init__(self) -> None:
        self.script: Callable[[socket.socket], None] = lambda connection: None
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def answers(self, *parts: bytes, pause: float = 0.0) -> None:
        """Send these parts, with a pause before each but the first, and close."""

        def script(connection: socket.socket) -> None:
            for number, part in enumerate(parts):
                if number:
                    self._stopping.wait(pause)
                connection.sendall(part)

        self.script = script

    def says(self, status: str, body: bytes = b"", *headers: str) -> None:
        """Answer with a status line such as `200 OK`."""
        lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "", ""]
        self.answers("\r\n".join(lines).encode() + body)

    def stop(self) -> None:
        self._stopping.set()
        # A connection of our own ends the wait in accept().
        with socket.create_connection(("127.0.0.1", self.port)):
            self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._stopping.is_set():
                    return
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                received = connection.recv(4096)
                if not received:
                    return
                head += received
            self.heads.append(head.decode("latin-1"))
            self.script(connection)
        except OSError:
            return  # the client went away, as it should


@pytest.fixture
def server() -> Iterator[RawServer]:
    """Serve raw answers on loopback."""
    raw = RawServer()
    yield raw
    raw.stop()
