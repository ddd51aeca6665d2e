"""Tokens of a service account that another credential may act as, through IAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ext_authz.sources import AccessTokenSource
from ext_authz.sources.access_tokens import AccessToken, AccessTokens
from ext_authz.sources.iam import IamCredentials, Target
from ext_authz.sources.transport import RefusedError
from ext_authz.tokens import Fetched

T = TypeVar("T")


class ImpersonationSource:
    """Asks IAM with the access token of `source`: two servers, one after the other.

    `kind` and `found` say something else where impersonation is only the second half.
    """

    note = ""

    def __init__(
        self,
        source: AccessTokenSource,
        target: Target,
        endpoint: str = "",
        *,
        kind: str = "impersonation",
        found: str = "",
    ) -> None:
        self.kind = kind
        self.found = found or f"{target.email} by {source.kind} ({source.found})"
        self.member = f"serviceAccount:{target.email}"
        self.access = AccessTokens(self._mint)
        self._source = source
        self._iam = IamCredentials(target, source.member, endpoint)

    def fetch(self, audience: str) -> Fetched:
        """Return a newly minted token with the email claim. Raises SourceError."""
        return Fetched(self._with_access(lambda text: self._iam.id_token(text, audience)))

    def _mint(self) -> AccessToken:
        return self._with_access(self._iam.access_token)

    def _with_access(self, call: Callable[[str], T]) -> T:
        text = self._source.access.get()
        try:
            return call(text)
        except RefusedError as error:
            if error.status == 401:  # revoked before its time; the next attempt gets another
                self._source.access.drop(text)
                error.permanent = False
            raise
