"""grpc.health.v1: whether we can decide, for those who ask once and those who watch.

Source: grpc/health/v1/health.proto and health-checking.md of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1 import health_pb2 as pb

from ext_authz.rpc import Caller, Methods, RpcError, Status, Stream, Unary

SERVICE_NAME = "grpc.health.v1.Health"
_Answer = pb.HealthCheckResponse


class Health:
    """Knows one state for every service that is named, and for the server as a whole ("")."""

    def __init__(self, service_names: Iterable[str]) -> None:
        self._names = frozenset({"", *service_names})
        self.is_serving = False
        self._changed = asyncio.Event()

    def tell(self, *, serving: bool) -> None:
        """Take a new state, and let those who watch hear of it."""
        self.is_serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def methods(self) -> Methods:
        """Return what the server serves."""
        return {
            f"/{SERVICE_NAME}/Check": Unary(self.check),
            f"/{SERVICE_NAME}/Watch": Stream(self.watch),
        }

    def check(self, message: bytes, caller: Caller) -> bytes:
        """Answer once. Raises RpcError for a service that is not ours."""
        if _service(message) not in self._names:
            raise RpcError(Status.NOT_FOUND, "this server has no such service")
        return self._state()

    async def watch(self, messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        """Answer now and after each change."""
        known = _service(await anext(messages, b"")) in self._names
        if not known:
            yield _Answer(status=_Answer.SERVICE_UNKNOWN).SerializeToString()
        while True:
            changed = self._changed
            if known:
                yield self._state()
            await changed.wait()

    def _state(self) -> bytes:
        status = _Answer.SERVING if self.is_serving else _Answer.NOT_SERVING
        return bytes(_Answer(status=status).SerializeToString())


def _service(message: bytes) -> str:
    return str(pb.HealthCheckRequest.FromString(message).service)
