"""A Bearer token of one's own, from an environment variable or a file that is re-read."""

from __future__ import annotations

import re

from ext_authz.errors import SourceError
from ext_authz.settings import EnvSecret, Secret
from ext_authz.sources.secret_files import read_secret
from ext_authz.tokens import MAX_TOKEN_LENGTH, Fetched

FILE_RECHECK_SECONDS = 1.0  # a rotated file is seen at the next request after a second
ENVIRONMENT_RECHECK_SECONDS = 86_400.0  # it cannot change while we run
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)  # RFC 6750 section 2.1, b64token


class StaticSource:
    """Hands over the token as it is; it has no audience and no expiry that we know of."""

    kind = "static token"
    note = "it has no audience and goes only to the hosts that its rules name"

    def __init__(self, secret: Secret) -> None:
        """Raises SourceError `bad_token_file` when there is no usable token now."""
        self.found = str(secret)
        self._secret = secret
        self.fetch("")

    def fetch(self, audience: str) -> Fetched:
        """Return the token that stands there now. Raises SourceError."""
        text = read_secret(self._secret, "bad_token_file").strip().decode("ascii", "replace")
        if len(text) > MAX_TOKEN_LENGTH or not _TOKEN.fullmatch(text):
            raise SourceError(
                f"{self.found}: expected one Bearer token (RFC 6750) and nothing else",
                code="bad_token_file",
                permanent=True,
            )
        in_environment = isinstance(self._secret, EnvSecret)
        recheck = ENVIRONMENT_RECHECK_SECONDS if in_environment else FILE_RECHECK_SECONDS
        return Fetched(text, recheck_seconds=recheck)
