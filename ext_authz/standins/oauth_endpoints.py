"""Google's OAuth token endpoint and its security token service (STS)."""

from __future__ import annotations

from collections.abc import Collection

from ext_authz.standins import rs256
from ext_authz.standins.directory import ACCESS_TOKEN_LIFE_SECONDS, Directory
from ext_authz.standins.faults import Fault
from ext_authz.standins.issuer import Claims, Issuer
from ext_authz.standins.messages import Request, Response, json_response

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"
_MAX_ASSERTION_LIFE_SECONDS = 3600  # RFC 7523 as Google applies it; ten seconds of slack below


class OAuthEndpoints:
    """Answers /token (three grants) and /v1/token."""

    def __init__(self, issuer: Issuer, directory: Directory) -> None:
        self.issuer, self.directory = issuer, directory
        self.token_uris: set[str] = {GOOGLE_TOKEN_URI}  # what an assertion may name as its aud

    def token(self, request: Request, fault: Fault) -> Response:
        """Answer the OAuth token endpoint."""
        form = request.form
        grant = form.get("grant_type")
        if request.method != "POST":
            return oauth_error("invalid_request", "Only POST is supported.")
        if grant == JWT_BEARER:
            return self._assertion(form.get("assertion", ""), fault)
        if grant == "refresh_token":
            return self._refresh(form, fault)
        return oauth_error("unsupported_grant_type", f"Invalid grant_type: {grant}")

    def exchange(self, request: Request, fault: Fault) -> Response:
        """Answer the STS: a subject token of a known federation for an access token."""
        del fault
        # RFC 8693 allows forms only; Google's STS takes JSON as well.
        form = request.form if b"=" in request.body else {}
        form = form or {name: str(value) for name, value in request.json.items()}
        if form.get("grant_type") != TOKEN_EXCHANGE:
            return oauth_error("invalid_request", "Invalid or missing grant_type.")
        if form.get("requested_token_type") != ACCESS_TOKEN_TYPE:
            return oauth_error("invalid_request", "Unsupported requested_token_type.")
        audience, subject_token = form.get("audience", ""), form.get("subject_token", "")
        principal = self.directory.federated_principal(audience, subject_token)
        if principal is None:
            message = "The subject token was refused by the workload identity provider."
            return oauth_error("invalid_grant", message)
        scopes = tuple(form.get("scope", "").split())
        answer = self._access_token(principal, scopes)
        return json_response(200, answer | {"issued_token_type": ACCESS_TOKEN_TYPE})

    def _access_token(self, principal: str, scopes: Collection[str]) -> dict[str, object]:
        return {
            "access_token": self.directory.new_access_token(principal, tuple(scopes)),
            "expires_in": ACCESS_TOKEN_LIFE_SECONDS,
            "token_type": "Bearer",
        }

    def _assertion(self, assertion: str, fault: Fault) -> Response:
        claims = verified_assertion(assertion, self.directory, now=self.issuer.clock())
        if isinstance(claims, str):
            return oauth_error("invalid_grant", claims)
        email = str(claims["iss"])
        if claims.get("aud") not in self.token_uris:
            return oauth_error("invalid_grant", "Invalid JWT: Failed audience check.")
        if audience := claims.get("target_audience"):
            return json_response(200, {"id_token": self._id_token(str(audience), email, fault)})
        scopes = str(claims.get("scope", "")).split()
        if not scopes:
            return oauth_error("invalid_scope", "Invalid OAuth scope or ID token audience.")
        return json_response(200, self._access_token(email, scopes))

    def _refresh(self, form: dict[str, str], fault: Fault) -> Response:
        user = self.directory.user_of(form.get("refresh_token", ""))
        if user is None:
            return oauth_error("invalid_grant", "Token has been expired or revoked.")
        sent = (form.get("client_id"), form.get("client_secret"))
        if sent != (user.client_id, user.client_secret):
            return json_response(401, {"error": "invalid_client", "error_description": "No."})
        scopes = ("openid", "https://www.googleapis.com/auth/cloud-platform")
        answer = self._access_token(user.email, scopes)
        answer["scope"] = " ".join(scopes)
        answer["id_token"] = self._id_token(user.client_id, user.email, fault)
        return json_response(200, answer)

    def _id_token(self, audience: str, email: str, fault: Fault) -> str:
        claims = self.issuer.claims(audience, email)
        return self.issuer.sign(fault.tamper(claims) if fault.tamper else claims)


def oauth_error(code: str, description: str, status: int = 400) -> Response:
    """Return an error in the form of RFC 6749 section 5.2."""
    return json_response(status, {"error": code, "error_description": description})


def verified_assertion(assertion: str, directory: Directory, *, now: float) -> Claims | str:
    """Return the claims of a JWT that a known service account signed, or Google's complaint."""
    try:
        decoded = rs256.decode(assertion)
        claims = decoded.claims
        email = str(claims["iss"])
        issued, expiry = int(claims["iat"]), int(claims["exp"])
    except (ValueError, TypeError, KeyError):
        return "Bad Request"
    key = directory.key_of(email)
    if key is None:
        return "Invalid grant: account not found"
    if not rs256.verifies(key.public_key, decoded):
        return "Invalid JWT Signature."
    if not (issued - 300 <= now < expiry) or expiry - issued > _MAX_ASSERTION_LIFE_SECONDS + 10:
        return (
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable "
            "timeframe. Check your iat and exp values in the JWT claim."
        )
    return claims
