"""IAM Service Account Credentials: generateIdToken and generateAccessToken, with delegation."""

from __future__ import annotations

import datetime
import itertools
import re
from urllib.parse import unquote

from ext_authz.standins.directory import ACCESS_TOKEN_LIFE_SECONDS, Directory
from ext_authz.standins.faults import Fault
from ext_authz.standins.issuer import Issuer
from ext_authz.standins.messages import Request, Response, json_response
from ext_authz.standins.oauth_endpoints import verified_assertion

_PATH = re.compile(
    r"/v1/projects/-/serviceAccounts/(?P<email>[^/:]+):(?P<call>generateIdToken|generateAccessToken)"
)
_ACCOUNT_PREFIX = "projects/-/serviceAccounts/"
_PERMISSIONS = {
    "generateIdToken": "iam.serviceAccounts.getOpenIdToken",
    "generateAccessToken": "iam.serviceAccounts.getAccessToken",
}


def call_of(path: str) -> tuple[str, str] | None:
    """Return (method, e-mail) when `path` is one of the two calls."""
    match = _PATH.fullmatch(unquote(path))
    return (match["call"], match["email"]) if match else None


class IamCredentials:
    """Answers both calls; a caller needs the token creator grant on each link of the chain."""

    def __init__(self, issuer: Issuer, directory: Directory) -> None:
        self.issuer, self.directory = issuer, directory

    def answer(self, request: Request, fault: Fault) -> Response:
        """Answer one call."""
        target = call_of(request.path)
        if target is None or request.method != "POST":
            return google_error(404, "NOT_FOUND", "Requested entity was not found.")
        call, email = target
        caller = self._caller(request)
        if caller is None:
            message = "Request had invalid authentication credentials."
            return google_error(401, "UNAUTHENTICATED", message)
        if not self.directory.service_account_exists(email):
            message = f"Not found; Gaia id not found for email {email}"
            return google_error(404, "NOT_FOUND", message)
        if not self._may(caller, email, request.json.get("delegates") or []):
            return _permission_denied(_PERMISSIONS[call])
        if call == "generateIdToken":
            return self._id_token(email, request, fault)
        return self._access_token(email, request)

    def _caller(self, request: Request) -> str | None:
        """Return who calls: the owner of an access token or of a self-signed JWT."""
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        if found := self.directory.access_token(token):
            return found.principal
        claims = verified_assertion(token, self.directory, now=self.issuer.clock())
        return None if isinstance(claims, str) else str(claims["iss"])

    def _may(self, caller: str, email: str, delegates: list[object]) -> bool:
        chain = [caller, *(str(name).removeprefix(_ACCOUNT_PREFIX) for name in delegates), email]
        links = itertools.pairwise(chain)
        return all(self.directory.may_create_tokens(one, other) for one, other in links)

    def _id_token(self, email: str, request: Request, fault: Fault) -> Response:
        audience = request.json.get("audience")
        if not isinstance(audience, str) or not audience:
            message = "Request contains an invalid argument: audience."
            return google_error(400, "INVALID_ARGUMENT", message)
        with_email = request.json.get("includeEmail") is True
        claims = self.issuer.claims(audience, email, with_email=with_email)
        token = self.issuer.sign(fault.tamper(claims) if fault.tamper else claims)
        return json_response(200, {"token": token})

    def _access_token(self, email: str, request: Request) -> Response:
        scopes = request.json.get("scope")
        if not isinstance(scopes, list) or not scopes:
            message = "Request contains an invalid argument: scope."
            return google_error(400, "INVALID_ARGUMENT", message)
        token = self.directory.new_access_token(email, tuple(map(str, scopes)))
        expires_at = self.issuer.clock() + ACCESS_TOKEN_LIFE_SECONDS
        expiry = datetime.datetime.fromtimestamp(int(expires_at), datetime.UTC)
        answer = {"accessToken": token, "expireTime": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return json_response(200, answer)


def google_error(status: int, word: str, message: str, details: object = None) -> Response:
    """Return an error in the form of Google's JSON APIs (google.rpc.Status)."""
    error: dict[str, object] = {"code": status, "message": message, "status": word}
    if details is not None:
        error["details"] = details
    return json_response(status, {"error": error})


def _permission_denied(permission: str) -> Response:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "IAM_PERMISSION_DENIED",
        "domain": "iam.googleapis.com",
        "metadata": {"permission": permission},
    }
    message = f"Permission '{permission}' denied on resource (or it may not exist)."
    return google_error(403, "PERMISSION_DENIED", message, [info])
