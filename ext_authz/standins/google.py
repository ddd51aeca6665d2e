"""One loopback server that stands in for all of Google's token issuers."""

from __future__ import annotations

import time
from typing import Any

from ext_authz.standins.directory import Directory
from ext_authz.standins.faults import Fault
from ext_authz.standins.iam_credentials import IamCredentials, call_of, google_error
from ext_authz.standins.issuer import Clock, Issuer, SigningKey
from ext_authz.standins.messages import Request, Response, json_response
from ext_authz.standins.metadata_server import PREFIX, MetadataServer
from ext_authz.standins.oauth_endpoints import (
    GOOGLE_TOKEN_URI,
    OAuthEndpoints,
)
from ext_authz.standins.recording_server import RecordingServer

# The kinds of endpoint: the words for `fail`, `heal`, `count` and `requests_of`.
IDENTITY = "identity"  # metadata server: …/identity
METADATA = "metadata"  # metadata server: ping, project, region, e-mail
METADATA_TOKEN = "metadata_token"  # metadata server: …/token (access tokens)
TOKEN = "token"  # OAuth token endpoint
STS = "sts"
GENERATE_ID_TOKEN = "generate_id_token"
GENERATE_ACCESS_TOKEN = "generate_access_token"
CERTS = "certs"  # JWKS and PEM certificates
SUBJECT_TOKEN = "subject_token"  # a federation's own token server (external_account url source)
UNKNOWN = "unknown"

_CALLS = {"generateIdToken": GENERATE_ID_TOKEN, "generateAccessToken": GENERATE_ACCESS_TOKEN}
_PATHS = {
    "/": METADATA,
    "/token": TOKEN,
    "/v1/token": STS,
    "/oauth2/v3/certs": CERTS,
    "/oauth2/v1/certs": CERTS,
    "/subject-token": SUBJECT_TOKEN,
}


class GoogleStandIn(RecordingServer):
    """Metadata server, OAuth token endpoint, IAM credentials, STS and JWKS on one port.

    A context manager. `issuer` mints and can be asked for tokens directly, `metadata` holds
    the instance's facts, `directory` the principals and grants.
    """

    def __init__(
        self,
        issuer: Issuer | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`public_url` is what credential files name when that is not http://host:port."""
        self.issuer = issuer or Issuer(clock=clock)
        self.directory = Directory(self.issuer.clock)
        self.metadata = MetadataServer(self.issuer, self.directory)
        self.oauth = OAuthEndpoints(self.issuer, self.directory)
        self.iam = IamCredentials(self.issuer, self.directory)
        self.subject_token = "local-subject-token"
        self._public_url = public_url
        super().__init__(self._answer, kind_of, host=host, port=port, clock=self.issuer.clock)

    @property
    def public_url(self) -> str:
        """The base URL that clients use."""
        return self._public_url or self.url

    @property
    def metadata_host(self) -> str:
        """host:port, the value for GCE_METADATA_HOST and GCE_METADATA_IP."""
        return self.public_url.partition("://")[2]

    @property
    def jwks_url(self) -> str:
        """Where the keys that verify ID tokens are published."""
        return f"{self.public_url}/oauth2/v3/certs"

    @property
    def certificates_url(self) -> str:
        """The same keys as PEM certificates, for google.oauth2.id_token."""
        return f"{self.public_url}/oauth2/v1/certs"

    @property
    def token_uri(self) -> str:
        """The OAuth token endpoint."""
        return f"{self.public_url}/token"

    @property
    def sts_url(self) -> str:
        """The security token service."""
        return f"{self.public_url}/v1/token"

    def environment(self) -> dict[str, str]:
        """Variables that make google-auth's metadata client come here."""
        host = self.metadata_host
        return {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GCE_METADATA_ROOT": host}

    def service_account_key(self, email: str, key: SigningKey | None = None) -> dict[str, str]:
        """Return a service account key file's content; its token_uri points here.

        A fresh RSA key takes about 0.1 s: `key` saves that where many are made.
        """
        key = self.directory.make_key(email, key)
        self.oauth.token_uris |= {GOOGLE_TOKEN_URI, self.token_uri}
        return {
            "type": "service_account",
            "project_id": self.metadata.project_id,
            "private_key_id": key.key_id,
            "private_key": key.private_pem,
            "client_email": email,
            "client_id": "100000000000000000001",
            "token_uri": self.token_uri,
            "universe_domain": "googleapis.com",
        }

    def authorized_user_file(self, email: str = "person@example.com") -> dict[str, str]:
        """Return what `gcloud auth application-default login` would write for `email`."""
        user = self.directory.add_user(email)
        return {
            "type": "authorized_user",
            "client_id": user.client_id,
            "client_secret": user.client_secret,
            "refresh_token": user.refresh_token,
            "token_uri": self.token_uri,
            "universe_domain": "googleapis.com",
        }

    def external_account_file(
        self,
        *,
        subject: str = "workload",
        impersonate: str | None = None,
        credential_source: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a workload identity federation file and let its subject token be accepted.

        Without `credential_source` the subject token is read from this server's
        /subject-token. With `impersonate` that account trusts the federated principal.
        """
        pool = (
            f"projects/{self.metadata.project_number}/locations/global/workloadIdentityPools/local"
        )
        audience = f"//iam.googleapis.com/{pool}/providers/local"
        principal = f"principal://iam.googleapis.com/{pool}/subject/{subject}"
        self.directory.federate(audience, lambda t: principal if t == self.subject_token else None)
        content: dict[str, Any] = {
            "type": "external_account",
            "audience": audience,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": self.sts_url,
            "credential_source": credential_source or {"url": f"{self.public_url}/subject-token"},
            "universe_domain": "googleapis.com",
        }
        if impersonate:
            self.directory.grant_token_creator(impersonate, principal)
            path = f"/v1/projects/-/serviceAccounts/{impersonate}:generateAccessToken"
            content["service_account_impersonation_url"] = self.public_url + path
        return content

    def impersonated_file(
        self, target: str, source: dict[str, Any], *, delegates: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return an impersonated_service_account file; grants are left to the caller."""
        path = f"/v1/projects/-/serviceAccounts/{target}:generateAccessToken"
        return {
            "type": "impersonated_service_account",
            "delegates": list(delegates),
            "service_account_impersonation_url": self.public_url + path,
            "source_credentials": source,
        }

    def _answer(self, request: Request, fault: Fault) -> Response:
        match request.kind:
            case "identity" | "metadata" | "metadata_token":
                return self.metadata.answer(request, fault)
            case "token":
                self.oauth.token_uris.add(self.token_uri)
                return self.oauth.token(request, fault)
            case "sts":
                return self.oauth.exchange(request, fault)
            case "generate_id_token" | "generate_access_token":
                return self.iam.answer(request, fault)
            case "certs":
                pem = request.path == "/oauth2/v1/certs"
                return json_response(200, self.issuer.certificates() if pem else self.issuer.jwks())
            case "subject_token":
                return Response(200, self.subject_token.encode())
            case _:
                return google_error(404, "NOT_FOUND", "Requested entity was not found.")


def kind_of(method: str, path: str) -> str:
    """Return the kind of endpoint that a path belongs to."""
    del method
    if path in _PATHS:
        return _PATHS[path]
    if path.startswith(PREFIX):
        entry = path.rpartition("/")[2]
        return {"identity": IDENTITY, "token": METADATA_TOKEN}.get(entry, METADATA)
    call = call_of(path)
    return _CALLS[call[0]] if call else UNKNOWN
