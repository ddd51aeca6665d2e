"""Where tokens come from: one module per kind of credential, all behind `Source`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ext_authz.tokens import Fetched

if TYPE_CHECKING:
    from ext_authz.sources.access_tokens import AccessTokens


class Source(Protocol):
    """One credential. Its methods block and run on a worker thread."""

    @property
    def kind(self) -> str:
        """Say what it is, for people: `metadata server`, `service account key`."""
        ...

    @property
    def found(self) -> str:
        """Where it was found: a path, the name of an environment variable, an address."""
        ...

    @property
    def note(self) -> str:
        """What a person should know about its tokens, for `explain`; empty where nothing."""
        ...

    def fetch(self, audience: str) -> Fetched:
        """Return a new token for this audience. Raises SourceError.

        It takes a few seconds at most for each server that has to be asked.
        """
        ...


class AccessTokenSource(Protocol):
    """A credential that Google's APIs take: what impersonation starts from."""

    @property
    def kind(self) -> str:
        """As in Source."""
        ...

    @property
    def found(self) -> str:
        """As in Source."""
        ...

    @property
    def member(self) -> str:
        """Its name in an IAM policy (`serviceAccount:…`), or words in its place if unknown."""
        ...

    @property
    def access(self) -> AccessTokens:
        """Its access tokens, scope cloud-platform."""
        ...


class IdentitySource(Source, AccessTokenSource, Protocol):
    """A credential that gives both kinds of token."""
