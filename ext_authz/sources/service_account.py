"""Tokens of a service account whose private key we hold (JSON, raw or base64)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.sources.access_tokens import (
    CLOUD_PLATFORM_SCOPE,
    AccessToken,
    AccessTokens,
    token_of,
)
from ext_authz.sources.endpoints import EndpointGuard, check_universe
from ext_authz.sources.google_errors import advised, translated
from ext_authz.sources.transport import BoundedTransport, RefusedError
from ext_authz.tokens import Fetched


class ServiceAccountSource:
    """Signs an assertion with the key and exchanges it at the key's `token_uri`."""

    kind = "service account key"
    note = ""

    def __init__(self, info: Mapping[str, Any], found: str, guard: EndpointGuard) -> None:
        """Raises SourceError `bad_key_file` when the key cannot be used."""
        from google.oauth2 import service_account

        self.found = found
        _check_key(info, found)
        guard.check(str(info["token_uri"]), f"token_uri of {found}")
        check_universe(info, found, guard)
        try:
            kind: Any = service_account.IDTokenCredentials
            self._base = kind.from_service_account_info(info, target_audience="unused")
            self._base.signer.sign(b"")  # a key that is no RSA key fails only here
        except Exception:  # noqa: BLE001 - cryptography and pyasn1 raise many kinds
            sentence = f"{found}: expected an RSA private key in PEM, got one that cannot be used"
        else:
            self._transport = BoundedTransport("the token endpoint")
            self.access = AccessTokens(self._mint)
            return
        raise SourceError(sentence, code="bad_key_file", permanent=True)

    @property
    def principal(self) -> str:
        """The service account's email."""
        return str(self._base.service_account_email)

    @property
    def member(self) -> str:
        """The service account as IAM policies name it."""
        return f"serviceAccount:{self.principal}"

    def fetch(self, audience: str) -> Fetched:
        """Return a newly minted token. Raises SourceError."""
        credentials = self._base.with_target_audience(audience)
        with advised(_advice), translated(f"the token endpoint of {self.found}"):
            credentials.refresh(self._transport)
            return Fetched(credentials.token)

    def _mint(self) -> AccessToken:
        from google.oauth2 import service_account

        kind: Any = service_account.Credentials
        credentials = kind(
            self._base.signer,
            self._base.service_account_email,
            self._base._token_uri,
            scopes=[CLOUD_PLATFORM_SCOPE],
        )
        with advised(_advice), translated(f"the token endpoint of {self.found}"):
            credentials.refresh(self._transport)
            return token_of(credentials)


def _advice(error: RefusedError) -> tuple[str, str]:
    if error.status == 400 and "invalid_grant" in error.words:
        return (
            "the key may be deleted or disabled, or this machine's clock wrong: compare with "
            "`gcloud iam service-accounts keys list`",
            "",
        )
    return "", ""


def _check_key(info: Mapping[str, Any], found: str) -> None:
    if info.get("type") != "service_account":
        raise _bad(found, "a service account key (type service_account)", info.get("type"))
    for name in ("client_email", "private_key", "token_uri"):
        if not isinstance(info.get(name), str) or not info[name]:
            raise _bad(found, f"a text under {name}", None)


def _bad(found: str, expected: str, got: object) -> SourceError:
    shown = f", got type {got}" if isinstance(got, str) and len(got) < 60 else ""
    return SourceError(f"{found}: expected {expected}{shown}", code="bad_key_file", permanent=True)
