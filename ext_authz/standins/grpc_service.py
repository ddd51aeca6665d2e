"""The look-alike of a private Cloud Run service for gRPC: an echo behind the same guard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from ext_authz.standins.certificates import LeafCertificate
from ext_authz.standins.guard import INVALID_TOKEN_CHALLENGE, Admitted, Guard, Refused
from ext_authz.standins.issuer import Claims, Issuer
from ext_authz.standins.verifier import TokenVerifier

SERVICE = "idtoken.Echo"
CALLER_EMAIL = "caller-email"  # trailing metadata of every admitted call
ECHO_PREFIX = "x-echo-"  # request metadata with this prefix comes back as initial metadata
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_GRACE_SECONDS = 0.2
_KEPT_CALLS = 100_000
_MAX_CALLS = 64  # served at once: each holds a thread
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the same port must be an error
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
)


@dataclass(frozen=True, slots=True)
class ReceivedCall:
    """One call as it arrived; `refusal` is the guard's reason, None when admitted."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...] = field(repr=False)
    refusal: str | None
    claims: Claims | None = field(repr=False)


class GrpcService:
    """Serves idtoken.Echo (Unary, ServerStream, ClientStream, Bidi) on raw bytes over TLS.

    The arguments are those of PrivateService. Further `handlers` are guarded alike. Refused
    calls end as a gRPC client sees Google's HTTP answers: 401 as UNAUTHENTICATED, 403 as
    PERMISSION_DENIED (gRPC, http-grpc-status-mapping.md); PrivateService sends the HTTP status.
    """

    def __init__(
        self,
        keys: Issuer | str,
        audiences: Collection[str],
        tls: LeafCertificate | None,
        *,
        invokers: Collection[str] | None = None,
        handlers: Collection[Any] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.guard = Guard(TokenVerifier(keys), audiences, invokers)
        self.host, self.port = host, port
        self._tls, self._handlers = tls, tuple(handlers)
        self._calls: deque[ReceivedCall] = deque(maxlen=_KEPT_CALLS)
        self._server: Any = None

    @property
    def target(self) -> str:
        """host:port, as grpc channels take it."""
        return f"{self.host}:{self.port}"

    @property
    def calls(self) -> tuple[ReceivedCall, ...]:
        """Every call so far, oldest first; of very many the last 100,000."""
        return tuple(self._calls)

    def start(self) -> Self:
        """Listen and serve. Raises OSError or RuntimeError when the port cannot be had."""
        pool = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="grpc-standin")
        interceptor = _GuardInterceptor(self.guard, self._calls.append)
        server = grpc.server(pool, interceptors=[interceptor], options=_OPTIONS)
        server.add_generic_rpc_handlers((echo_handlers(), *self._handlers))
        if self._tls is None:
            self.port = server.add_insecure_port(self.target)
        else:
            pair = (self._tls.key.read_bytes(), self._tls.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
            self.port = server.add_secure_port(self.target, credentials)
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Stop serving; open calls are cut after a short grace. Idempotent."""
        if self._server is not None:
            self._server.stop(_GRACE_SECONDS).wait()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class _GuardInterceptor(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Refuses calls before their handler runs, and tells the caller who it is."""

    def __init__(self, guard: Guard, record: Callable[[ReceivedCall], None]) -> None:
        self._guard, self._record = guard, record

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of the call, or one that refuses it."""
        metadata = tuple((str(key), value) for key, value in details.invocation_metadata)
        verdict = self._guard.check([(k, v) for k, v in metadata if isinstance(v, str)])
        if isinstance(verdict, Refused):
            self._record(ReceivedCall(details.method, metadata, verdict.reason, None))
            return _refusing_handler(verdict)
        self._record(ReceivedCall(details.method, metadata, None, verdict.claims))
        handler = continuation(details)
        return None if handler is None else _telling_caller(handler, verdict)


def _refusing_handler(refused: Refused) -> Any:
    def refuse(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        del requests
        if refused.status == 401:
            context.set_trailing_metadata((("www-authenticate", INVALID_TOKEN_CHALLENGE),))
            code = grpc.StatusCode.UNAUTHENTICATED
        else:
            code = grpc.StatusCode.PERMISSION_DENIED
        context.abort(code, f"Received http2 header with status: {refused.status}")
        yield b""  # never reached; makes this a generator

    # Bytes in, bytes out, streaming both ways: on the wire this refuses every kind of call.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _telling_caller(handler: Any, admitted: Admitted) -> Any:
    email = str(admitted.claims.get("email", admitted.claims.get("sub")))

    def told(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def run(request: Any, context: Any) -> Any:
            context.set_trailing_metadata(((CALLER_EMAIL, email),))
            return behaviour(request, context)

        return run

    present = {kind: getattr(handler, kind) for kind in _KINDS}
    return handler._replace(**{kind: told(run) for kind, run in present.items() if run})


def echo_handlers() -> Any:
    """Return the generic handlers of idtoken.Echo.

    ServerStream repeats its message `x-count` times (3), every `x-interval-seconds` (0);
    ClientStream answers all messages joined; Bidi answers each as it comes.
    """
    methods: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(_server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(_client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(_bidi),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _metadata(context: Any) -> dict[str, Any]:
    """Return the call's metadata; echo what asks for it as initial metadata."""
    found = dict(context.invocation_metadata())
    echoed = [(key, value) for key, value in found.items() if key.startswith(ECHO_PREFIX)]
    context.send_initial_metadata(tuple(echoed))
    return found


def _unary(message: bytes, context: Any) -> bytes:
    _metadata(context)
    return message


def _server_stream(message: bytes, context: Any) -> Iterator[bytes]:
    metadata = _metadata(context)
    interval = float(metadata.get("x-interval-seconds", 0))
    for _ in range(int(metadata.get("x-count", 3))):
        yield message
        if interval:
            time.sleep(interval)


def _client_stream(messages: Iterator[bytes], context: Any) -> bytes:
    _metadata(context)
    return b"".join(messages)


def _bidi(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
    _metadata(context)
    yield from messages
