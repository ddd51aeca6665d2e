"""Tokens of the machine's own identity, from the metadata server."""

from __future__ import annotations

from typing import Any

from ext_authz.errors import SourceError
from ext_authz.sources.google_errors import translated
from ext_authz.sources.transport import BoundedTransport
from ext_authz.tokens import Fetched

DEFAULT_HOST = "metadata.google.internal"


class MetadataSource:
    """Asks `instance/service-accounts/default/identity?format=full` through google-auth.

    `hint` is added to the sentence when the server cannot be reached at all.
    """

    kind = "metadata server"

    def __init__(self, host: str = "", *, hint: str = "") -> None:
        self.found = host or DEFAULT_HOST
        self._hint = hint
        self._transport = BoundedTransport("the metadata server")

    def fetch(self, audience: str) -> Fetched:
        """Return a token, perhaps one already partly used. Raises SourceError."""
        try:
            with translated(f"the metadata server at {self.found}"):
                return self._fetch(audience)
        except SourceError as error:
            if self._hint and error.code in ("source_unreachable", "source_slow"):
                error.message = f"{error.message}; {self._hint}"
            raise

    def _fetch(self, audience: str) -> Fetched:
        # Imported when first needed: half a second that a warm start does not wait for.
        from google.auth.compute_engine import IDTokenCredentials

        credentials: Any = IDTokenCredentials(  # type: ignore[no-untyped-call]
            None,  # with a transport here it would make an extra call of up to five attempts
            audience,
            use_metadata_identity_endpoint=True,
            # A certificate-bound token is useless once Envoy sends it over another connection.
            bind_id_token=False,
        )
        credentials.refresh(self._transport)
        return Fetched(credentials.token, mints_anew=False)
