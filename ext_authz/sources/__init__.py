"""Where tokens come from: one module per kind of credential, all behind `Source`."""

from __future__ import annotations

from typing import Protocol

from ext_authz.tokens import Fetched


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

    def fetch(self, audience: str) -> Fetched:
        """Return a new token for this audience. Raises SourceError within a few seconds."""
        ...
