"""What our own Envoy tells and asks beside Check: a refused token, a redirect to rewrite.

Called by envoy/credential_cache.lua, which can send text but not encode messages: the payload of
each gRPC message is UTF-8 text.
"""

from __future__ import annotations

from collections.abc import Callable

from ext_authz import log
from ext_authz.decisions import Listener
from ext_authz.policy import Policy
from ext_authz.redirects import rewritten
from ext_authz.rpc import Caller, Methods, Unary, UnaryCall
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

    def token_refused(self, payload: bytes, caller: Caller) -> bytes:
        """Drop the token with this fingerprint: a destination answered 401 `invalid_token`."""
        key = self._tokens.refuse(payload.decode("utf-8", "replace"))
        if key is not None:
            log.warning("token refused", credential=key.credential, audience=key.audience)
        return b""

    def rewrite_redirect(self, payload: bytes, caller: Caller) -> bytes:
        """Answer `LISTENER\\nCLIENT_AUTHORITY\\nURL` with the URL to use, or with nothing."""
        listener, _, rest = payload.decode("utf-8", "replace").partition("\n")
        client_authority, _, url = rest.partition("\n")
        try:
            found = rewritten(Listener(listener), client_authority, url, self._policy)
        except ValueError:
            return b""
        return (found or "").encode()

    def methods(self, guard: Callable[[UnaryCall], UnaryCall]) -> Methods:
        """Return what the server serves; `guard` may limit who calls."""
        return {
            f"/{SERVICE_NAME}/TokenRefused": Unary(guard(self.token_refused)),
            f"/{SERVICE_NAME}/RewriteRedirect": Unary(guard(self.rewrite_redirect)),
        }
