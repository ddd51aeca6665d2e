"""A gRPC relay between Envoy and the service that remembers what was asked and what was decided."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from ext_authz.proto import external_auth_pb2 as pb

CHECK = "/envoy.service.auth.v3.Authorization/Check"
TIMEOUT_SECONDS = 6.0


@dataclass(frozen=True)
class Decided:
    """One Check: what Envoy said of the request, and the answer. `route` is empty for a denial."""

    listener: str
    method: str
    seen: str
    path: str
    route: str = ""
    authority: str = ""
    status: int = 200


class CheckRelay:
    """Listens on a loopback port of its own and passes each Check on; a context manager."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._server = grpc.server(ThreadPoolExecutor(8, thread_name_prefix="relay"))
        self._lock = threading.Lock()
        self._decided: list[Decided] = []
        handler = grpc.unary_unary_rpc_method_handler(self._check)
        methods = {CHECK.rpartition("/")[2]: handler}
        service = CHECK.split("/")[1]
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, methods),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def target(self) -> str:
        """Where Envoy asks."""
        return f"127.0.0.1:{self.port}"

    @property
    def decided(self) -> list[Decided]:
        """Every Check so far, in order of the answers."""
        with self._lock:
            return list(self._decided)

    def _check(self, message: bytes, context: Any) -> bytes:
        ask: Any = self._channel.unary_unary(CHECK)
        try:
            answer: bytes = ask(message, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            context.abort(error.code(), "the service did not answer")  # type: ignore[attr-defined]
            raise
        with self._lock:
            self._decided.append(read(message, answer))
        return answer

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(0.2).wait()
        self._channel.close()


def read(message: bytes, answer: bytes) -> Decided:
    """Take a question and its answer apart."""
    request, response = pb.CheckRequest.FromString(message), pb.CheckResponse.FromString(answer)
    http = request.attributes.request.http
    listener = request.attributes.context_extensions.get("listener", "")
    asked = Decided(listener, http.method, http.host, http.path)
    if response.status.code != 0:
        return Decided(**vars(asked) | {"status": response.denied_response.status.code})
    set_headers = {one.header.key: one.header.value for one in response.ok_response.headers}
    known = {"route": response.dynamic_metadata["route"], "authority": set_headers[":authority"]}
    return Decided(**vars(asked) | known)
