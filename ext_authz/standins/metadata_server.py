"""The metadata server's answers: identity and access tokens, project, region, service account."""

from __future__ import annotations

import threading

from ext_authz.standins.directory import ACCESS_TOKEN_LIFE_SECONDS, Directory
from ext_authz.standins.faults import Fault
from ext_authz.standins.issuer import Issuer, subject_of
from ext_authz.standins.messages import Request, Response, json_response, text_response

PREFIX = "/computeMetadata/v1/"
CLOUD_PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# The real server hands back its cached token until about 4 minutes before expiry.
CACHE_MARGIN_SECONDS = 240


class MetadataServer:
    """Answers for one instance. Attributes may be changed while it serves.

    `email` is the default service account, None for an instance without one; with `caches`
    the same token is handed back until 4 minutes before its expiry, as on Google Cloud.
    """

    def __init__(self, issuer: Issuer, directory: Directory) -> None:
        self.issuer, self.directory = issuer, directory
        self.email: str | None = "sender@local-project.iam.gserviceaccount.com"
        self.project_id = "local-project"
        self.project_number = "123456789012"
        self.region = "europe-west1"
        self.caches = True
        self._cached: dict[tuple[str, str, str, str], tuple[str, int]] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request, fault: Fault) -> Response:
        """Answer one request as the metadata server does."""
        if request.method != "GET" or (request.header("X-Forwarded-For") is not None):
            return _flavored(text_response(403, "Forbidden"))
        if request.path == "/":
            return _flavored(text_response(200, "computeMetadata/\n", "application/text"))
        if request.header("Metadata-Flavor") != "Google":
            return _flavored(text_response(403, "Missing Metadata-Flavor:Google header."))
        return _flavored(self._entry(request, fault))

    def forget_tokens(self) -> None:
        """Empty the server's own token cache."""
        with self._lock:
            self._cached.clear()

    def _entry(self, request: Request, fault: Fault) -> Response:
        path = request.path.removeprefix(PREFIX).rstrip("/")
        plain = {
            "project/project-id": self.project_id,
            "project/numeric-project-id": self.project_number,
            "instance/region": f"projects/{self.project_number}/regions/{self.region}",
            "instance/zone": f"projects/{self.project_number}/zones/{self.region}-1",
            "universe/universe-domain": "googleapis.com",
        }
        if path in plain:
            return text_response(200, plain[path], "application/text")
        account, _, entry = path.removeprefix("instance/service-accounts/").partition("/")
        if self.email is None or account not in ("default", self.email):
            return text_response(404, "not found")
        return self._account_entry(self.email, entry, request, fault)

    def _account_entry(self, email: str, entry: str, request: Request, fault: Fault) -> Response:
        if entry == "identity":
            return self._identity(email, request, fault)
        if entry == "email":
            return text_response(200, email, "application/text")
        if entry == "token":
            return self._access_token(email, request)
        if entry == "scopes":
            return text_response(200, CLOUD_PLATFORM_SCOPE + "\n", "application/text")
        if entry == "" and request.query.get("recursive", "").lower() == "true":
            account = {"aliases": ["default"], "email": email, "scopes": [CLOUD_PLATFORM_SCOPE]}
            return json_response(200, account)
        return text_response(404, "not found")

    def _access_token(self, email: str, request: Request) -> Response:
        scopes = tuple(request.query.get("scopes", CLOUD_PLATFORM_SCOPE).split(","))
        token = self.directory.new_access_token(email, scopes)
        answer = {
            "access_token": token,
            "expires_in": ACCESS_TOKEN_LIFE_SECONDS,
            "token_type": "Bearer",
        }
        return json_response(200, answer)

    def _identity(self, email: str, request: Request, fault: Fault) -> Response:
        audience = request.query.get("audience", "")
        if not audience:
            return text_response(400, "non-empty audience parameter required")
        shape = request.query.get("format", "standard")
        licenses = request.query.get("licenses", "FALSE")
        key = (email, audience, shape, licenses)
        now = self.issuer.clock()
        with self._lock:
            token, expiry = self._cached.get(key, ("", 0))
        if not self.caches or fault.tamper or expiry - now <= CACHE_MARGIN_SECONDS:
            token, expiry = self._mint(key, fault)
        return text_response(200, token, "text/html; charset=utf-8")

    def _mint(self, key: tuple[str, str, str, str], fault: Fault) -> tuple[str, int]:
        email, audience, shape, licenses = key
        claims = self.issuer.claims(audience, email, with_email=shape == "full")
        if shape == "full":
            claims["google"] = {"compute_engine": self._instance(email, licenses)}
        expiry = int(claims["exp"])
        token = self.issuer.sign(fault.tamper(claims) if fault.tamper else claims)
        if not fault.tamper:
            with self._lock:
                self._cached[key] = (token, expiry)
        return token, expiry

    def _instance(self, email: str, licenses: str) -> dict[str, object]:
        instance: dict[str, object] = {
            "project_id": self.project_id,
            "project_number": int(self.project_number),
            "zone": f"{self.region}-1",
            "instance_id": subject_of(email)[:18],
            "instance_name": "local",
        }
        return instance | ({"license_id": ["1"]} if licenses.upper() == "TRUE" else {})


def _flavored(response: Response) -> Response:
    headers = (*response.headers, ("Metadata-Flavor", "Google"), ("Server", "Metadata Server"))
    return Response(response.status, response.body, headers)
