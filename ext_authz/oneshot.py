"""Fetches one token without a server, for `idtoken-sidecar token`."""

from __future__ import annotations

from ext_authz.clock import system_clock
from ext_authz.errors import SidecarError
from ext_authz.explain import audience_and_credential
from ext_authz.settings import Settings
from ext_authz.sources.build import build_source
from ext_authz.tokens import Token, accept


def fetch_token(target: str, settings: Settings) -> Token:
    """Return a new token for a URL or an audience. Raises SidecarError saying why there is none."""
    credential, audience = audience_and_credential(target, settings)
    named = settings.credentials[credential]
    try:
        source = build_source(named.credential, settings)
        return accept(source.fetch(audience), audience, system_clock(), 0.5)
    except SidecarError as error:
        error.message = f"credential {credential!r} has no token for {target}: {error.message}"
        raise
