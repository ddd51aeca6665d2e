"""Tokens of a person's login: the `authorized_user` files of gcloud auth application-default login.

Their audience is the OAuth client that the person logged in through; it cannot be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.sources.access_tokens import AccessTokens, token_of
from ext_authz.sources.endpoints import EndpointGuard, check_universe
from ext_authz.sources.google_errors import advised, translated
from ext_authz.sources.transport import BoundedTransport, RefusedError
from ext_authz.tokens import Fetched

GCLOUD_CLIENT_ID = "32555940559.apps.googleusercontent.com"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
LOGIN = "gcloud auth application-default login"


def audience_note(client_id: str) -> str:
    """Say what the audience of a person's token is, and who takes it (google-facts, [field])."""
    return (
        f"a person's token always has the audience {client_id}, whatever the rule says; Cloud Run "
        f"is known to take it only from gcloud's own client ({GCLOUD_CLIENT_ID}), and other "
        "receivers refuse it: impersonate a service account instead"
    )


class UserSource:
    """Exchanges the refresh token; one grant gives an access token and an ID token."""

    kind = "user login"
    member = "user:YOUR_EMAIL"

    def __init__(self, info: Mapping[str, Any], found: str, guard: EndpointGuard) -> None:
        """Raises SourceError `bad_user_file` when the file is not a login."""
        self.found = found
        for name in ("client_id", "client_secret", "refresh_token"):
            if not isinstance(info.get(name), str) or not info[name]:
                sentence = f"{found}: expected a text under {name}; log in again with `{LOGIN}`"
                raise SourceError(sentence, code="bad_user_file", permanent=True)
        self._client_id = str(info["client_id"])
        self._client_secret = str(info["client_secret"])
        self._refresh_token = str(info["refresh_token"])
        self._token_uri = str(info.get("token_uri") or TOKEN_URI)
        guard.check(self._token_uri, f"token_uri of {found}")
        check_universe(info, found, guard)
        self.note = audience_note(self._client_id)
        self.access = AccessTokens(lambda: token_of(self._refreshed()))
        self._transport = BoundedTransport("the token endpoint")

    def fetch(self, audience: str) -> Fetched:
        """Return a token for the login's own client, whatever `audience` is. Raises SourceError."""
        token = self._refreshed().id_token
        if not isinstance(token, str):
            raise SourceError(
                f"the login at {self.found} gives no ID token: it lacks the scope openid; "
                f"log in again with `{LOGIN}`",
                code="no_id_token",
                permanent=True,
            )
        return Fetched(token, audience=self._client_id)

    def _refreshed(self) -> Any:
        from google.oauth2.credentials import Credentials

        credentials = Credentials(  # type: ignore[no-untyped-call]
            None,
            refresh_token=self._refresh_token,
            token_uri=self._token_uri,
            client_id=self._client_id,
            client_secret=self._client_secret,
        )
        with advised(_advice), translated(f"the token endpoint of {self.found}"):
            credentials.refresh(self._transport)  # type: ignore[no-untyped-call]
        return credentials


def _advice(error: RefusedError) -> tuple[str, str]:
    if error.status in (400, 401):
        return f"the login has expired or was revoked; log in again with `{LOGIN}`", "login_refused"
    return "", ""
