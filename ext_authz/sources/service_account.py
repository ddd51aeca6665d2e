"""Tokens of a service account whose private key we hold (JSON, raw or base64)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.google_errors import translated
from ext_authz.sources.transport import BoundedTransport
from ext_authz.tokens import Fetched


class ServiceAccountSource:
    """Signs an assertion with the key and exchanges it at the key's `token_uri`."""

    kind = "service account key"

    def __init__(self, info: Mapping[str, Any], found: str, guard: EndpointGuard) -> None:
        """Raises SourceError `bad_key_file` when the key cannot be used."""
        from google.oauth2 import service_account

        self.found = found
        _check_key(info, found)
        guard.check(str(info["token_uri"]), f"token_uri of {found}")
        universe = info.get("universe_domain") or "googleapis.com"
        if universe != "googleapis.com":
            # google-auth would send a signed assertion to iamcredentials.<universe_domain>.
            guard.check(f"https://iamcredentials.{universe}/", f"universe_domain of {found}")
        try:
            kind: Any = service_account.IDTokenCredentials
            self._base = kind.from_service_account_info(info, target_audience="unused")
        except Exception:  # noqa: BLE001 - cryptography and pyasn1 raise many kinds
            sentence = f"{found}: expected a private key in PEM, got one that cannot be read"
        else:
            self._transport = BoundedTransport("the token endpoint")
            return
        raise SourceError(sentence, code="bad_key_file", permanent=True)

    @property
    def principal(self) -> str:
        """The service account's email."""
        return str(self._base.service_account_email)

    def fetch(self, audience: str) -> Fetched:
        """Return a newly minted token. Raises SourceError."""
        credentials = self._base.with_target_audience(audience)
        with translated(f"the token endpoint of {self.found}"):
            credentials.refresh(self._transport)
            return Fetched(credentials.token)


def _check_key(info: Mapping[str, Any], found: str) -> None:
    if info.get("type") != "service_account":
        raise _bad(found, "a service account key (type service_account)", info.get("type"))
    for name in ("client_email", "private_key", "token_uri"):
        if not isinstance(info.get(name), str) or not info[name]:
            raise _bad(found, f"a text under {name}", None)


def _bad(found: str, expected: str, got: object) -> SourceError:
    shown = f", got type {got}" if isinstance(got, str) and len(got) < 60 else ""
    return SourceError(f"{found}: expected {expected}{shown}", code="bad_key_file", permanent=True)
