"""gRPC server reflection, imported when somebody first asks for it: nobody does in production."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

PREFIX = "/grpc.reflection."


class LazyReflection(grpc.GenericRpcHandler):
    """Stands in for the reflection service of grpcio-reflection."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._service_names = service_names
        self._handlers: list[grpc.GenericRpcHandler] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler of a method, as grpc asks for it."""
        if not details.method.startswith(PREFIX):
            return None
        if not self._handlers:
            from grpc_reflection.v1alpha import reflection

            names = (*self._service_names, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self)
        found = (handler.service(details) for handler in self._handlers)
        return next((handler for handler in found if handler is not None), None)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Take what `enable_server_reflection` would give a server."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, name: str, handlers: object) -> None:
        """Ignore the second way in which generated code registers the same methods."""
