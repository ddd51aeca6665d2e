"""The IAM Service Account Credentials API: tokens of a service account that we may act as.

Called by ourselves, because google-auth's way has the endpoint as a constant, no bound in time and
errors that hold the answer. https://cloud.google.com/iam/docs/reference/credentials/rest
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ext_authz.sources.access_tokens import CLOUD_PLATFORM_SCOPE, AccessToken
from ext_authz.sources.google_errors import advised, translated
from ext_authz.sources.transport import BoundedTransport, RefusedError

ENDPOINT = "https://iamcredentials.googleapis.com"
_PREFIX = "projects/-/serviceAccounts/"  # the `-` is Google's wildcard: the email says the project
_LIFE_SECONDS = 3600
_PERMISSIONS = {
    "generateIdToken": "iam.serviceAccounts.getOpenIdToken",
    "generateAccessToken": "iam.serviceAccounts.getAccessToken",
}
_TOKEN_CREATOR = "roles/iam.serviceAccountTokenCreator"  # noqa: S105 - the name of a role


@dataclass(frozen=True, slots=True)
class Target:
    """The service account to act as, and those in between, nearest to the caller first."""

    email: str
    delegates: tuple[str, ...] = ()


class IamCredentials:
    """Both calls for one target. `member` is the caller's name in an IAM policy."""

    def __init__(self, target: Target, member: str, endpoint: str = "") -> None:
        self._target = target
        self._member = member
        self._endpoint = (endpoint or ENDPOINT).rstrip("/")
        self._transport = BoundedTransport("the IAM Credentials API")

    def id_token(self, access_token: str, audience: str) -> str:
        """Return an ID token with the email claim. Raises SourceError."""
        body = {"audience": audience, "includeEmail": True}
        return str(self._call("generateIdToken", access_token, body, "token"))

    def access_token(self, access_token: str) -> AccessToken:
        """Return an access token of the target. Raises SourceError."""
        body = {"scope": [CLOUD_PLATFORM_SCOPE], "lifetime": f"{_LIFE_SECONDS}s"}
        text = self._call("generateAccessToken", access_token, body, "accessToken")
        return AccessToken(text, _LIFE_SECONDS)

    def _call(self, call: str, access_token: str, body: Mapping[str, object], field: str) -> Any:
        delegates = [_PREFIX + email for email in self._target.delegates]
        content = json.dumps({**body, "delegates": delegates}).encode()
        headers = {"authorization": f"Bearer {access_token}", "content-type": "application/json"}
        url = f"{self._endpoint}/v1/{_PREFIX}{self._target.email}:{call}"
        with (
            advised(lambda error: self._advice(error, call)),
            translated(f"the IAM Credentials API at {self._endpoint}"),
        ):
            return json.loads(self._transport(url, "POST", content, headers).data)[field]

    def _advice(self, error: RefusedError, call: str) -> tuple[str, str]:
        email = self._target.email
        match error.status:
            case 403:
                return self._forbidden(error.words, call), "iam_permission_denied"
            case 404:
                return (
                    f"there is no service account {email}; see "
                    "`gcloud iam service-accounts list --project PROJECT`",
                    "iam_account_not_found",
                )
            case 400:
                return f"check the audience, {email} and the delegates", "iam_bad_request"
            case 401:
                return "it did not accept the access token of the source", "iam_unauthenticated"
            case 429:
                return "too many requests for this project's quota; wait", "iam_throttled"
        return "", ""

    def _forbidden(self, words: list[str], call: str) -> str:
        if "SERVICE_DISABLED" in words:
            return "enable it with `gcloud services enable iamcredentials.googleapis.com`"
        if "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in words:
            return "the source's access token needs the scope cloud-platform"
        chain = [*self._target.delegates, self._target.email]
        permission = _PERMISSIONS[call]
        first = _grant(chain[0], self._member, self._role(call))
        if len(chain) == 1:
            return f"{self._member} needs {permission} on {chain[0]}: {first}"
        return (
            f"each of {self._member} -> {' -> '.join(chain)} needs {_TOKEN_CREATOR} "
            f"on the next, the first for instance by {first}"
        )

    def _role(self, call: str) -> str:
        if self._member.startswith("principal"):
            return "roles/iam.workloadIdentityUser"
        own = call == "generateIdToken" and not self._target.delegates
        return "roles/iam.serviceAccountOpenIdTokenCreator" if own else _TOKEN_CREATOR


def _grant(account: str, member: str, role: str) -> str:
    return (
        f"`gcloud iam service-accounts add-iam-policy-binding {shlex.quote(account)} "
        f"--member={shlex.quote(member)} --role={role}`"
    )
