"""Workload identity federation: a foreign token is exchanged at Google's STS for an access token.

That names a federated principal, for which Google mints no ID token: it acts as a service account.
"""

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
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.federation_file import FederationFile, read_federation
from ext_authz.sources.google_errors import advised, translated
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.secret_files import read_secret
from ext_authz.sources.transport import BoundedTransport, RefusedError

KIND = "workload identity federation"


class FederatedPrincipal:
    """The foreign identity: it has access tokens only."""

    kind = KIND

    def __init__(self, file: FederationFile, found: str) -> None:
        """Raises SourceError `bad_federation_file` when google-auth cannot use the file."""
        self.found = found
        self.member = file.member
        self.access = AccessTokens(self._mint)
        self._file = file
        names = {file.token_url: "the security token service"}
        if file.source == "aws":
            names = {**names, "http": "AWS's metadata server"}
        self._transport = BoundedTransport("the subject token's server", names)
        expected = f"{found}: expected credentials that google-auth can use ({file.source})"
        with translated("", sentence=expected, code="bad_federation_file", permanent=True):
            self._credentials = _google_credentials(file)
        # Asked through us, so that what goes wrong before the exchange has its own sentence.
        self._google_subject_token = self._credentials.retrieve_subject_token
        self._credentials.retrieve_subject_token = self._subject_token

    def _mint(self) -> AccessToken:
        with advised(self._advice), translated("the security token service"):
            self._credentials.refresh(self._transport)
            return token_of(self._credentials)

    def _subject_token(self, transport: BoundedTransport) -> str:
        if (file := self._file.subject_file) is not None:
            read_secret(file, "bad_subject_token")  # bounded, with a sentence for each fault
        sentence = f"the {self._file.source} that {self.found} names gave no usable subject token"
        with translated("", sentence=sentence, code="bad_subject_token"):
            token = self._google_subject_token(transport)
            if not isinstance(token, str) or not token.strip():
                raise ValueError
            return token

    def _advice(self, error: RefusedError) -> tuple[str, str]:
        if error.url != self._file.token_url:
            return "", ""
        if error.status in (400, 401, 403):
            return (
                f"the provider {self._file.audience} did not take the subject token: check its "
                "issuer, its audiences and its attribute condition, and that it still exists",
                "sts_refused",
            )
        return "", ""


def workload_source(
    info: Mapping[str, Any],
    found: str,
    guard: EndpointGuard,
    *,
    email: str = "",
    iam_endpoint: str = "",
    allow_executables: bool = False,
) -> ImpersonationSource:
    """Return the source of a federation file; `email` and `iam_endpoint` win over the file's.

    Raises SourceError, `no_service_account` if nobody names the account to act as.
    """
    file = read_federation(info, found, guard, allow_executables=allow_executables)
    account = email or file.email
    if not account:
        raise _no_account(found)
    principal = FederatedPrincipal(file, found)
    shown = f"{found} ({file.source}), acting as {account}"
    return ImpersonationSource(
        principal, Target(account), iam_endpoint or file.iam_endpoint, kind=KIND, found=shown
    )


def _no_account(found: str) -> SourceError:
    return SourceError(
        f"{found}: federation alone gives no ID token: name the service account to act as under "
        "impersonate, or in the file's service_account_impersonation_url",
        code="no_service_account",
        permanent=True,
    )


def _google_credentials(file: FederationFile) -> Any:
    from google.auth import aws, identity_pool, pluggable

    kinds: dict[str, Any] = {"aws": aws.Credentials, "executable": pluggable.Credentials}
    kind = kinds.get(file.source, identity_pool.Credentials)
    names = (
        "audience",
        "subject_token_type",
        "credential_source",
        "client_id",
        "client_secret",
        "workforce_pool_user_project",
        "universe_domain",
    )
    chosen = {name: file.info[name] for name in names if file.info.get(name) is not None}
    # Without the impersonation URL: that way leads to access tokens only, and not through us.
    credentials = kind.from_info({**chosen, "token_url": file.token_url})
    return credentials.with_scopes([CLOUD_PLATFORM_SCOPE])
