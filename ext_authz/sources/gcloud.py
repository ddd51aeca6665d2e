"""Tokens of whoever is logged in with the gcloud command, by running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.sources.access_tokens import AccessToken, AccessTokens
from ext_authz.sources.command import output_of
from ext_authz.sources.user import GCLOUD_CLIENT_ID, audience_note
from ext_authz.tokens import Fetched

COMMAND_SECONDS = 10.0  # gcloud takes one to two; a request gets its 503 and the next the token
_ACCESS_TOKEN_LIFE_SECONDS = 240.0  # gcloud hands out cached ones that live for some minutes more
_SERVICE_ACCOUNT = ".gserviceaccount.com"


class GcloudSource:
    """Runs `gcloud auth print-identity-token`, with --audiences where gcloud allows it."""

    kind = "gcloud login"
    note = "for a service account the audience is the rule's; " + audience_note(GCLOUD_CLIENT_ID)
    member = "user:YOUR_EMAIL"

    def __init__(self, program: Path | None) -> None:
        """Raises SourceError `gcloud_missing`."""
        if program is None:
            raise SourceError(
                "no gcloud on PATH; install the Google Cloud CLI or name another credential",
                code="gcloud_missing",
                permanent=True,
            )
        self._program = program
        self.found = str(program)
        self.access = AccessTokens(self._mint)

    def fetch(self, audience: str) -> Fetched:
        """Return a token: for `audience` if a service account is active. Raises SourceError."""
        account = self._account()
        if account.endswith(_SERVICE_ACCOUNT):
            text = self._printed("print-identity-token", account, f"--audiences={audience}")
            return Fetched(text, mints_anew=False)
        text = self._printed("print-identity-token", account)
        return Fetched(text, mints_anew=False, audience=GCLOUD_CLIENT_ID)

    def _mint(self) -> AccessToken:
        text = self._printed("print-access-token", self._account())
        return AccessToken(text, _ACCESS_TOKEN_LIFE_SECONDS)

    def _account(self) -> str:
        """Return who the tokens are for: the impersonated account if one is configured."""
        output = output_of(
            self._program, ("config", "list", "--format=json", "--quiet"), COMMAND_SECONDS
        )
        properties = _json_object(output)
        account = _text(properties, "auth", "impersonate_service_account")
        account = account or _text(properties, "core", "account")
        if not account:
            raise SourceError(
                f"{self.found} has no active account; log in with `gcloud auth login`",
                code="gcloud_not_logged_in",
                permanent=True,
            )
        return account

    def _printed(self, command: str, account: str, *flags: str) -> str:
        arguments = ("auth", command, "--quiet", *flags)
        output = output_of(self._program, arguments, COMMAND_SECONDS)
        text = (output or b"").strip().decode("ascii", "replace")
        if not text:
            raise SourceError(
                f"gcloud auth {command} failed for its active account {account}; run it by hand "
                "to see why, and `gcloud auth login` if the login has expired",
                code="gcloud_failed",
                permanent=True,
            )
        return text


def _json_object(output: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(output or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        sentence = "gcloud config list wrote something else than JSON"
        raise SourceError(sentence, code="source_nonsense")
    return found


def _text(properties: Mapping[str, Any], section: str, name: str) -> str:
    values = properties.get(section)
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, str) and value.isprintable() and len(value) < 255 else ""
