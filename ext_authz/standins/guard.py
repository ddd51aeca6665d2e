"""Decides as a private Cloud Run service does whether a request may reach the app; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ext_authz.standins.issuer import Claims
from ext_authz.standins.verifier import TokenRejectedError, TokenVerifier

SERVERLESS_HEADER = "x-serverless-authorization"
REMOVED_SIGNATURE = "SIGNATURE_REMOVED_BY_GOOGLE"
INVALID_TOKEN_CHALLENGE = (
    'Bearer error="invalid_token" error_description="The access token could not be verified"'
)
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may pass: whose token it was, and what the app sees of the headers."""

    claims: Claims
    headers: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The request may not pass; `reason` is for the test that asks, never sent to the client.

    Status 401 means a token that did not verify, 403 no token or an identity without the
    invoker role, as users report of Cloud Run.
    """

    status: int
    reason: str


class Guard:
    """Verifies the token of each request. Its sets may be changed while it serves.

    `audiences` holds every accepted `aud`; `invokers` the e-mails (or `sub` values) with the
    invoker role, None for anybody whose token verifies.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        audiences: Iterable[str],
        invokers: Iterable[str] | None = None,
    ) -> None:
        self.verifier = verifier
        self.audiences = set(audiences)
        self.invokers = None if invokers is None else set(invokers)

    def check(self, headers: Headers) -> Admitted | Refused:
        """Judge a request by its headers (names in any case)."""
        values = {name.lower(): value for name, value in headers}
        # Google: if both are there, only X-Serverless-Authorization is checked.
        credential = values.get(SERVERLESS_HEADER, values.get("authorization"))
        if credential is None:
            return Refused(403, "no_token")
        scheme, _, token = credential.partition(" ")
        if scheme.lower() != "bearer":
            return Refused(401, "not_a_bearer_token")
        try:
            claims = self.verifier.verify(token.strip(), self.audiences)
        except TokenRejectedError as error:
            return Refused(401, error.reason)
        if not self._invokes(claims):
            return Refused(403, "not_an_invoker")
        return Admitted(claims, without_signature(headers))

    def _invokes(self, claims: Claims) -> bool:
        if self.invokers is None:
            return True
        return bool(self.invokers & {str(claims.get("email")), str(claims.get("sub"))})


def without_signature(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return the headers as the container sees them: Google takes the signature away."""
    return tuple(
        (name, f"{value.rpartition('.')[0]}.{REMOVED_SIGNATURE}")
        if name.lower() == SERVERLESS_HEADER
        else (name, value)
        for name, value in headers
    )


def refusal_page(refused: Refused, url: str) -> str:
    """Return the HTML that Google's front end answers a refused request with."""
    if refused.status == 401:
        title, text = "401 Unauthorized", "Your client does not have valid credentials"
        sentence = f"{text} to get URL <code>{url}</code> from this server."
    else:
        title = "403 Forbidden"
        sentence = (
            f"Your client does not have permission to get URL <code>{url}</code> from this server."
        )
    heading = f"<h1>Error: {'Unauthorized' if refused.status == 401 else 'Forbidden'}</h1>"
    return (
        f"\n<html><head>\n<title>{title}</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        f"{heading}\n<h2>{sentence}</h2>\n<h2></h2>\n</body></html>\n"
    )
