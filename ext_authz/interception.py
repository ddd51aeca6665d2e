"""The secret discovery service of intercept_https: leaf certificates on demand, for our names.

Envoy asks over one delta ADS stream (xDS protocol, "Incremental xDS") when a handshake inside a
CONNECT brings a name that it has no certificate for. A name without a rule is answered as removed,
which fails the handshake at once.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret, TlsCertificate
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)
from envoy_data_plane.google.protobuf import Any as AnyMessage

from ext_authz import log
from ext_authz.decisions import Inject, Keep, Listener, Request
from ext_authz.local_ca import Authority, Leaf
from ext_authz.policy import Policy, decide
from ext_authz.rpc import Caller, Methods, Stream

SERVICE_NAME = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
RENEW_PERIOD_SECONDS = 3600.0  # Envoy never asks again for a name that it holds: we look
MAX_NAMES = 1000  # kept in Envoy; beyond it the one asked for longest ago is taken back


class SecretService:
    """Serves DeltaAggregatedResources. `policy` returns the rules of the moment."""

    def __init__(
        self,
        authority: Authority,
        policy: Callable[[], Policy],
        pause_seconds: float = RENEW_PERIOD_SECONDS,
    ) -> None:
        self._authority = authority
        self._pause_seconds = pause_seconds
        self._policy = policy
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()

    async def stream(self, requests: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        """Answer each request of one Envoy for as long as it stays connected."""
        given: OrderedDict[str, None] = OrderedDict()
        number = 0
        async for message in _or_pause(requests, self._pause_seconds):
            if message is None:
                if due := [name for name in given if self._leaf_is_old(name)]:
                    number += 1
                    yield self._answer(due, given, str(number))
                continue
            request = DeltaDiscoveryRequest.parse(message)
            if request.error_detail is not None:
                log.error("Envoy refused a certificate of ours", code="certificate_refused")
            for name in request.resource_names_unsubscribe:
                given.pop(name, None)
            if request.resource_names_subscribe:
                number += 1
                yield self._answer(request.resource_names_subscribe, given, str(number))

    def _answer(self, names: list[str], given: OrderedDict[str, None], nonce: str) -> bytes:
        known = [name for name in names if self._is_ours(name)]
        refused = [name for name in names if name not in known]
        for name in refused:
            log.info("no certificate for a name without a rule", destination=name[:253])
        for name in known:
            given[name] = None
            given.move_to_end(name)
        while len(given) > MAX_NAMES:
            refused.append(given.popitem(last=False)[0])
        return bytes(
            DeltaDiscoveryResponse(
                resources=[self._resource(name, nonce) for name in known],
                removed_resources=refused,
                type_url=SECRET_TYPE,
                nonce=nonce,
            )
        )

    def _is_ours(self, name: str) -> bool:
        """Judge a name as a request to it would be; the port of the CONNECT is not known here."""
        policy = self._policy()
        ports = {443, *(rule.port for rule in policy.rules)}
        requests = (Request(Listener.INTERCEPTED, f"{name}:{port}") for port in ports)
        return any(isinstance(decide(request, policy), Inject | Keep) for request in requests)

    def _resource(self, name: str, version: str) -> Resource:
        leaf = self._leaf(name.lower())
        certificate = TlsCertificate(
            certificate_chain=DataSource(inline_bytes=leaf.chain),
            private_key=DataSource(inline_bytes=leaf.key),
        )
        # The name is echoed as asked: SNI keeps its case on the way here.
        secret = Secret(name=name, tls_certificate=certificate)
        return Resource(name=name, version=version, resource=AnyMessage.pack(secret))

    def _leaf_is_old(self, name: str) -> bool:
        leaf = self._leaves.get(name.lower())
        return leaf is None or leaf.renew_at <= datetime.datetime.now(datetime.UTC)

    def _leaf(self, name: str) -> Leaf:
        leaf = self._leaves.get(name)
        if leaf is None or self._leaf_is_old(name):
            leaf = self._leaves[name] = self._authority.mint(name)
        self._leaves.move_to_end(name)
        if len(self._leaves) > MAX_NAMES:
            self._leaves.popitem(last=False)
        return leaf

    def methods(self) -> Methods:
        """Return what the server serves."""
        return {f"/{SERVICE_NAME}/DeltaAggregatedResources": Stream(self.stream)}


async def _or_pause(
    messages: AsyncIterator[bytes], pause_seconds: float
) -> AsyncIterator[bytes | None]:
    """Pass messages on, and None whenever none came for so long."""
    iterator = aiter(messages)
    while True:
        waiting = asyncio.create_task(_next(iterator))
        try:
            while not (await asyncio.wait({waiting}, timeout=pause_seconds))[0]:
                yield None
        finally:
            waiting.cancel()  # the stream may end while we wait
        message = waiting.result()
        if message is None:
            return
        yield message


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    """Return the next message, or None after the last."""
    return await anext(iterator, None)
