"""One Envoy's secret discovery stream, as interception's tests speak it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

from cryptography import x509

from ext_authz.local_ca import Authority
from ext_authz.policy import Policy
from ext_authz.rpc import Caller
from ext_authz.rules import Rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # as in envoy_api
    from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret
    from envoy_data_plane.envoy.service.discovery.v3 import (
        DeltaDiscoveryRequest,
        DeltaDiscoveryResponse,
    )
    from envoy_data_plane.google.rpc import Status

    from ext_authz import interception

__all__ = ["DeltaDiscoveryResponse", "Status", "interception"]
SECONDS = 10
POLICY = Policy((Rule("*.run.app", "default"), Rule("odd.example.com:8443", "c", audience=None)))


class Stream:
    """One Envoy's stream; `ask` sends a request and returns the answer to it."""

    def __init__(
        self, authority: Authority, policy: Policy = POLICY, pause_seconds: float = 3600
    ) -> None:
        self.policy = policy
        service = interception.SecretService
        self.service = service(authority, lambda: self.policy, pause_seconds)
        self.connect()

    def connect(self) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers = self.service.stream(self._sent(), Caller())

    async def _sent(self) -> AsyncIterator[bytes]:
        while message := await self.requests.get():
            yield message

    def tell(self, **fields: Any) -> None:
        request = DeltaDiscoveryRequest(type_url=interception.SECRET_TYPE, **fields)
        self.requests.put_nowait(bytes(request))

    async def ask(self, *names: str, **fields: Any) -> DeltaDiscoveryResponse:
        self.tell(resource_names_subscribe=list(names), **fields)
        return await self.next()

    async def next(self) -> DeltaDiscoveryResponse:
        """Return the next answer, whatever it is to."""
        async with asyncio.timeout(SECONDS):
            return DeltaDiscoveryResponse.parse(await anext(self.answers))

    async def rest(self) -> list[bytes]:
        """End the stream and return what else it answers."""
        self.requests.put_nowait(b"")
        async with asyncio.timeout(SECONDS):
            return [answer async for answer in self.answers]


def names_of(answer: DeltaDiscoveryResponse) -> list[str]:
    return [resource.name for resource in answer.resources]


def leaf_of(answer: DeltaDiscoveryResponse) -> tuple[str, x509.Certificate]:
    """Return the secret's name and its leaf certificate; asserts the key is there."""
    [resource] = answer.resources
    assert resource.resource is not None
    assert resource.resource.type_url == interception.SECRET_TYPE
    secret = Secret.parse(resource.resource.value)
    assert secret.tls_certificate is not None
    assert secret.tls_certificate.private_key is not None
    assert b"PRIVATE KEY" in secret.tls_certificate.private_key.inline_bytes
    chain = secret.tls_certificate.certificate_chain
    assert chain is not None
    return secret.name, x509.load_pem_x509_certificates(chain.inline_bytes)[0]


def dns_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return list(found.value.get_values_for_type(x509.DNSName))
