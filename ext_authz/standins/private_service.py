"""Runs the look-alike of a private Cloud Run service over TLS with ALPN h2 and http/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import weakref
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ext_authz.standins.certificates import LeafCertificate
from ext_authz.standins.guard import Guard
from ext_authz.standins.issuer import Issuer
from ext_authz.standins.private_app import App, GuardedApp, ReceivedRequest, hello_app
from ext_authz.standins.verifier import TokenVerifier

if TYPE_CHECKING:
    from hypercorn.config import Config

_MAX_HEADERS_BYTES = 1 << 20  # far above what the tests send, so that Envoy's limits show
_GRACE_SECONDS = 0.3
_CUT_SECONDS = 0.01  # lets the event loop see that connections ended
_JOIN_SECONDS = 10
_KEPT_REQUESTS = 100_000  # a load test must not grow without bound
_BACKLOG = 1024


class MissingExtraError(RuntimeError):
    """Raised when a package of the extra `idtoken-sidecar[envoy]` is not installed."""


class PrivateService:
    """Serves `app` behind a guard that verifies every token; a context manager.

    `keys` is the issuer or a JWKS URL; `audiences` every accepted `aud`; `invokers` who has the
    invoker role (None: anybody whose token verifies). `tls=None` serves cleartext HTTP/1.1 and
    h2c. `.requests` records every request, refused ones too; `.guard` may be changed while it
    serves. A gRPC call that is refused gets HTTP 401 or 403 here, as from Google's front end.
    """

    def __init__(
        self,
        keys: Issuer | str,
        audiences: Collection[str],
        tls: LeafCertificate | None,
        *,
        invokers: Collection[str] | None = None,
        app: App = hello_app,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.guard = Guard(TokenVerifier(keys), audiences, invokers)
        self.host, self.port = host, port
        self._records: deque[ReceivedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._tls = tls
        self._app = GuardedApp(self.guard, app, self._records.append)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Base URL by address; the certificate's names are what clients must verify."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """Every request so far, oldest first; of very many the last 100,000."""
        return tuple(self._records)

    def forget(self) -> None:
        """Drop the recorded requests."""
        self._records.clear()

    def start(self) -> Self:
        """Listen and serve in a thread; returns once connections are accepted.

        Raises MissingExtraError without hypercorn, ssl.SSLError or OSError for bad files and
        ports.
        """
        config = _configuration(self._tls)
        config.create_ssl_context()  # a bad file fails here and not inside the thread
        listener = _Listener(self.host, self.port)
        self.port = listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(config, listener, started),
            name=f"private-{self.port}",
            daemon=True,
        )
        self._thread.start()
        started.wait(_JOIN_SECONDS)
        return self

    def stop(self) -> None:
        """Stop serving; open connections are cut after a short grace. Idempotent."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_JOIN_SECONDS)
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, config: Config, listener: _Listener, started: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            # Clients that break off a handshake or a stream are part of the tests.
            self._loop.set_exception_handler(lambda loop, context: None)
            self._stop = asyncio.Event()
            started.set()
            runner.run(self._serve(config, listener, self._stop))

    async def _serve(self, config: Config, listener: _Listener, stop: asyncio.Event) -> None:
        from hypercorn.asyncio import serve
        from hypercorn.config import Sockets

        sockets = Sockets([listener], [], []) if self._tls else Sockets([], [listener], [])
        config.create_sockets = lambda: sockets  # type: ignore[method-assign]

        app: Any = self._app  # hypercorn's own types name each ASGI message
        serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait, mode="asgi"))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.wait({serving}, timeout=_GRACE_SECONDS)
        # hypercorn would wait 30 s more for each client's TLS close_notify.
        listener.cut_connections()
        await asyncio.wait({serving}, timeout=2 * _GRACE_SECONDS)
        await asyncio.sleep(_CUT_SECONDS)
        if serving.done():
            serving.result()


class _Listener(socket.socket):
    """A listening socket that remembers its connections, to cut them at the end."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sets TCP_NODELAY only where the protocol is named.
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.bind((host, port))
            self.listen(_BACKLOG)
        except OSError:
            self.close()
            raise
        self.settimeout(0)  # asyncio wants it non-blocking

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        self._accepted.add(connection)
        return connection, address

    def cut_connections(self) -> None:
        """End what is still connected, both ways."""
        for connection in list(self._accepted):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _configuration(tls: LeafCertificate | None) -> Config:
    try:
        from hypercorn.config import Config
    except ImportError:
        raise MissingExtraError(
            "The local private service needs hypercorn: install idtoken-sidecar[envoy]."
        ) from None
    config = Config()
    if tls is not None:
        config.certfile, config.keyfile = str(tls.certificate), str(tls.key)
    config.backlog = _BACKLOG
    config.graceful_timeout = _GRACE_SECONDS
    config.keep_alive_timeout = 300
    config.keep_alive_max_requests = 1_000_000
    config.h2_max_concurrent_streams = 1000
    config.h11_max_incomplete_size = _MAX_HEADERS_BYTES
    config.h2_max_header_list_size = _MAX_HEADERS_BYTES
    config.websocket_max_message_size = 1 << 30
    config.include_server_header = False
    config.accesslog = None
    silent = logging.Logger("ext_authz.standins.hypercorn")
    silent.addHandler(logging.NullHandler())
    config.errorlog = silent
    return config
