"""What our own Envoy tells and asks beside Check: a refused token, a redirect to rewrite.

Called by envoy/credential_cache.lua, which can send text but not encode messages: the payload of
each gRPC message is UTF-8 text.
"""

from __future__ import annotations

from typing import Any

import grpc

from ext_authz import log
from ext_authz.decisions import Listener
from ext_authz.policy import Policy
from ext_authz.redirects import rewritten
from ext_authz.token_cache import TokenCache

SERVICE_NAME = "idtoken_sidecar.v1.Sidecar"


class SidecarService:
    """Serves TokenRefused and RewriteRedirect; nothing that it is told can reveal a token."""

    def __init__(self, policy: Policy, tokens: TokenCache) -> None:
        self._policy = policy
        self._tokens = tokens

    def use(self, policy: Policy) -> None:
        """Rewrite by another policy from now on."""
        self._policy = policy

    async def token_refused(self, payload: bytes, context: Any = None) -> bytes:
        """Drop the token with this fingerprint: a destination answered 401 `invalid_token`."""
        key = self._tokens.refuse(payload.decode("utf-8", "replace"))
        if key is not None:
            log.warning("token refused", credential=key.credential, audience=key.audience)
        return b""

    async def rewrite_redirect(self, payload: bytes, context: Any = None) -> bytes:
        """Answer `LISTENER\\nCLIENT_AUTHORITY\\nURL` with the URL to use, or with nothing."""
        listener, _, rest = payload.decode("utf-8", "replace").partition("\n")
        client_authority, _, url = rest.partition("\n")
        try:
            found = rewritten(Listener(listener), client_authority, url, self._policy)
        except ValueError:
            return b""
        return (found or "").encode()

    def handler(self, guard: Any = None) -> grpc.GenericRpcHandler:
        """Return what a grpc.aio server needs to serve both; `guard` may limit who calls."""
        named = {"TokenRefused": self.token_refused, "RewriteRedirect": self.rewrite_redirect}
        methods: Any = {
            name: grpc.unary_unary_rpc_method_handler(guard(method) if guard else method)
            for name, method in named.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)
