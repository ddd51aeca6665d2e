"""gRPC server reflection, imported when somebody first asks for it: nobody does in production."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ext_authz.rpc import Caller, Methods, Stream

SERVICE_NAME = "grpc.reflection.v1alpha.ServerReflection"


class LazyReflection:
    """Stands in for the reflection service of grpcio-reflection."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._service_names = (*service_names, SERVICE_NAME)

    def methods(self) -> Methods:
        """Return what the server serves."""
        return {f"/{SERVICE_NAME}/ServerReflectionInfo": Stream(self.stream)}

    async def stream(self, messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        """Answer what grpcurl and others ask for."""
        from grpc_reflection.v1alpha import reflection, reflection_pb2

        requests = (
            reflection_pb2.ServerReflectionRequest.FromString(each) async for each in messages
        )
        servicer: Any = reflection.aio.ReflectionServicer(self._service_names)
        async for answer in servicer.ServerReflectionInfo(requests, None):
            yield answer.SerializeToString()
